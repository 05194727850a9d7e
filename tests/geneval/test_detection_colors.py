"""Colors of objects by CLIP: crops, preparation, texts, with the embedded world's CLIP."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from sightloop.geneval.colors import TEMPLATES, ClipColors, crop_of
from sightloop.geneval.prompts import COLORS
from sightloop.geneval.rules import Detection
from sightloop.models.clip import ClipEncoder
from sightloop.world.bundled import WEIGHTS
from sightloop.world.scenes import COLOR_RGB


@pytest.fixture(scope="module")
def clip() -> ClipEncoder:
    """The embedded world's CLIP, 32 pixels wide."""
    return ClipEncoder.from_pretrained(WEIGHTS / "clip")


def random_image(width: int, height: int) -> Image.Image:
    """Random pixels."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_what_the_mask_leaves_out_is_grey_and_halves_round_to_even() -> None:
    image = Image.new("RGB", (6, 4), (10, 20, 30))
    mask = np.zeros((4, 6), dtype=bool)
    mask[1, 2] = True
    crop = np.asarray(crop_of(image, (1.5, 0.5, 4.5, 2.5), mask=mask))
    # Columns 2 to 3, rows 0 to 1.
    assert crop.tolist() == [[[153] * 3, [153] * 3], [[10, 20, 30], [153] * 3]]
    assert np.asarray(crop_of(image, (1.5, 0.5, 4.5, 2.5))).tolist() == [[[10, 20, 30]] * 2] * 2
    with pytest.raises(ValueError, match="a mask of 4 x 6 pixels for an image of 6 x 4"):
        crop_of(image, (0, 0, 1, 1), mask=mask.T)


@pytest.mark.parametrize("size", [(40, 40), (32, 64), (96, 48), (20, 61)])
def test_preparation_is_clips_own_where_the_center_is_the_same(
    clip: ClipEncoder, size: tuple[int, int]
) -> None:
    crop = random_image(*size)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32},
        image_mean=clip.image_processor.image_mean, image_std=clip.image_processor.image_std,
    )  # fmt: skip
    wanted = processor(crop, return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(ClipColors(clip)._prepared(crop), wanted, atol=1e-5)


def test_the_center_is_rounded_to_the_even_pixel(clip: ClipEncoder) -> None:
    # 35 columns for 32: three too many; 1.5 rounds to 2, and 0.5 of 33 columns to 0.
    for width, left in ((35, 2), (33, 0)):
        picture = random_image(width, 32)
        values = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[:, :, left : left + 32] / 255
        mean, spread = (
            torch.tensor(v)[:, None, None]
            for v in (clip.image_processor.image_mean, clip.image_processor.image_std)
        )
        assert torch.allclose(ClipColors(clip)._prepared(picture), (values - mean) / spread, atol=1e-5)


def test_a_classifier_is_the_mean_of_three_texts_a_color(clip: ClipEncoder) -> None:
    found = ClipColors(clip)._classifier("square")
    assert found.shape == (10, 96)
    texts = ["a photo of a blue square", "a photo of a blue-colored square", "a photo of a blue object"]
    wanted = F.normalize(clip.texts(texts, max_characters=None).mean(0), dim=0)
    assert torch.allclose(found[COLORS.index("blue")], wanted, atol=1e-5)
    assert len(TEMPLATES) == 3


def test_the_color_is_the_text_closest_to_the_crop(clip: ClipEncoder) -> None:
    image = Image.new("RGB", (64, 64), "white")
    boxes = {}
    for place, color in enumerate(["red", "green", "blue"]):
        left = 4 + 20 * place
        image.paste(tuple(COLOR_RGB[color]), (left, 20, left + 14, 34))
        boxes[color] = (float(left), 20.0, left + 14.0, 34.0)
    seen = [Detection(name="square", box=box, score=0.9) for box in boxes.values()]
    judge = ClipColors(clip)
    found = judge.colors(image, seen)
    assert len(found) == 3 and set(found) <= set(COLORS)
    # Each object by itself, and by hand.
    assert found == [judge.colors(image, [one])[0] for one in seen]
    for one, color in zip(seen, found, strict=True):
        pixels = judge._prepared(crop_of(image, one.box))[None]
        embedded = clip.model.get_image_features(pixel_values=pixels).pooler_output[0]
        assert COLORS[int((judge._classifier("square") @ embedded).argmax())] == color
    assert judge.colors(image, []) == []


def test_a_box_without_pixels_has_no_color(clip: ClipEncoder) -> None:
    with pytest.raises(ValueError, match="a crop of 0 x 8 pixels has no color"):
        ClipColors(clip).colors(random_image(9, 9), [Detection(name="dog", box=(5.5, 1, 6.5, 9), score=0.9)])


def test_the_record_tells_which_clip_named_the_colors(clip: ClipEncoder) -> None:
    protocol = ClipColors(clip).protocol
    assert protocol["color_encoder"] == "clip" and len(protocol["color_encoder_weights"]) == 12
