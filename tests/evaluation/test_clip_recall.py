"""CLIP Recall with the embedded world's CLIP on scenes whose captions are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPProcessor

from sightloop.evaluation.clip_score import PREFIX, clip_score
from sightloop.evaluation.pairs import caption_set
from sightloop.evaluation.protocol import protocol_hash
from sightloop.evaluation.retrieval import clip_recall, clip_recall_of_files
from sightloop.models.clip import MAX_CHARACTERS, ClipEncoder
from sightloop.world.bundled import WEIGHTS
from sightloop.world.language import caption
from sightloop.world.scenes import render, sample_scene

NUMBER = 40


@pytest.fixture(scope="module")
def encoder() -> ClipEncoder:
    """The embedded world's CLIP."""
    return ClipEncoder.from_pretrained(WEIGHTS / "clip")


@pytest.fixture(scope="module")
def world() -> tuple[Tensor, list[str]]:
    """Images of scenes and their full captions."""
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(NUMBER)]
    pixels = torch.stack([torch.from_numpy(render(scene, rng).copy()).permute(2, 0, 1) for scene in scenes])
    return pixels, [caption(scene, "full", rng) for scene in scenes]


def as_image(pixels: Tensor) -> Image.Image:
    """One image of a batch."""
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def test_embeddings_are_those_of_the_models_own_forward_pass(encoder: ClipEncoder, world) -> None:
    pixels, captions = world
    processor: Any = CLIPProcessor(encoder.image_processor, encoder.tokenizer)
    inputs = processor(
        text=captions, images=[as_image(row) for row in pixels], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        found = encoder.model(**inputs)
    torch.testing.assert_close(encoder.images(pixels, batch=7), found.image_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder.texts(captions, batch=7), found.text_embeds, rtol=1e-4, atol=1e-5)


def test_full_captions_find_their_images_and_shuffled_ones_do_not(encoder: ClipEncoder, world) -> None:
    pixels, captions = world
    found = clip_recall(encoder, pixels, captions)
    assert found.metrics["recall@1"] > 0.8
    assert found.metrics["image_recall@1"] > 0.8
    shuffled = clip_recall(encoder, pixels, captions[1:] + captions[:1])
    assert shuffled.metrics["recall@1"] < 0.2


def test_pixels_images_files_and_embeddings_give_the_same_figures(
    encoder: ClipEncoder, world, tmp_path: Path
) -> None:
    pixels, captions = world
    pictures = [as_image(row) for row in pixels]
    paths = [tmp_path / f"{index}.png" for index in range(NUMBER)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    wanted = clip_recall(encoder, pixels, captions)
    for images in (pictures, paths, [str(path) for path in paths], encoder.see(pixels)):
        assert clip_recall(encoder, images, captions) == wanted
    from_files = clip_recall_of_files(encoder, caption_set(zip(paths, captions, strict=True)))
    assert from_files.metrics == wanted.metrics
    assert from_files.per_sample == wanted.per_sample
    assert from_files.protocol == wanted.protocol
    assert from_files.samples[3] == {"source": str(paths[3]), "caption": captions[3]}


def test_values_per_caption_average_to_the_figures(encoder: ClipEncoder, world) -> None:
    pixels, captions = world
    found = clip_recall(encoder, pixels, captions, ties="expected")
    assert {"recall@1", "recall@5", "recall@10", "mrr", "image_recall@1", "image_mrr"} <= set(
        found.per_sample
    )
    for name, values in found.per_sample.items():
        assert len(values) == NUMBER
        assert found.metrics[name] == pytest.approx(sum(values) / NUMBER)


def test_an_image_may_have_several_captions(encoder: ClipEncoder, world) -> None:
    pixels, captions = world
    twice = clip_recall(encoder, pixels, captions * 2, target=torch.arange(2 * NUMBER) % NUMBER)
    once = clip_recall(encoder, pixels, captions)
    for name in ("mrr", "recall@1", "image_mrr", "image_recall@1"):
        assert twice.metrics[name] == pytest.approx(once.metrics[name])
    assert twice.per_sample["image_mrr"] == once.per_sample["image_mrr"] * 2
    # With unequal numbers the mean over captions is not the mean over images.
    uneven = clip_recall(encoder, pixels, [*captions, captions[0]], target=torch.tensor([*range(NUMBER), 0]))
    assert "image_mrr" not in uneven.per_sample
    assert uneven.metrics["image_mrr"] == pytest.approx(once.metrics["image_mrr"])


def test_image_values_follow_the_order_of_the_captions(encoder: ClipEncoder, world) -> None:
    pixels, captions = world
    order = torch.randperm(NUMBER)
    # `a small red` is too little for some images, so the values differ.
    terse = [" ".join(text.split()[:3]) for text in captions]
    straight = clip_recall(encoder, pixels, terse)
    assert len(set(straight.per_sample["image_mrr"])) > 1
    mixed = clip_recall(encoder, pixels, [terse[row] for row in order], target=order)
    for name, values in straight.per_sample.items():
        assert mixed.per_sample[name] == [values[row] for row in order], name


def test_ties_are_counted_and_said_but_do_not_change_the_protocols_name(encoder: ClipEncoder, world) -> None:
    pixels, captions = world
    clean = clip_recall(encoder, pixels, captions)
    assert clean.metrics["share_of_ties"] == 0
    assert "warning" not in clean.protocol
    doubled = encoder.see(pixels)
    doubled.embeddings[1] = doubled.embeddings[0]
    found = clip_recall(encoder, doubled, captions)
    assert found.metrics["share_of_ties"] == 2 / NUMBER
    assert found.protocol["warning"].startswith(f"2 of {NUMBER} captions")
    assert found.protocol["hash"] == clean.protocol["hash"]
    strict = clip_recall(encoder, doubled, captions, ties="pessimistic")
    assert strict.metrics["recall@1"] < found.metrics["recall@1"]
    assert strict.protocol["hash"] != clean.protocol["hash"]


def test_the_protocol_names_all_that_figures_depend_on(encoder: ClipEncoder, world) -> None:
    pixels, captions = world
    protocol = clip_recall(encoder, pixels, captions).protocol
    assert protocol["encoder"] == "clip"
    assert protocol["crop"] == "shorter side to 32, center 32 x 32"
    assert protocol["text_cut"] == "300 characters, then 40 tokens"
    assert (protocol["images"], protocol["captions"], protocol["ties"]) == ("40", "40", "optimistic")
    other = ClipEncoder.from_pretrained(WEIGHTS / "clip_retrieval").protocol
    assert other["encoder_weights"] != protocol["encoder_weights"]
    changed = protocol | {"ties": "expected"}
    assert protocol_hash(protocol) == protocol["hash"] != protocol_hash(changed)


def test_captions_are_cut_by_characters_and_then_by_tokens(encoder: ClipEncoder) -> None:
    # Two characters a word, begin and end token: 38 words are read.
    fits, long = " ".join(["a"] * 38), " ".join(["a"] * 39)
    by_characters = "circle" + " " * (MAX_CHARACTERS - 6) + "square"
    shares = encoder.shares_cut([fits, long, by_characters, "a cross"])
    assert shares == {"cut_by_characters": 1 / 4, "cut_by_tokens": 1 / 4}
    rows = encoder.texts([fits, long, by_characters, "circle", fits[2:]])
    assert torch.equal(rows[0], rows[1])
    assert not torch.allclose(rows[0], rows[4])
    torch.testing.assert_close(rows[2], rows[3])


def test_equal_captions_have_equal_embeddings_in_whatever_batch(encoder: ClipEncoder) -> None:
    rows = encoder.texts(["a cross", "a large red circle top-left", "a cross", "", "a cross"], batch=2)
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(rows[0], rows[4])
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(5))


def test_images_are_upright_and_transparency_is_white(encoder: ClipEncoder, world, tmp_path: Path) -> None:
    upright = as_image(world[0][0])
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned a quarter to the right
    turned.save(tmp_path / "turned.png", exif=exif)
    clear = Image.new("RGBA", (32, 32), (200, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    grey = upright.convert("L")
    found = encoder.images([tmp_path / "turned.png", tmp_path / "clear.png", grey])
    wanted = encoder.images([upright, Image.new("RGB", (32, 32), "white"), grey.convert("RGB")])
    torch.testing.assert_close(found, wanted)


def test_the_middle_of_a_long_image_is_what_counts(encoder: ClipEncoder, world) -> None:
    middle = world[0][:1]
    wide = torch.zeros(1, 3, 32, 64, dtype=torch.uint8)
    wide[..., 16:48] = middle
    torch.testing.assert_close(encoder.images(wide), encoder.images(middle))


def test_images_that_cannot_be_read_are_named(encoder: ClipEncoder, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    deep = tmp_path / "deep.png"
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(deep)
    for name in ("text.png", "half.png", "none.png"):
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            encoder.images([tmp_path / name])
    with pytest.raises(ValueError, match=r"deep.png has more than 8 bits"):
        encoder.images([deep])


def test_what_does_not_fit_together_is_refused(encoder: ClipEncoder, world) -> None:
    pixels, captions = world
    with pytest.raises(ValueError, match="no captions"):
        clip_recall(encoder, pixels, [])
    with pytest.raises(ValueError, match="no images"):
        clip_recall(encoder, [], captions)
    with pytest.raises(ValueError, match="40 images and 2 texts"):
        clip_recall(encoder, pixels, captions[:2])
    with pytest.raises(ValueError, match="1 sources for 40 captions"):
        clip_recall(encoder, pixels, captions, sources=["a"])


def test_clip_score_is_two_and_a_half_times_the_cosine(encoder: ClipEncoder, world) -> None:
    pixels, captions = world
    found = clip_score(encoder, pixels, captions)
    images = encoder.images(pixels)
    texts = torch.cat([encoder.texts([PREFIX + text], max_characters=None) for text in captions])
    wanted = 2.5 * (images * texts).sum(1).clamp(min=0)
    assert found.per_sample["clip_score"] == pytest.approx(wanted.tolist(), abs=1e-4)
    assert found.metrics["clip_score"] == pytest.approx(wanted.mean().item(), abs=1e-4)
    assert wanted.gt(0).all()
    assert clip_score(encoder, -images, captions).metrics["clip_score"] == 0


def test_ref_clip_score_is_the_harmonic_mean_with_the_best_reference(encoder: ClipEncoder, world) -> None:
    pixels, captions = world
    found = clip_score(encoder, pixels, captions, references=[["a cross", text] for text in captions])
    # The best reference is the caption itself: cosine 1.
    wanted = [2 * score / (score + 1) for score in found.per_sample["clip_score"]]
    assert found.per_sample["ref_clip_score"] == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(ValueError, match="40 captions need as many lists"):
        clip_score(encoder, pixels, captions, references=[["a cross"]])
    with pytest.raises(ValueError, match="40 images and 1 captions"):
        clip_score(encoder, pixels, captions[:1])


def test_evaluations_are_plain_data(encoder: ClipEncoder, world) -> None:
    pixels, captions = world
    found = dataclasses.asdict(clip_recall(encoder, pixels, captions))
    assert all(type(value) is float for value in found["metrics"].values())
    assert all(type(value) is float for row in found["per_sample"].values() for value in row)
    assert all(type(value) is str for value in found["protocol"].values())
