"""The authors' Janus checkpoint, read, gives the authors' numbers; written back, it is the same."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoProcessor, JanusForConditionalGeneration, PreTrainedTokenizerFast

from sightloop.models.janus.checkpoint import (
    SPECIAL_TOKENS,
    read_janus,
    read_janus_tokenizer,
    write_janus,
    write_official_janus,
)
from sightloop.models.weight_files import read_weights

LOGITS = 1e-4


@pytest.fixture(scope="module")
def golden(oracles: Path) -> dict[str, Tensor]:
    """Inputs and what the official code made of them."""
    return load_file(oracles / "janus" / "golden.safetensors")


@pytest.fixture(scope="module")
def meta(oracles: Path) -> dict[str, Any]:
    """Sizes and ids."""
    return json.loads((oracles / "janus" / "meta.json").read_text())


@pytest.fixture(scope="module")
def official(oracles: Path, meta: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden weights as a folder of the authors, with a tokenizer of as many words as the model knows."""
    folder = tmp_path_factory.mktemp("official")
    weights = load_file(oracles / "janus" / "weights.safetensors")
    save_file(
        {k: v.float() if v.is_floating_point() else v for k, v in weights.items()},
        folder / "model.safetensors",
    )
    config = copy.deepcopy({**meta["config"], "model_type": "multi_modality"})
    config["vision_config"]["params"]["num_heads"] = meta["vision_tower"]["heads"]
    (folder / "config.json").write_text(json.dumps(config))
    written = {
        "bos": "<s>",
        "eos": "</s>",
        "pad": "<pad>",
        "image_placeholder": SPECIAL_TOKENS["image_token"],
    }
    written |= {"begin_of_image": "<begin_of_image>", "end_of_image": "<end_of_image>"}
    special = {meta["ids"][name]: token for name, token in written.items()}
    size = meta["config"]["language_config"]["vocab_size"]
    core = Tokenizer(WordLevel({special.get(i, f"w{i}"): i for i in range(size)}, unk_token="<pad>"))
    PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(official: Path) -> JanusForConditionalGeneration:
    """The authors' weights in the class of transformers."""
    return read_janus(official)


@torch.no_grad()
def test_understanding_gives_the_official_logits(
    model: JanusForConditionalGeneration, golden: dict[str, Tensor]
) -> None:
    for name in ("und", "und2"):
        pixels = golden[f"{name}.pixel_values"].flatten(0, 1)
        found = model(input_ids=golden[f"{name}.input_ids"], pixel_values=pixels).logits
        torch.testing.assert_close(found, golden[f"{name}.logits"], rtol=0, atol=LOGITS)


@torch.no_grad()
def test_drawing_gives_the_official_logits_and_images(
    model: JanusForConditionalGeneration, golden: dict[str, Tensor]
) -> None:
    prompt, codes = golden["t2i.rows"][0::2], golden["t2i.tokens"]
    core = model.model
    embeds = torch.cat(
        [model.get_input_embeddings()(prompt), model.prepare_embeddings_for_image_generation(codes[:, :-1])],
        1,
    )
    hidden = core.language_model(inputs_embeds=embeds).last_hidden_state[:, prompt.shape[1] - 1 :]
    torch.testing.assert_close(core.generation_head(hidden), golden["t2i.cond_logits"], rtol=0, atol=LOGITS)
    decoded = model.decode_image_tokens(codes).permute(0, 3, 1, 2)
    torch.testing.assert_close(decoded, golden["t2i.decoded"], rtol=0, atol=LOGITS)


def test_head_and_embedding_are_not_tied(model: JanusForConditionalGeneration) -> None:
    embedding = model.get_parameter("model.language_model.embed_tokens.weight")
    assert not torch.equal(model.lm_head.weight, embedding)
    assert not model.config.tie_word_embeddings


def test_a_folder_of_transformers_and_back_lose_nothing_but_what_is_never_read(
    official: Path, meta: dict[str, Any], model: JanusForConditionalGeneration, tmp_path: Path
) -> None:
    words = read_janus_tokenizer(official)
    write_janus(model, tmp_path / "ours", tokenizer=words)
    plain = JanusForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert all(torch.equal(plain.state_dict()[k], v) for k, v in model.state_dict().items())
    start = meta["ids"]["begin_of_image"]
    assert plain.generation_config.to_dict()["generation_kwargs"] == {"boi_token_id": start}
    processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    assert tuple(processor.image_processor.image_mean) == (0.5, 0.5, 0.5)
    tower = meta["vision_tower"]
    assert processor.num_image_tokens == (tower["image_size"] // tower["patch_size"]) ** 2

    write_official_janus(read_janus(tmp_path / "ours"), tmp_path / "back", tokenizer=words)
    before, after = read_weights(official), read_weights(tmp_path / "back")
    lost = {name for name in before if name not in after}
    assert lost == {name for name in before if ".attn_pool." in name} and not after.keys() - before.keys()
    assert all(torch.equal(before[k], v) for k, v in after.items() if not k.endswith("codebook_used"))
    again = read_janus(tmp_path / "back")
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    given = json.loads((official / "config.json").read_text())
    for part in ("aligner_config", "gen_vision_config", "gen_aligner_config", "gen_head_config"):
        assert config[part] == given[part]
    assert config["language_config"].items() >= given["language_config"].items()
