"""Drawings on one sheet that can be read: prompts above, file names below, settings at the foot."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sightloop.image_files import open_image

SIDE = 256
"""Of an image on the sheet: tiny ones are enlarged, large ones made smaller."""
_GAP, _LINE, _LETTER = 8, 20, 7
_COLUMNS = 4
_PAPER, _INK, _FAINT = (255, 255, 255), (30, 30, 30), (110, 110, 110)


def labelled_sheet(drawings: Sequence[tuple[Path, str]], settings: str) -> Image.Image:
    """The sheet of images and their prompts; those of one prompt stand together."""
    together = groupby(drawings, key=itemgetter(1))
    groups = [(prompt, [path for path, _ in group]) for prompt, group in together]
    columns = min(_COLUMNS, max(len(paths) for _, paths in groups))
    width = columns * (SIDE + _GAP) + _GAP
    letters = width // _LETTER
    blocks = [(textwrap.wrap(prompt, letters) or [""], paths) for prompt, paths in groups]
    foot = textwrap.wrap(settings, letters)
    cell = SIDE + _LINE + _GAP
    height = sum(len(lines) * _LINE + math.ceil(len(paths) / columns) * cell for lines, paths in blocks)
    sheet = Image.new("RGB", (width, height + len(foot) * _LINE + 2 * _GAP), _PAPER)
    pen, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(14), ImageFont.load_default(12)
    top = _GAP
    for lines, paths in blocks:
        for line in lines:
            pen.text((_GAP, top), line, fill=_INK, font=font)
            top += _LINE
        for place, path in enumerate(paths):
            left = _GAP + place % columns * (SIDE + _GAP)
            under = top + place // columns * cell
            sheet.paste(_visible(open_image(path)), (left, under))
            pen.text((left, under + SIDE + 2), path.name, fill=_FAINT, font=small)
        top += math.ceil(len(paths) / columns) * cell
    for line in foot:
        pen.text((_GAP, top), line, fill=_FAINT, font=small)
        top += _LINE
    return sheet


def _visible(image: Image.Image) -> Image.Image:
    """The image in the side of the sheet; pixels of tiny ones stay squares."""
    larger = max(image.size)
    how = Image.Resampling.NEAREST if larger < SIDE else Image.Resampling.LANCZOS
    size = tuple(max(1, round(side * SIDE / larger)) for side in image.size)
    return image.convert("RGB").resize((size[0], size[1]), how)
