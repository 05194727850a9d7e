from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import pytest
import torch
from PIL import Image

from sightloop.rewards.custom import load_rewards
from sightloop.rewards.plain import DetectorReward, JpegSize, caption_length
from sightloop.rewards.samples import outcome_of_texts
from sightloop.types import Images


def flat_and_noisy() -> Images:
    pixels = torch.full((2, 3, 32, 32), 90, dtype=torch.uint8)
    pixels[1] = torch.randint(256, (3, 32, 32), dtype=torch.uint8)
    return Images(pixels=pixels)


def test_the_size_is_that_of_the_file_that_pillow_writes() -> None:
    images = flat_and_noisy()
    file = BytesIO()
    Image.fromarray(images.pixels[1].permute(1, 2, 0).numpy()).save(file, format="JPEG", quality=95)
    found = JpegSize().rewards(images)
    assert found[1].item() == pytest.approx(-len(file.getvalue()) / 1000 / 500)
    assert found[0] > found[1]
    torch.testing.assert_close(JpegSize(sign=1).rewards(images), -found)
    with pytest.raises(ValueError, match="quality is 0"):
        JpegSize(quality=0)


def test_length_and_jpeg_have_names_and_no_model() -> None:
    images = flat_and_noisy()
    outcome = outcome_of_texts(images, ["a red dog", "cat"])
    rewards, weights = load_rewards(["length=0.5", "jpeg"])
    assert rewards["length"](outcome).tolist() == [[0, 0, 0, 3], [0, 1, 0, 0]] and weights["length"] == 0.5
    torch.testing.assert_close(rewards["jpeg"](outcome).sum(1), JpegSize().rewards(images))
    assert caption_length(outcome).tolist() == rewards["length"](outcome).tolist()
    with pytest.raises(ValueError, match="'length' has no model; leave ':words' out"):
        load_rewards(["length:words"])


def detect(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Sequence[Any]:
    return [picture.getpixel((0, 0)) for picture in pictures]


def test_detections_go_through_a_rule_with_their_prompts() -> None:
    images = flat_and_noisy()
    drawn = outcome_of_texts(images, ["yes", "no"], drawn_from=["a dog", "two cats"])
    reward = DetectorReward(detect=detect, rule=lambda prompt, found: len(prompt) + found[0])
    assert reward(drawn).sum(1).tolist() == [5 + 90, 8 + int(images.pixels[1, 0, 0, 0])]
    with pytest.raises(ValueError, match="answered about 1 of 2 images"):
        DetectorReward(detect=lambda pictures, prompts: [0], rule=lambda prompt, found: 0.0)(drawn)
    with pytest.raises(ValueError, match="the rule says inf about two cats, text 'no'"):
        DetectorReward(detect=detect, rule=lambda p, found: float("inf") if p == "two cats" else 0.0)(drawn)
