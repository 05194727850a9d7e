"""Which images a run trains on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from sightloop.ranges import Count, Fraction

IN_PYTHON = "python:"
"""How the names of images and functions begin that a Python program holds."""


@dataclass(frozen=True, kw_only=True)
class DataSettings:
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
