"""Which images a run trains on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where pictures come from."""

    images: Annotated[str, tyro.conf.arg(aliases=("--images",))] = ""
    """Folder, glob, tar shards, parquet, video files, or a Karpathy JSON; empty = scenes of the embedded
    world.
    """
    image_root: str = ""
    """Folder of the pictures that a Karpathy JSON names."""
    split: str = "train"
    """Split of a Karpathy JSON."""
    column: str = ""
    """Column of the pictures in parquet files that have several; empty = the only one, or "image"."""
    fit: Literal["crop", "squash"] = "squash"
    """Square pictures by cropping, or as BLIP-2's own processor does."""
    workers: int = 2
    max_broken_share: float = 0.05
    """Share of the pictures that may be broken before the run stops."""
    max_pixels: int = 89_478_485
    """A picture of more pixels counts as broken."""
