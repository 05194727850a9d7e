"""Every score against the raw forward pass of the same folder, loaded by transformers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rewards.tiny_clips import (
    NUM_WORDS,
    SIDE,
    WIDTH,
    altclip_folder,
    clip_folder,
    metaclip2_folder,
    siglip2_folder,
    siglip_folder,
)
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, Siglip2Config

from sightloop.models.clip import ClipEncoder
from sightloop.rewards.clip_family import AestheticReward, ClipSimilarity, read_layers
from sightloop.rewards.custom import load_rewards
from sightloop.rewards.samples import ImageReward, measured, outcome_of_texts
from sightloop.types import Images

TEXTS = ["a red dog on the left", "cat", "a big blue cat", "the red street"]


def pictures(number: int = 4) -> Images:
    return Images(pixels=torch.randint(256, (number, 3, SIDE, SIDE), dtype=torch.uint8))


@torch.no_grad()
def raw(folder: Path, images: Images, texts: list[str] = TEXTS) -> Any:
    """The whole model's forward pass of transformers, images through its own processor."""
    model, words = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    seen = images.pictures()
    values = AutoImageProcessor.from_pretrained(folder, use_fast=False)(seen, return_tensors="pt")
    siglip = model.config.model_type in ("siglip", "siglip2")
    padding: dict[str, Any] = (
        {"padding": "max_length", "max_length": NUM_WORDS} if siglip else {"padding": True}
    )
    encoded = words(texts, return_tensors="pt", **padding)
    mask = {} if siglip else {"attention_mask": encoded.attention_mask}
    return model.eval()(**values, input_ids=encoded.input_ids, **mask)


def test_clips_cosine_and_logit_are_those_of_the_forward_pass(tmp_path: Path) -> None:
    folder, images = clip_folder(tmp_path), pictures()
    wanted = raw(folder, images)
    cosine = ClipSimilarity.from_pretrained(folder).rewards(images, TEXTS)
    torch.testing.assert_close(
        cosine, (wanted.image_embeds * wanted.text_embeds).sum(1), rtol=1e-5, atol=1e-6
    )
    logit = ClipSimilarity.from_pretrained(folder, scale="logit").rewards(images, TEXTS)
    torch.testing.assert_close(logit, wanted.logits_per_image.diagonal(), rtol=1e-5, atol=1e-6)
    assert wanted.logits_per_image.std() > 0.1


@pytest.mark.parametrize("make", [metaclip2_folder, altclip_folder])
def test_relatives_of_clip_have_its_scores(make: Any, tmp_path: Path) -> None:
    folder, images = make(tmp_path), pictures()
    wanted = raw(folder, images)
    rewards, _ = load_rewards([f"clip:{folder}"])
    cosine = rewards["clip"](outcome_of_texts(images, TEXTS)).sum(1)
    torch.testing.assert_close(
        cosine, (wanted.image_embeds * wanted.text_embeds).sum(1), rtol=1e-5, atol=1e-6
    )
    assert cosine.std() > 1e-3
    encoder = ClipEncoder.from_pretrained(folder)
    assert encoder.max_tokens == NUM_WORDS and encoder.size == SIDE
    # A text at the end of what it reads.
    long = raw(folder, images, ["a red dog on the left a big blue cat"] * 4).text_embeds
    torch.testing.assert_close(
        encoder.texts(["a red dog on the left a big blue cat"]), long[:1], rtol=1e-5, atol=1e-6
    )


def test_siglip_2_sees_images_in_their_own_shapes(tmp_path: Path) -> None:
    folder, square = siglip2_folder(tmp_path), pictures(3)
    shapes = [(16, 40), (40, 16), (24, 24)]
    whole = [torch.randint(256, (3, *shape), dtype=torch.uint8) for shape in shapes]
    images = Images(pixels=square.pixels, whole=whole)
    wanted = raw(folder, images, TEXTS[:3])
    judge, _ = load_rewards([f"siglip:{folder}"])
    found = judge["siglip"](outcome_of_texts(images, TEXTS[:3])).sum(1)
    torch.testing.assert_close(found, wanted.logits_per_image.diagonal().sigmoid(), rtol=1e-4, atol=1e-5)
    half = ClipSimilarity.from_pretrained(folder, dtype=torch.bfloat16).rewards(images, TEXTS[:3])
    whole_precision = ClipSimilarity.from_pretrained(folder).rewards(images, TEXTS[:3])
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, whole_precision, rtol=0.1, atol=0.05)


