"""Whether an image shows the words that it should: read by an OCR engine, compared by edit distance.

The score of a text is that of Flow-GRPO (arXiv 2505.05470): the words in double quotes are wanted, spaces and
case do not matter; 1 if what was read contains them, else 1 minus the number of characters to change, add or
leave out, as a share of the wanted ones, at least 0.

Differences from Flow-GRPO's code:
1. A text with several quotations has the mean of their scores; there, all but the first are overlooked.
2. Typographic quotation marks count too.
3. A caption that quotes nothing earns 0. A prompt without quotation is refused: nothing can be compared.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sightloop.rewards.samples import pil_images
from sightloop.rewards.user_functions import said_of_each
from sightloop.types import Images

Reader = Callable[[Sequence[Image.Image]], Sequence[str]]
"""Reads what is written in images: one text an image, "" where there is none."""
_QUOTED = re.compile(r'"([^"]*)"|“([^”]*)”')


@dataclass(frozen=True, kw_only=True)
class WrittenWords:
    """How well the words that a text quotes can be read in its image, from 0 to 1."""

    read: Reader
    must_quote: bool = True
    """True if a text without quotation is refused, as for prompts; False if it earns 0, as for captions."""

    def rewards(self, images: Images, texts: list[str]) -> Float[Tensor, " B"]:
        """The score of each image and its text.

        Raises:
            ValueError: a text quotes nothing, or the reader answers in another form.
        """
        wanted = [self._wanted(text) for text in texts]
        opened = pil_images(images)
        # Reading takes longer than anything else here.
        rows = [row for row, words in enumerate(wanted) if words]
        some, wish = [opened[row] for row in rows], "one text an image"
        seen = said_of_each(some, self.read, what="reader", kind=str, wanted=wish) if rows else ()
        found = torch.zeros(len(texts))
        for row, text in zip(rows, seen, strict=True):
            found[row] = sum(share_read(each, text) for each in wanted[row]) / len(wanted[row])
        return found

    def _wanted(self, text: str) -> list[str]:
        found = quoted(text)
        if not found and self.must_quote:
            raise ValueError(
                f"{text!r} has no words in double quotes, which the reward `ocr` looks for in the image; "
                "give it prompts that quote what is to be written"
            )
        return found


def quoted(text: str) -> list[str]:
    """The words in double quotes, as they are compared: in small letters, without spaces.

    >>> quoted('A sign "Sight Loop" beside a door')
    ['sightloop']
    """
    found = [_compact(one or other) for one, other in _QUOTED.findall(text)]
    return [each for each in found if each]


def share_read(wanted: str, seen: str) -> float:
    """How much of `wanted` can be read in `seen`.

    >>> share_read("open", "we're open!"), share_read("open", "opec"), share_read("open", "")
    (1.0, 0.75, 0.0)
    """
    wanted, seen = _compact(wanted), _compact(seen)
    if wanted in seen:
        return 1.0
    return 1 - min(edit_distance(wanted, seen), len(wanted)) / len(wanted)


def edit_distance(one: str, other: str) -> int:
    """Characters to change, add or leave out so that one text becomes the other.

    >>> edit_distance("kitten", "sitting")
    3
    """
    row = list(range(len(other) + 1))
    for number, character in enumerate(one, 1):
        before, row[0] = row[0], number
        for place, there in enumerate(other, 1):
            before, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, before + (character != there)),
            )
    return row[-1]


def rapid_reader() -> Reader:
    """RapidOCR with the PP-OCRv4 that comes inside `rapidocr-onnxruntime`: Chinese and Latin letters.

    Raises:
        ValueError: the library is missing.
    """
    try:
        engine: Any = importlib.import_module("rapidocr_onnxruntime").RapidOCR()
    except ModuleNotFoundError as error:
        raise ValueError(
            "the reward `ocr` reads with rapidocr-onnxruntime, which is missing: pip install "
            "'sightloop[ocr]', or name a reader of your own, ocr:module:function"
        ) from error

    def read(opened: Sequence[Image.Image]) -> list[str]:
        return [" ".join(line[1] for line in engine(image)[0] or ()) for image in opened]

    return read


def _compact(text: str) -> str:
    return "".join(text.split()).lower()
