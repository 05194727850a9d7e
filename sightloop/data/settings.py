"""Which images a run trains on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from sightloop.ranges import Count, Fraction

IN_PYTHON = "python:"
"""How the names of images and functions begin that a Python program holds."""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How images are opened and shuffled, whatever names them."""

    fit: Literal["crop", "squash"] = "squash"
    """Square images by cropping, or as BLIP-2's own processor does; for captioners that read squares (BLIP-2,
    and others with --captioner.image-size).
    """
    workers: Count = 2
    """Threads that read images ahead."""
    max_broken_fraction: Fraction = 0.05
    """Share of the images that may be broken before the run stops."""
    max_pixels: Count = 89_478_485
    """An image of more pixels counts as broken."""


@dataclass(frozen=True, kw_only=True)
class DataSettings(Opening):
    """Where images come from."""

    images: Annotated[str, tyro.conf.arg(aliases=("--images",))] = ""
    """Folder, glob, tar shards, parquet, video files, or a Karpathy JSON; empty = scenes of the embedded
    world.
    """
    image_root: str = ""
    """Folder of the images that a Karpathy JSON names."""
    split: str = "train"
    """Split of a Karpathy JSON."""
    column: str = ""
    """Column of the images in parquet files that have several; empty = the only one, or "image"."""


@dataclass(frozen=True, kw_only=True)
class RowSettings(Opening):
    """Where rows come from: images, a prompt, and any other columns, which rewards ask for by name."""

    rows: Annotated[str, tyro.conf.arg(aliases=("--rows",))] = ""
    """JSON lines, parquet, a folder or hub name of `datasets`; empty = questions about scenes of the embedded
    world.
    """
    split: str = "train"
    """Split of a data set that has several."""
    image_root: str = ""
    """Folder that names of images start from; empty = that of the file."""
    column: str = ""
    """Column of the images, or of a video; empty = image, images, video or videos."""
    prompt_column: str = "prompt"
    """Column of what is asked: a text, or messages."""
    reference_column: str = "reference"
    """Column of the true answer, for rewards that compare with one; rows may have none."""
    frames: Count = 8
    """Images of a video, evenly spaced."""
    allow_text: bool = False
    """Rows without an image are asked as texts instead of ending the run."""