def test_whole_images_are_prepared_as_the_processor_prepares_files(tmp_path: Path) -> None:
    folder = clip_folder(tmp_path)
    whole = [torch.randint(256, (3, *shape), dtype=torch.uint8) for shape in [(SIDE, 40), (40, SIDE)]]
    images = Images(pixels=pictures(2).pixels, whole=whole)
    judge = ClipSimilarity.from_pretrained(folder)
    wanted = raw(folder, images, TEXTS[:2]).image_embeds
    torch.testing.assert_close(judge.image_embeddings(images), wanted, rtol=1e-5, atol=1e-6)


def test_siglips_probability_is_the_sigmoid_of_the_forward_pass(tmp_path: Path) -> None:
    folder, images = siglip_folder(tmp_path), pictures()
    wanted = raw(folder, images)
    judge = ClipSimilarity.from_pretrained(folder, scale="probability")
    torch.testing.assert_close(
        judge.rewards(images, TEXTS), wanted.logits_per_image.diagonal().sigmoid(), rtol=1e-4, atol=1e-5
    )
    cosine = ClipSimilarity.from_pretrained(folder).rewards(images, TEXTS)
    torch.testing.assert_close(
        cosine, (wanted.image_embeds * wanted.text_embeds).sum(1), rtol=1e-4, atol=1e-5
    )
    assert judge.preparation.resampling == "bilinear"


@pytest.mark.parametrize("make", [clip_folder, siglip_folder])
def test_half_precision_towers_keep_float32_heads(tmp_path: Path, make: Any) -> None:
    folder, images = make(tmp_path), pictures(64)
    whole = ClipSimilarity.from_pretrained(folder).rewards(images, ["cat"] * 64)
    half = ClipSimilarity.from_pretrained(folder, dtype=torch.bfloat16).rewards(images, ["cat"] * 64)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, whole, rtol=0.1, atol=0.05)
    # The same scores in three digits would tie.
    assert len(half.unique()) == 64 > len(half.bfloat16().unique())


def test_rewards_and_evaluations_are_of_one_encoder(tmp_path: Path) -> None:
    judge, images = ClipSimilarity.from_pretrained(clip_folder(tmp_path)), pictures()
    encoder = judge.encoder
    assert torch.equal(judge.image_embeddings(images), encoder.images(images.pixels))
    torch.testing.assert_close(judge.text_embeddings(TEXTS), encoder.texts(TEXTS), rtol=1e-5, atol=1e-6)
    # Resized on the device, pixels of noise are 0.15 of 255 levels from the processor's, at most 3.
    larger = torch.randint(256, (8, 3, SIDE * 2, SIDE * 3), dtype=torch.uint8)
    theirs = encoder.image_processor(list(larger), return_tensors="pt", input_data_format="channels_first")
    levels = (judge.preparation(larger) - theirs["pixel_values"]).abs() * 255 * max(judge.preparation.std)
    assert levels.max() < 3.2 and levels.mean() < 0.2


def test_one_image_at_a_time_changes_nothing(tmp_path: Path) -> None:
    judge, images = ClipSimilarity.from_pretrained(siglip_folder(tmp_path)), pictures()
    together = judge.rewards(images, TEXTS)
    judge.batch = 1
    torch.testing.assert_close(judge.rewards(images, TEXTS), together, rtol=1e-5, atol=1e-6)


