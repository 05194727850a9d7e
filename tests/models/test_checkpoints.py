"""Show-o's checkpoints: every form of the authors' folders, folders of ours, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_show_o_folders import (
    CLIP_WIDTH,
    CONFIG,
    NUM_CODES,
    SIZE,
    WIDTH,
    WORDS,
    magvit,
    official_folder,
    official_tensors,
    phi,
    projector_tensors,
    tokenizer,
)
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, PhiForCausalLM

from sightloop.models.downloads import require_folder
from sightloop.models.families import detect_family, require
from sightloop.models.show_o.checkpoint import (
    ShowOSizes,
    load_show_o,
    read_show_o,
    read_tokenizer,
    write_magvit2,
    write_official,
    write_show_o,
)
from sightloop.models.show_o.magvit2 import Magvit2
from sightloop.models.show_o.policy import ShowOSettings
from sightloop.models.weight_files import read_weights, write_weights
from sightloop.types import Images, Prompt, Sampling


def same(model: PhiForCausalLM, other: PhiForCausalLM) -> bool:
    """Every tensor is equal, bit for bit."""
    given, wanted = model.state_dict(), other.state_dict()
    return given.keys() == wanted.keys() and all(torch.equal(given[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("shards", [0, 3])
@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "diffusion_pytorch_model.bin",
        "model.safetensors",
        "diffusion_pytorch_model.safetensors",
    ],
)
def test_every_form_of_an_official_folder_is_read(tmp_path: Path, name: str, shards: int) -> None:
    weights = read_show_o(official_folder(tmp_path / "show_o", name=name, shards=shards))
    assert same(weights.model, phi())
    assert weights.projector is None
    assert weights.sizes == ShowOSizes(num_image_tokens=4, num_text=len(WORDS), num_codes=NUM_CODES)


def test_the_model_read_gives_the_logits_of_the_model_saved(tmp_path: Path) -> None:
    ids = torch.randint(0, SIZE, (2, 9))
    model = read_show_o(official_folder(tmp_path)).model
    with torch.no_grad():
        found, wanted = model(ids, use_cache=False).logits, phi()(ids, use_cache=False).logits
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert not model.training


def test_heads_are_read_off_the_norms_and_old_rotations_are_left_out(tmp_path: Path) -> None:
    tensors = official_tensors() | {"showo.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    config = read_show_o(official_folder(tmp_path, tensors=tensors)).model.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.num_hidden_layers) == (4, 4, 2)
    assert (config.hidden_size, config.intermediate_size) == (WIDTH, 48)
    assert config.qk_layernorm and not config.tie_word_embeddings and config.pad_token_id is None


def test_weights_keep_their_precision_or_get_the_one_asked_for(tmp_path: Path) -> None:
    folder = official_folder(tmp_path, tensors=official_tensors(torch.bfloat16))
    assert read_show_o(folder).model.dtype == torch.bfloat16
    model = read_show_o(folder, dtype=torch.float32).model
    assert same(model, phi(torch.bfloat16).float())


def test_the_projector_of_the_variant_with_a_vision_tower(tmp_path: Path) -> None:
    given = projector_tensors()
    folder = official_folder(tmp_path, tensors=official_tensors() | given, w_clip_vit=True)
    projector = read_show_o(folder).projector
    assert projector is not None
    assert projector(torch.ones(1, CLIP_WIDTH)).shape == (1, WIDTH)
    assert all(torch.equal(given[f"mm_projector.{k}"], v) for k, v in projector.state_dict().items())


def drop(name: str) -> Callable[[dict[str, Tensor]], object]:
    """Take a tensor out."""
    return lambda tensors: tensors.pop(name)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop("showo.lm_head.bias"), "lm_head.bias is missing"),
        (drop("showo.model.layers.1.mlp.fc2.weight"), "model.layers.1.mlp.fc2.weight is missing"),
        (drop("showo.model.layers.0.self_attn.q_layernorm.weight"), "q_layernorm.weight is missing"),
        (lambda t: t.update({"showo.model.more": torch.ones(2)}), "model.more is unknown"),
        (lambda t: t.update({"vae.weight": torch.ones(2)}), "vae.weight is unknown"),
        (
            lambda t: t.update({"showo.lm_head.bias": torch.ones(2)}),
            "lm_head.bias is \\(2,\\), the model wants",
        ),
        (lambda t: t["showo.lm_head.bias"].fill_(torch.inf), "lm_head.bias is not finite"),
        (lambda t: t.update(projector_tensors()), "w_clip_vit is False and there are 4 mm_projector tensors"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, spoil: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    tensors = official_tensors()
    spoil(tensors)
    with pytest.raises(ValueError, match=message):
        read_show_o(official_folder(tmp_path, tensors=tensors))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": None}, "names no family, _class_name or model_type"),
        ({"_class_name": None, "model_type": "blip-2"}, "is a BLIP-2 captioner, not a Show-o"),
        ({"_class_name": None, "model_type": "mine"}, "a model of model_type 'mine'; known are Show-o"),
        ({"_class_name": "MAGVITv2"}, "holds magvit2, not show-o"),
        ({"num_vq_tokens": None}, "num_image_tokens is missing"),
        ({"llm_vocab_size": 3}, "the embedding has .* rows; 3 text tokens, 10 special ones, 32 codes"),
        ({"mask_token_id": 7}, "mask_token_id is 7, text, special tokens and codes make it"),
        ({"vocab_size": 7}, "vocab_size is 7"),
        ({"w_clip_vit": True}, "w_clip_vit is True and there are 0 mm_projector tensors"),
    ],
)
def test_a_config_that_does_not_fit_is_named(tmp_path: Path, config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_show_o(official_folder(tmp_path, **config))


def test_files_that_are_not_there_or_broken_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        read_show_o(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"config\.json cannot be read: it does not exist"):
        read_show_o(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ValueError, match=r"holds no weights; looked for model\.safetensors"):
        read_show_o(tmp_path)
    (tmp_path / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin cannot be read"):
        read_show_o(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        read_show_o(tmp_path)


def test_missing_shards_and_tensors_of_an_index_are_named(tmp_path: Path) -> None:
    folder = official_folder(tmp_path, name="model.safetensors", shards=3)
    index = folder / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    index.write_text(
        json.dumps({"weight_map": listed["weight_map"] | {"x.y": "model-00001-of-00003.safetensors"}})
    )
    with pytest.raises(ValueError, match=r"are not whole: x\.y is missing"):
        read_weights(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"names shards that are missing: model-00002-of-00003\.safetensors"):
        read_weights(folder)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_an_index_names_only_files_beside_it(name: str, tmp_path: Path) -> None:
    folder = official_folder(tmp_path / "here", name="model.safetensors", shards=3)
    (tmp_path / "other.safetensors").write_bytes((folder / "model-00001-of-00003.safetensors").read_bytes())
    index = folder / "model.safetensors.index.json"
    listed = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": listed | {next(iter(listed)): name}}))
    for read in (read_weights, require_folder):
        with pytest.raises(ValueError, match="which is no file beside it"):
            read(folder)


def test_a_pickle_that_is_more_than_tensors_is_never_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "harmed",))

    torch.save({"showo.lm_head.bias": Harm()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be read"):
        read_weights(tmp_path)
    torch.save({"epoch": 3}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="does not hold a dictionary of tensors"):
        read_weights(tmp_path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_large_weights_are_written_in_shards_and_read_back(tmp_path: Path, name: str) -> None:
    tensors = official_tensors()
    write_weights(tmp_path, tensors, name=name, shard_bytes=20_000)
    assert len(list(tmp_path.glob("*-of-*"))) > 2
    found = read_weights(tmp_path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("with_tower", [False, True])
def test_a_folder_of_ours_and_back_to_the_official_one(tmp_path: Path, with_tower: bool) -> None:
    tensors = official_tensors() | (projector_tensors() if with_tower else {})
    weights = read_show_o(official_folder(tmp_path / "theirs", tensors=tensors, w_clip_vit=with_tower))
    write_show_o(weights, tmp_path / "ours", tokenizer=tokenizer(), magvit=magvit())
    ours = read_show_o(tmp_path / "ours")
    assert same(ours.model, phi()) and ours.sizes == weights.sizes
    assert (ours.projector is not None) == with_tower
    plain = PhiForCausalLM.from_pretrained(tmp_path / "ours" / "language_model")
    assert same(plain, phi())
    words = read_tokenizer(tmp_path / "ours" / "tokenizer", ours.sizes)
    assert len(words) == len(WORDS) + 10
    assert words("a red <|soi|>").input_ids == [1, 2, len(WORDS) + 1]
    pictures = Magvit2.from_folder(tmp_path / "ours" / "magvit2").state_dict()
    assert all(torch.equal(pictures[key], value) for key, value in magvit().state_dict().items())

    write_official(ours, tmp_path / "back")
    back = torch.load(tmp_path / "back" / "pytorch_model.bin", weights_only=True)
    assert back.keys() == tensors.keys() and all(torch.equal(back[key], tensors[key]) for key in tensors)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config == {key: value for key, value in CONFIG.items() if key != "_diffusers_version"} | {
        "w_clip_vit": with_tower
    }


def test_nothing_half_written_is_left_and_nothing_is_overwritten(tmp_path: Path) -> None:
    weights = read_show_o(official_folder(tmp_path / "theirs"))
    small = tokenizer()
    small.add_tokens(["one more"])
    with pytest.raises(ValueError, match="but the model has"):
        write_show_o(weights, tmp_path / "ours", tokenizer=small, magvit=magvit())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(ValueError, match="full is not empty; choose another folder"):
        write_official(weights, tmp_path / "full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "theirs"]


def test_an_image_tokenizer_with_other_codes_is_refused(tmp_path: Path) -> None:
    weights = read_show_o(official_folder(tmp_path / "theirs"))
    other = Magvit2.from_state_dict(magvit().state_dict())
    other.config = type(other.config)(**{**vars(other.config), "num_bits": 6})
    with pytest.raises(ValueError, match="MAGVIT-v2 has 64 codes and the language model knows 32"):
        write_show_o(weights, tmp_path / "ours", tokenizer=tokenizer(), magvit=other)


def test_a_folder_without_tokenizer_names_where_to_get_one(tmp_path: Path) -> None:
    sizes = read_show_o(official_folder(tmp_path)).sizes
    with pytest.raises(ValueError, match="holds no tokenizer; name the folder of microsoft/phi-1_5's"):
        read_tokenizer(tmp_path, sizes)


@pytest.mark.parametrize(("official", "file"), [(True, "pytorch_model.bin"), (False, "model.safetensors")])
def test_an_image_tokenizer_alone(tmp_path: Path, official: bool, file: str) -> None:
    write_magvit2(magvit(), tmp_path / "out", official=official)
    assert (tmp_path / "out" / file).is_file()
    assert detect_family(tmp_path / "out").form == ("official" if official else "sightloop")
    assert require(tmp_path / "out", "magvit2")
    again = Magvit2.from_folder(tmp_path / "out").state_dict()
    assert all(torch.equal(again[key], value) for key, value in magvit().state_dict().items())
    if not official:
        assert load_file(tmp_path / "out" / file).keys() == again.keys()


def test_the_same_policy_comes_from_the_official_folder_and_from_ours(tmp_path: Path) -> None:
    theirs = official_folder(tmp_path / "theirs")
    tokenizer().save_pretrained(tmp_path / "words")
    write_magvit2(magvit(), tmp_path / "magvit", official=True)
    write_show_o(read_show_o(theirs), tmp_path / "ours", tokenizer=tokenizer(), magvit=magvit())
    first = load_show_o(theirs, magvit=tmp_path / "magvit", tokenizer=tmp_path / "words")
    second = load_show_o(tmp_path / "ours", settings=ShowOSettings(lora_rank=3))
    assert second.settings == ShowOSettings(num_image_tokens=4, max_text_tokens=128, lora_rank=3)
    prompt = Prompt(texts=["a red circle", "the two"], wants="image", seeds=[3, 4])
    drawn = [policy.sample(prompt, policy.default_sampling(decode_steps=2)) for policy in (first, second)]
    assert torch.equal(drawn[0].ids, drawn[1].ids)
    assert torch.equal(first.pixels(drawn[0]).pixels, second.pixels(drawn[1]).pixels)


def test_parts_that_an_official_folder_lacks_are_asked_for(tmp_path: Path) -> None:
    theirs = official_folder(tmp_path / "theirs")
    with pytest.raises(ValueError, match="without MAGVIT-v2; name its folder with --magvit"):
        load_show_o(theirs)
    write_magvit2(magvit(), tmp_path / "magvit", official=True)
    with pytest.raises(ValueError, match="name the folder of microsoft/phi-1_5's with --tokenizer"):
        load_show_o(theirs, magvit=tmp_path / "magvit")
    words = tokenizer()
    words.save_pretrained(tmp_path / "words")
    found: dict[str, Any] = {"magvit": tmp_path / "magvit", "tokenizer": tmp_path / "words"}
    with pytest.raises(ValueError, match="reads its own codes of images; leave --tower out"):
        load_show_o(theirs, tower=tmp_path, **found)
    tensors = official_tensors() | projector_tensors()
    seeing = official_folder(tmp_path / "seeing", tensors=tensors, w_clip_vit=True)
    with pytest.raises(
        ValueError, match=r"reads features of a vision tower .* name its CLIP's folder with --tower"
    ):
        load_show_o(seeing, **found)
    clip_tower(CLIP_WIDTH + 4).save_pretrained(tmp_path / "wide")
    with pytest.raises(ValueError, match=r"has features of 16 numbers, the projector of .* reads 12"):
        load_show_o(seeing, tower=tmp_path / "wide", **found)


def test_the_variant_with_a_vision_tower_answers_by_its_features(tmp_path: Path) -> None:
    tensors = official_tensors() | projector_tensors()
    seeing = official_folder(tmp_path / "seeing", tensors=tensors, w_clip_vit=True)
    write_show_o(read_show_o(seeing), tmp_path / "ours", tokenizer=tokenizer(), magvit=magvit())
    clip_tower(CLIP_WIDTH).save_pretrained(tmp_path / "clip")
    policy = load_show_o(tmp_path / "ours", tower=tmp_path / "clip")
    assert policy.vision is not None
    seen = policy.encode_images(Images(pixels=torch.zeros(1, 3, 9, 7, dtype=torch.uint8)))
    assert [value.shape for value in seen.features.values()] == [(1, 4, CLIP_WIDTH)]
    tokens = policy.sample(Prompt(texts=["what is it"], images=seen), Sampling(max_tokens=3, temperature=0.0))
    assert tokens.ids.shape[0] == 1


def clip_tower(width: int) -> CLIPVisionModel:
    """A CLIP that sees 4 patches."""
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=8,
            patch_size=4,
        )
    )
