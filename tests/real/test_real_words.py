"""The reward that reads, with a real OCR engine: on words drawn here and on photographs."""

from __future__ import annotations

import pytest
from photographs import as_images, photograph
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sightloop.rewards.custom import load_rewards
from sightloop.rewards.loading import Loading
from sightloop.rewards.samples import Judged, outcome_of_texts
from sightloop.types import Images, Reward

SIDE = 512


def drawn(words: str) -> Image.Image:
    """Words as large letters in the middle of an image."""
    ground = "white" if "\n" not in words else (200, 60, 40)
    image = Image.new("RGB", (SIDE, SIDE), ground)
    ink = "black" if ground == "white" else "yellow"
    font = ImageFont.load_default(48 if ground == "white" else 90)
    ImageDraw.Draw(image).text((24, 190), words, fill=ink, font=font)
    return image


def reward(judged: Judged) -> Reward:
    """The reward as the command line names it."""
    return load_rewards(["ocr"], how=Loading(text=judged))[0]["ocr"]


def earned(images: Images, *prompts: str) -> Tensor:
    """What drawings of the prompts earn."""
    outcome = outcome_of_texts(images, ["yes"] * len(prompts), drawn_from=list(prompts))
    return reward("prompt")(outcome).sum(1)


def told(images: Images, *captions: str) -> Tensor:
    """What captions earn."""
    return reward("caption")(outcome_of_texts(images, list(captions))).sum(1)


def test_words_that_are_drawn_are_read() -> None:
    images = as_images(drawn("OPEN"), drawn("Keep the door closed"), drawn("Fresh\nBread"), drawn(""))
    right = [
        'a sign "Open"',
        'a note that says "Keep the door closed"',
        'a poster "FRESH BREAD"',
        'a wall "Hi"',
    ]
    assert earned(images, *right).tolist() == [1.0, 1.0, 1.0, 0.0]
    # Against each other's words: one letter more is wrong, or nearly all of them.
    wrong = ['a sign "Opens"', 'a note "Keep the door close!"', 'a poster "Stale bread"', 'a wall ""Hi""']
    assert earned(images, *wrong[:2], right[0], right[0]).tolist() == pytest.approx([0.8, 16 / 17, 0, 0])


def test_a_printed_page_is_read_and_handwriting_is_not() -> None:
    page = as_images(photograph("page.png"))
    for words in ("Region-based segmentation", "pixels that we can label unambiguously", "coins"):
        assert told(page, f'a page about "{words}"').tolist() == [1.0], words
    assert told(page, 'a page that says "zebra"') < 0.5
    assert told(page, "a page about segmentation").tolist() == [0.0]
    # Formulas on squared paper: a person cannot read a word there either.
    assert told(as_images(photograph("text.png")), 'a sheet with "integral"') < 0.5


def test_photographs_without_letters_have_no_words() -> None:
    for name in ("coffee.png", "chelsea.png"):
        assert told(as_images(photograph(name)), 'it says "open"').tolist() == [0.0], name


def test_a_name_tag_is_nearly_read() -> None:
    # The tag says COMO HOPPER; small letters on silver, of which the ends are lost.
    value = told(as_images(photograph("grace_hopper.jpg")), 'an officer with the tag "Como Hopper"')
    assert 0.7 < float(value) < 1
