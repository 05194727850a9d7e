"""Published weights in, trained captioners out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_blip2 import NUM_QUERIES, SIDE, captioner, model, pictures, save, words
from torch import Tensor
from transformers import (
    AutoProcessor,
    Blip2Config,
    Blip2ForConditionalGeneration,
    OPTConfig,
)

from sightloop.models.captioners.blip2 import Bridge
from sightloop.models.captioners.critic import TrunkCritic
from sightloop.models.captioners.vlrm_checkpoint import (
    Card,
    card_text,
    export_folder,
    export_tensors,
    load_published,
    load_vlrm,
)
from sightloop.world.models import IMAGE

CARD = Card(
    base="Salesforce/blip2-opt-2.7b", steps=250, metrics={"recall@1": (0.517, 0.905)}, license_name="mit"
)


def bridge(made: Any) -> dict[str, Tensor]:
    """Copies of the trainable tensors."""
    return {name: tensor.clone() for name, tensor in Bridge(made).state_dict().items()}


def test_the_trainable_part_of_blip2_opt_is_the_257_published_tensors() -> None:
    text = OPTConfig(
        hidden_size=2560,
        word_embed_proj_dim=2560,
        ffn_dim=10240,
        num_hidden_layers=32,
        num_attention_heads=32,
    )
    with torch.device("meta"):
        whole = Blip2ForConditionalGeneration(Blip2Config(text_config=text))
    tensors = Bridge(whole).state_dict()

    assert len(tensors) == 257
    assert sum(tensor.numel() for tensor in tensors.values()) == 107_130_880
    assert sum(p.numel() for p in whole.parameters()) == 3_744_679_936
    assert {name.split(".")[0] for name in tensors} == {"query_tokens", "qformer", "language_projection"}
    assert tensors.keys() <= whole.state_dict().keys()
    assert tuple(tensors["language_projection.weight"].shape) == (2560, 768)
    assert "qformer.encoder.layer.10.crossattention.attention.key.weight" in tensors
    assert "qformer.encoder.layer.11.output_query.dense.weight" in tensors


@pytest.mark.parametrize("name", ["vlrm.pt", "vlrm.safetensors"])
def test_tensors_survive_the_published_form(tmp_path: Path, name: str) -> None:
    trained, other = captioner(seed=3), model(seed=4)
    export_tensors(trained, tmp_path / "deep" / name)
    frozen = other.language_model.lm_head.weight.clone()
    load_vlrm(other, tmp_path / "deep" / name)

    for key, tensor in bridge(trained.model).items():
        torch.testing.assert_close(bridge(other)[key], tensor.half().float(), atol=0, rtol=0)
    assert torch.equal(other.language_model.lm_head.weight, frozen)
    assert [file.name for file in (tmp_path / "deep").iterdir()] == [name]
    if name.endswith(".pt"):
        stored = torch.load(tmp_path / "deep" / name, weights_only=True)
    else:
        stored = load_file(tmp_path / "deep" / name)
    assert stored.keys() == bridge(other).keys()
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def lose(tensors: dict[str, Tensor]) -> None:
    """One tensor less."""
    del tensors["language_projection.bias"]


def add(tensors: dict[str, Tensor]) -> None:
    """A tensor of another model."""
    tensors["value_head.weight"] = torch.zeros(1)


def reshape(tensors: dict[str, Tensor]) -> None:
    """Another number of queries."""
    tensors["query_tokens"] = torch.zeros(1, 9, 32)


def overflow(tensors: dict[str, Tensor]) -> None:
    """Infinite in half precision."""
    tensors["language_projection.bias"][3] = torch.inf


def lose_many(tensors: dict[str, Tensor]) -> None:
    """Only the queries are left."""
    for name in list(tensors)[1:]:
        del tensors[name]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lose, "language_projection.bias is missing"),
        (add, "value_head.weight is unknown"),
        (reshape, rf"query_tokens is \(1, 9, 32\), the model wants \(1, {NUM_QUERIES}, 32\)"),
        (overflow, "language_projection.bias is not finite"),
        (lose_many, "is missing; .* is missing; .* is missing, and .* more"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_nothing_of_it_loaded(
    tmp_path: Path, spoil: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    tensors, other = bridge(model(seed=3)), model(seed=4)
    before = bridge(other)
    spoil(tensors)
    torch.save(tensors, tmp_path / "vlrm.pt")

    with pytest.raises(ValueError, match=message):
        load_vlrm(other, tmp_path / "vlrm.pt")
    for name, tensor in bridge(other).items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("name", ["vlrm.pt", "vlrm.safetensors"])
def test_a_broken_download_is_named(tmp_path: Path, name: str) -> None:
    export_tensors(captioner(), tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"<html>not found</html>"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            load_vlrm(model(), tmp_path / name)


def test_what_is_not_there_or_not_tensors_is_named(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt does not hold a dictionary of tensors"):
        load_vlrm(model(), tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"nowhere\.pt does not exist"):
        load_vlrm(model(), tmp_path / "nowhere.pt")
    with pytest.raises(ValueError, match=r"holds no \.safetensors and no \.bin file"):
        load_vlrm(model(), tmp_path)


def test_the_trainable_module_is_read_out_of_a_sharded_folder(tmp_path: Path) -> None:
    trained = model(seed=3)
    trained.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    other = model(seed=4)
    load_vlrm(other, tmp_path)

    for name, tensor in bridge(trained).items():
        assert torch.equal(bridge(other)[name], tensor)
    for shard in tmp_path.glob("*.safetensors"):
        if "query_tokens" in load_file(shard):
            shard.unlink()
    with pytest.raises(ValueError, match="query_tokens is missing"):
        load_vlrm(other, tmp_path)


def published(folder: Path) -> Blip2ForConditionalGeneration:
    """A full folder as it was published in spring 2024: 16 bits, shards, no number of the image token."""
    trained = model(seed=3)
    save(folder, trained.half())
    for file in folder.glob("model*"):
        file.unlink()
    trained.save_pretrained(folder, max_shard_size="50KB")
    config = json.loads((folder / "config.json").read_text())
    del config["image_token_index"]
    (folder / "config.json").write_text(json.dumps(config))
    return trained


def test_an_old_published_folder_loads_and_exports_with_its_image_token(tmp_path: Path) -> None:
    trained = published(tmp_path / "published")
    with pytest.raises((TypeError, AttributeError)):
        pixels = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.float16)
        Blip2ForConditionalGeneration.from_pretrained(tmp_path / "published").generate(pixel_values=pixels)
    policy = load_published(tmp_path / "published", dtype=torch.bfloat16)

    assert policy.model.config.image_token_index == words().get_vocab()["<image>"] == IMAGE
    for name, tensor in bridge(trained).items():
        assert torch.equal(bridge(policy.model)[name], tensor.float())
    export_folder(policy, tmp_path / "again", base=str(tmp_path / "published"), card=CARD)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["image_token_index"] == IMAGE


def test_an_incomplete_published_folder_is_refused(tmp_path: Path) -> None:
    published(tmp_path)
    for shard in tmp_path.glob("*.safetensors"):
        tensors = load_file(shard)
        if "language_model.model.decoder.layers.0.fc1.weight" in tensors:
            del tensors["language_model.model.decoder.layers.0.fc1.weight"]
            save_file(tensors, shard, metadata={"format": "pt"})

    with pytest.raises(ValueError, match=r"lacks 1 of \d+ weights \(language_model.*fc1\.weight\)"):
        load_published(tmp_path)


def test_an_exported_folder_is_a_plain_transformers_model(tmp_path: Path) -> None:
    base = save(tmp_path / "base", model(seed=1))
    policy = captioner(seed=3)
    TrunkCritic(policy, widths=(1,), rank=2)
    export_folder(policy, tmp_path / "out", base=str(base), card=CARD, dtype=torch.float32, shard="50KB")
    loaded, found = Blip2ForConditionalGeneration.from_pretrained(  # pyright: ignore
        tmp_path / "out", output_loading_info=True
    )
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    images = pictures(2)
    inputs = processor(
        images=[Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in images.pixels],
        return_tensors="pt",
    )
    ids = loaded.generate(**inputs, num_beams=3, no_repeat_ngram_size=2, min_new_tokens=4, max_new_tokens=8)
    texts = [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]

    assert not any(found.values())
    assert texts == policy.write(images, beams=3, max_tokens=8)
    for name, tensor in policy.model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, atol=0, rtol=0)
    stored = [file.name for file in (tmp_path / "out").iterdir()]
    assert len([name for name in stored if name.endswith(".safetensors")]) > 3
    assert {"README.md", "config.json", "generation_config.json", "tokenizer.json"} <= set(stored)


def test_exports_are_in_half_precision_and_say_so(tmp_path: Path) -> None:
    base = save(tmp_path / "base", model(seed=1))
    policy = captioner(seed=3)
    export_folder(policy, tmp_path / "out", base=str(base), card=CARD)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    loaded = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "out")

    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    # The head is tied to the embedding: one of them is enough.
    assert tensors.keys() == load_file(base / "model.safetensors").keys()
    assert loaded.config.dtype == loaded.language_projection.weight.dtype == torch.float16
    assert next(policy.trainable_module().parameters()).dtype == torch.float32


def test_an_export_brings_what_an_older_processor_lacks(tmp_path: Path) -> None:
    base = save(tmp_path / "base", model(seed=1))
    settings = json.loads((base / "processor_config.json").read_text())
    del settings["num_query_tokens"]
    (base / "processor_config.json").write_text(json.dumps(settings))
    (base / "model.safetensors.index.json").write_text("{}")  # of the base, not of the export
    export_folder(captioner(), tmp_path / "out", base=str(base), card=CARD)

    assert AutoProcessor.from_pretrained(tmp_path / "out").num_query_tokens == NUM_QUERIES
    assert not (tmp_path / "out" / "model.safetensors.index.json").exists()


def test_an_export_without_its_base_at_hand_still_loads(tmp_path: Path) -> None:
    export_folder(captioner(), tmp_path / "out", base=str(tmp_path), card=CARD)
    processor = AutoProcessor.from_pretrained(tmp_path / "out")

    assert processor.num_query_tokens == NUM_QUERIES
    assert processor.image_processor.size["height"] == SIDE


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    base = save(tmp_path / "base", model(seed=1))
    policy = captioner()
    with torch.no_grad():
        policy.model.language_projection.bias[0] = 1e6
    with pytest.raises(ValueError, match=r"not finite in torch\.float16.*language_projection\.bias"):
        export_folder(policy, tmp_path / "out", base=str(base), card=CARD)
    with pytest.raises(ValueError, match=r"not finite in torch\.float16"):
        export_tensors(policy, tmp_path / "vlrm.pt")
    with pytest.raises(ValueError, match=r"must end in \.pt or \.safetensors"):
        export_tensors(policy, tmp_path / "vlrm.bin")
    (base / "processor_config.json").write_text("broken")
    with pytest.raises(ValueError, match="Expecting value"):  # only after the weights were written
        export_folder(policy, tmp_path / "out", base=str(base), card=CARD, dtype=torch.float32)
    assert [file.name for file in tmp_path.iterdir()] == ["base"]


def test_an_export_does_not_write_over_anything(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")

    with pytest.raises(ValueError, match="is not empty"):
        export_folder(captioner(), tmp_path / "out", base=str(tmp_path), card=CARD)
    assert (tmp_path / "out" / "mine.txt").read_text() == "kept"


def test_a_card_says_what_it_is_where_from_and_how_good() -> None:
    text = card_text(CARD)
    header = text.split("---\n")[1]

    assert "license: mit\n" in header
    assert "base_model: Salesforce/blip2-opt-2.7b\n" in header
    assert "library_name: transformers\n" in header
    assert "https://arxiv.org/abs/2404.01911" in text
    assert "250 steps" in text
    assert "| recall@1 | 0.517 | 0.905 |" in text
    assert "may name things" in text


def test_a_card_leaves_out_what_is_not_known(tmp_path: Path) -> None:
    text = card_text(Card(base=str(tmp_path), steps=3, metrics={}))

    assert "license:" not in text
    assert "base_model:" not in text
    assert str(tmp_path.parent) not in text
    assert "held-out figure" not in text
