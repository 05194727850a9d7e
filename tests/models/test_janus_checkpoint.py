"""Janus' checkpoints in the authors' form and in that of transformers, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_janus import PAD, PICTURE, START, tiny_model, tokenizer
from tiny_show_o_folders import save_shards
from torch import Tensor
from transformers import JanusForConditionalGeneration

from sightloop.models.janus.checkpoint import (
    SpecialIds,
    load_janus,
    read_janus,
    read_janus_tokenizer,
    write_janus,
    write_official_janus,
)
from sightloop.models.janus.policy import JanusSettings
from sightloop.models.janus.tensor_names import from_official, to_official
from sightloop.models.weight_files import read_weights
from sightloop.types import Prompt


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a folder of the authors."""
    folder = tmp_path_factory.mktemp("janus") / "official"
    write_official_janus(tiny_model(), folder, tokenizer=tokenizer())
    return folder


def copied(official: Path, folder: Path, **config: Any) -> Path:
    """An official folder without weights; `config` changes its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer().save_pretrained(folder)
    given = json.loads((official / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**given, **config}))
    return folder


def same(model: JanusForConditionalGeneration) -> bool:
    """Every tensor is that of the tiny model, bit for bit."""
    given, wanted = model.state_dict(), tiny_model().state_dict()
    return given.keys() == wanted.keys() and all(torch.equal(given[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("shards", [0, 2])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_every_form_of_an_official_folder_is_read(
    official: Path, tmp_path: Path, name: str, shards: int
) -> None:
    tensors = read_weights(official) | {
        "vision_model.vision_tower.attn_pool.q.weight": torch.ones(2, 2),
    }
    folder = copied(official, tmp_path)
    if shards:
        save_shards(folder, tensors, name, shards)
    elif name.endswith("bin"):
        torch.save(tensors, folder / name)
    else:
        save_file({key: value.clone() for key, value in tensors.items()}, folder / name)
    model = read_janus(folder)
    assert same(model)
    assert model.config.image_token_id == PICTURE
    generation = model.generation_config.to_dict()
    assert generation["generation_kwargs"] == {"boi_token_id": START}
    assert (generation["pad_token_id"], generation["guidance_scale"]) == (PAD, 5.0)


def test_names_go_there_and_back() -> None:
    wanted = tiny_model().state_dict()
    theirs = to_official(wanted)
    assert theirs["vision_model.vision_tower.blocks.0.attn.qkv.weight"].shape == (144, 48)
    assert theirs["vision_model.vision_tower.pos_embed"].shape == (1, 16, 48)
    assert "gen_vision_model.encoder.conv_blocks.0.res.0.norm1.weight" in theirs
    assert "gen_vision_model.decoder.mid.1.q.weight" in theirs
    assert {"aligner.layers.0.bias", "aligner.layers.2.bias", "gen_embed.weight"} <= theirs.keys()
    assert "language_model.lm_head.weight" in theirs
    back = from_official(theirs)
    assert back.keys() == wanted.keys() and all(torch.equal(back[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.pop("gen_embed.weight"), r"model\.generation_embeddings\.weight is missing"),
        (lambda t: t.pop("gen_vision_model.encoder.conv_in.weight"), r"encoder\.conv_in\.weight is missing"),
        (
            lambda t: t.pop("vision_model.vision_tower.blocks.1.attn.qkv.bias"),
            r"layers\.1\.self_attn\.q_proj\.bias is missing",
        ),
        (lambda t: t.update({"flow_head.weight": torch.ones(1)}), r"flow_head\.weight is unknown"),
        (
            lambda t: t.update({"aligner.layers.1.bias": torch.ones(1)}),
            r"aligner\.layers\.1\.bias is unknown",
        ),
        (
            lambda t: t.update({"gen_head.vision_head.bias": torch.ones(3)}),
            r"is \(3,\), the model wants \(64,\)",
        ),
        (lambda t: t["language_model.lm_head.weight"].fill_(torch.nan), r"lm_head\.weight is not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    official: Path, tmp_path: Path, spoil: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    tensors = {name: tensor.clone() for name, tensor in read_weights(official).items()}
    spoil(tensors)
    torch.save(tensors, copied(official, tmp_path) / "pytorch_model.bin")
    with pytest.raises(ValueError, match=message):
        read_janus(tmp_path)


def test_a_config_that_does_not_fit_is_named(official: Path, tmp_path: Path) -> None:
    given = json.loads((official / "config.json").read_text())
    tower = given["vision_config"]["params"]
    for config, message in (
        ({"model_type": "blip-2"}, "is a BLIP-2 captioner, not a Show-o, MAGVIT-v2 or Janus"),
        ({"language_config": None}, "has no language_config"),
        ({"vision_config": {"params": {**tower, "num_heads": None}}}, "number of heads is unknown"),
        ({"vision_config": {"params": {**tower, "select_layer": -2}}}, "select_layer is -2, only -1"),
        ({"language_config": {**given["language_config"], "hidden_size": 32}}, "the model wants"),
    ):
        folder = copied(official, tmp_path / str(len(list(tmp_path.iterdir()))), **config)
        torch.save(read_weights(official), folder / "pytorch_model.bin")
        with pytest.raises(ValueError, match=message):
            read_janus(folder)


def test_a_folder_of_transformers_is_read_strictly_and_never_tied(official: Path, tmp_path: Path) -> None:
    words = read_janus_tokenizer(official)
    write_janus(read_janus(official), tmp_path / "ours", tokenizer=words)
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    config["tie_word_embeddings"] = True
    (tmp_path / "ours" / "config.json").write_text(json.dumps(config))
    assert same(read_janus(tmp_path / "ours"))
    tensors = read_weights(tmp_path / "ours")
    del tensors["model.generation_head.vision_head.bias"]
    save_file(tensors, tmp_path / "ours" / "model.safetensors")
    with pytest.raises(ValueError, match=r"generation_head\.vision_head\.bias is missing"):
        read_janus(tmp_path / "ours")


def test_precision_is_kept_or_as_asked(official: Path, tmp_path: Path) -> None:
    folder = copied(official, tmp_path)
    tensors = {k: v.to(torch.bfloat16) for k, v in read_weights(official).items()}
    torch.save(tensors, folder / "pytorch_model.bin")
    assert read_janus(folder).dtype == torch.bfloat16
    assert read_janus(folder, dtype=torch.float32).dtype == torch.float32


def test_the_same_policy_comes_from_both_forms(official: Path, tmp_path: Path) -> None:
    write_janus(read_janus(official), tmp_path / "ours", tokenizer=read_janus_tokenizer(official))
    policies = [
        load_janus(folder, settings=JanusSettings(lora_rank=2)) for folder in (official, tmp_path / "ours")
    ]
    prompt = Prompt(texts=["a cat"], wants="image", seeds=[3])
    drawn = [policy.sample(prompt, policy.default_sampling()) for policy in policies]
    assert torch.equal(drawn[0].ids, drawn[1].ids)
    assert torch.equal(*[p.pixels(t).pixels for p, t in zip(policies, drawn, strict=True)])


def test_a_tokenizer_without_the_special_tokens_is_refused(tmp_path: Path) -> None:
    plain = tokenizer()
    assert SpecialIds.of_tokenizer(plain).image == PICTURE
    plain.bos_token = None
    with pytest.raises(ValueError, match=r"lacks special tokens of Janus: begin \(None\)"):
        SpecialIds.of_tokenizer(plain)
    with pytest.raises(ValueError, match="holds no tokenizer; name a folder with one with --tokenizer"):
        read_janus_tokenizer(tmp_path)


def test_nothing_is_overwritten(official: Path) -> None:
    with pytest.raises(ValueError, match="official is not empty; choose another folder"):
        write_official_janus(tiny_model(), official, tokenizer=tokenizer())
    with pytest.raises(ValueError, match="official is not empty; choose another folder"):
        write_janus(tiny_model(), official, tokenizer=tokenizer())