def test_an_aesthetic_head_is_a_linear_layer_on_the_unit_embedding(tmp_path: Path) -> None:
    folder, images = clip_folder(tmp_path / "clip"), pictures()
    embedded = raw(folder, images).image_embeds
    only = torch.randn(1, WIDTH)
    layers = {"weight": only, "bias": torch.tensor([5.0])}
    save_file(layers, tmp_path / "head.safetensors")
    torch.save(layers, tmp_path / "head.pth")
    wanted = embedded @ only[0] + 5
    for name in ("head.safetensors", "head.pth"):
        found = AestheticReward.from_pretrained(folder, tmp_path / name).rewards(images)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    outcome = outcome_of_texts(images, TEXTS)
    rewards, _ = load_rewards([f"aesthetic:{folder}+{tmp_path / 'head.safetensors'}=2"])
    torch.testing.assert_close(rewards["aesthetic"](outcome).sum(1), wanted, rtol=1e-4, atol=1e-5)


def laion_head(places: tuple[int, ...]) -> tuple[torch.nn.Sequential, dict[str, torch.Tensor]]:
    """A head as torch builds it, linear layers at these places, and its tensors under LAION's names."""
    widths = [WIDTH, 6, 5, 4, 3, 1]
    parts: list[torch.nn.Module] = []
    for number, place in enumerate(places):
        between = place - len(parts)
        parts += [torch.nn.ReLU()] * (11 in places and between > 0) + [torch.nn.Dropout()] * (
            between - (11 in places and between > 0)
        )
        parts.append(torch.nn.Linear(widths[number], widths[number + 1]))
    head = torch.nn.Sequential(*parts).eval()
    return head, {f"layers.{name}": value for name, value in head.state_dict().items()}


@pytest.mark.parametrize("places", [(0, 2, 4, 6, 7), (0, 3, 6, 9, 11)])
def test_the_numbers_of_laions_heads_tell_their_activations(tmp_path: Path, places: tuple[int, ...]) -> None:
    folder, images = clip_folder(tmp_path / "clip"), pictures()
    head, tensors = laion_head(places)
    torch.save(tensors, tmp_path / "head.pth")
    with torch.no_grad():
        embedded = raw(folder, images).image_embeds
        wanted = head(embedded / embedded.norm(dim=1, keepdim=True))[:, 0]
    found = AestheticReward.from_pretrained(folder, tmp_path / "head.pth").rewards(images)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "places", [(0, 2, 4, 6, 8), (0, 3, 6, 9, 10), (1, 3, 5, 7, 8), (0, 1, 2, 3, 4), (0, 3, 6, 9, 12)]
)
def test_a_head_that_leaves_its_activations_open_is_refused(tmp_path: Path, places: tuple[int, ...]) -> None:
    torch.save(laion_head(places)[1], tmp_path / "head.pth")
    with pytest.raises(ValueError, match=r"leave open what stands between them; known are LAION's 0, 2, 4"):
        read_layers(tmp_path / "head.pth")


class _Loud:
    def __reduce__(self) -> Any:
        return print, ("loaded",)


def test_a_head_that_is_no_file_of_tensors_is_refused_without_bad_advice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"layers.0.weight": _Loud()}, tmp_path / "head.pth")
    with pytest.raises(
        ValueError,
        match=r"head\.pth cannot be read: it holds something else than tensors; download it again$",
    ):
        read_layers(tmp_path / "head.pth")
    (tmp_path / "head.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(
        ValueError,
        match=r"head\.pth cannot be read: it is a pointer of Git LFS, not the file itself",
    ):
        read_layers(tmp_path / "head.pth")
    assert capsys.readouterr().out == ""


