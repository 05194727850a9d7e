"""Drawings of two models on one sheet: the same prompts and seeds, right ones framed in green."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sightloop.evaluators.image_checks import ImageCheck
from sightloop.image_files import open_image
from sightloop.models.atomic_files import atomic_write
from sightloop.quizzes.grammar import CATEGORIES, Quiz
from sightloop.text_files import form_of, read_json
from sightloop.types import Images

_KEPT_SIDE, _SIDE, _FRAME, _GAP = 256, 112, 4, 8
_LINE = 20
_PER_CATEGORY, _COLUMNS = 4, 4
_RIGHT, _WRONG, _PAPER, _INK = (46, 160, 67), (205, 60, 50), (255, 255, 255), (30, 30, 30)


@dataclass(frozen=True, kw_only=True)
class SheetImage:
    """A drawing of an evaluation, its row there and the verdict."""

    row: int
    prompt: str
    category: str
    picture: Image.Image
    is_right: bool


class RecordingCheck:
    """A `PictureCheck` that keeps small copies of what it judges, in order."""

    def __init__(self, check: ImageCheck) -> None:
        self._check = check
        self.pictures: list[Image.Image] = []

    @property
    def protocol(self) -> dict[str, str]:
        """What its verdicts depend on."""
        return self._check.protocol

    def right(self, images: Images, quizzes: Sequence[Quiz]) -> list[bool]:
        """Whether each drawing shows all that its quiz asks for."""
        for pixels in images.pixels:
            image = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy()))
            image.thumbnail((_KEPT_SIDE, _KEPT_SIDE))
            self.pictures.append(image)
        return self._check.right(images, quizzes)

    def share(self, images: Images, quizzes: Sequence[Quiz]) -> Float[Tensor, " B"]:
        """How much of it each drawing shows."""
        return self._check.share(images, quizzes)


def drawn_in(samples: Sequence[dict[str, Any]], images: Sequence[Image.Image]) -> list[SheetImage]:
    """The samples of an evaluation with their images, one each."""
    return [
        _drawn(row, sample, image) for row, (sample, image) in enumerate(zip(samples, images, strict=True))
    ]


def drawn_by_run(run: Path, step: int) -> list[SheetImage]:
    """The drawings of a run's evaluation at a step whose images were kept.

    Raises:
        ValueError: it was not evaluated then, or kept no images.
    """
    file = run / "evaluations" / f"joint_step_{step:06d}.json"
    if not file.is_file():
        raise ValueError(f"{run} was not evaluated at step {step}: there is no {file.name}")
    found: list[SheetImage] = []
    with form_of(str(file)):
        for row, sample in enumerate(read_json(file)["samples"]):
            if sample.get("image"):
                found.append(_drawn(row, sample, open_image(run / sample["image"])))
    if not found:
        raise ValueError(f"{run} kept no images of step {step}")
    return found


def _drawn(row: int, sample: dict[str, Any], image: Image.Image) -> SheetImage:
    return SheetImage(
        row=row,
        prompt=sample["source"],
        category=sample["category"],
        picture=image,
        is_right=sample["drawn"] == "right",
    )


def write_sheet(path: Path, sides: dict[str, list[SheetImage]]) -> None:
    """One row a prompt, some of each category; the same drawings of every side, named at the top."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        sheet_of(sides).save(partial)


def sheet_of(sides: dict[str, list[SheetImage]]) -> Image.Image:
    """The sheet: sides from left to right, prompts from top to bottom."""
    rows = _chosen(next(iter(sides.values())))
    found = [{one.row: one for one in side} for side in sides.values()]
    columns = max(len(row) for row in rows)
    cell = _SIDE + 2 * _FRAME
    block = columns * (cell + _GAP) + 2 * _GAP
    height = _LINE + cell + _GAP
    sheet = Image.new("RGB", (len(sides) * block + _GAP, _LINE + len(rows) * height + _GAP), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for place, name in enumerate(sides):
        pen.text((_GAP + place * block, 2), name, fill=_INK, font=font)
    for number, row in enumerate(rows):
        top = _LINE + number * height
        pen.text((_GAP, top + 2), f"{row[0].category}: {row[0].prompt}", fill=_INK, font=font)
        for place, side in enumerate(found):
            for column, one in enumerate(row):
                if one.row in side:
                    left = _GAP + place * block + column * (cell + _GAP)
                    sheet.paste(_framed(side[one.row]), (left, top + _LINE))
    return sheet


def _chosen(drawn: Sequence[SheetImage]) -> list[list[SheetImage]]:
    """Some prompts of each category, spread over them, with some of their drawings."""
    rows: list[list[SheetImage]] = []
    for category in CATEGORIES:
        prompts: dict[str, list[SheetImage]] = {}
        for one in drawn:
            if one.category == category:
                prompts.setdefault(one.prompt, []).append(one)
        every = list(prompts.values())
        shown = min(_PER_CATEGORY, len(every))
        rows += [every[place * len(every) // shown][:_COLUMNS] for place in range(shown)]
    return rows


def _framed(one: SheetImage) -> Image.Image:
    framed = Image.new("RGB", (_SIDE + 2 * _FRAME, _SIDE + 2 * _FRAME), _RIGHT if one.is_right else _WRONG)
    # Large steps stay visible: the embedded world's images have 32 pixels along the side.
    method = Image.Resampling.NEAREST if one.picture.width < _SIDE else Image.Resampling.BICUBIC
    framed.paste(one.picture.resize((_SIDE, _SIDE), method), (_FRAME, _FRAME))
    return framed