def test_names_of_the_command_line_load_the_family(tmp_path: Path) -> None:
    clip, siglip, images = clip_folder(tmp_path / "a"), siglip_folder(tmp_path / "b"), pictures()
    rewards, weights = load_rewards(
        [f"pickscore:{clip}=0.04", f"hps:{clip}", f"siglip:{siglip}", f"clip:{siglip}"]
    )
    assert weights == {"pickscore": 0.04, "hps": 1, "siglip": 1, "clip": 1}
    outcome = outcome_of_texts(images, TEXTS)
    wanted = raw(clip, images)
    found = {name: reward(outcome).sum(1) for name, reward in rewards.items()}
    torch.testing.assert_close(found["pickscore"], wanted.logits_per_image.diagonal(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found["hps"], (wanted.image_embeds * wanted.text_embeds).sum(1), rtol=1e-4, atol=1e-5
    )
    probability = raw(siglip, images).logits_per_image.diagonal().sigmoid()
    torch.testing.assert_close(found["siglip"], probability, rtol=1e-4, atol=1e-5)


def test_a_reward_judges_the_caption_or_the_prompt(tmp_path: Path) -> None:
    judge, images = ClipSimilarity.from_pretrained(clip_folder(tmp_path)), pictures()
    drawn = outcome_of_texts(images, ["yes"] * 4, drawn_from=TEXTS)
    prompt = ImageReward(rewards=judge.rewards, text="prompt")(drawn).sum(1)
    torch.testing.assert_close(prompt, judge.rewards(images, TEXTS))
    torch.testing.assert_close(judge(drawn).sum(1), judge.rewards(images, ["yes"] * 4))
    photo = outcome_of_texts(images, TEXTS)
    photo.sources[0] = "photos/one.JPG"
    with pytest.raises(ValueError, match=r"'photos/one\.JPG' is an image, not the prompt"):
        ImageReward(rewards=judge.rewards, text="prompt")(photo)
    with pytest.raises(ValueError, match="text is 'title'"):
        ImageReward(rewards=judge.rewards, text="title")  # pyright: ignore[reportArgumentType]


def test_the_same_score_is_an_evaluation(tmp_path: Path) -> None:
    judge, images = ClipSimilarity.from_pretrained(clip_folder(tmp_path)), pictures()
    found = measured("clip", judge.rewards, images, TEXTS, sources=list("abcd"))
    assert found.per_sample["clip"] == pytest.approx([float(v) for v in judge.rewards(images, TEXTS)])
    assert found.metrics["clip"] == pytest.approx(sum(found.per_sample["clip"]) / 4)
    assert found.samples[1] == {"source": "b", "caption": "cat"}
    with pytest.raises(ValueError, match="4 images and 3 texts"):
        measured("clip", judge.rewards, images, TEXTS[:3])


def test_folders_that_cannot_judge_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"makes images of 24 x 24 pixels, the model sees 16 x 16"):
        ClipSimilarity.from_pretrained(clip_folder(tmp_path / "size", side=24))
    folder = clip_folder(tmp_path / "hole")
    tensors = load_file(folder / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 of \d+ weights \(text_projection\.weight\)"):
        ClipSimilarity.from_pretrained(folder)
    Siglip2Config().save_pretrained(tmp_path / "naflex")
    with pytest.raises(ValueError, match="a SigLIP 2 of any resolution, not a CLIP; --custom-rewards sig"):
        ClipEncoder.from_pretrained(tmp_path / "naflex")
    whole = clip_folder(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"is a CLIP, not a SigLIP; .*--custom-rewards clip:NAME"):
        ClipSimilarity.from_pretrained(whole, scale="probability")
    with pytest.raises(ValueError, match="which only SigLIP was trained for"):
        ClipSimilarity(ClipEncoder.from_pretrained(whole), scale="probability")


def test_heads_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    clip = ClipSimilarity.from_pretrained(clip_folder(tmp_path / "clip"))
    one = torch.zeros(1)
    with pytest.raises(ValueError, match=f"layer 0 of the head takes 5 numbers and is given {WIDTH}"):
        AestheticReward(clip=clip, layers=((torch.zeros(1, 5), one),))
    with pytest.raises(ValueError, match="says 2 numbers about an image"):
        AestheticReward(clip=clip, layers=((torch.zeros(2, WIDTH), torch.zeros(2)),))
    with pytest.raises(ValueError, match="there is no head"):
        read_layers(tmp_path / "nothing.safetensors")
    save_file({"layers.0.weight": torch.zeros(1, 2)}, tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match=r"no row of linear layers; it holds layers\.0\.weight"):
        read_layers(tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match=r"needs a CLIP and the file of its head: CLIP\+HEAD"):
        load_rewards(["aesthetic"])
