"""Which held-out images a run is evaluated on, and how it writes about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class HeldOutSettings:
    """Pictures and measures of the evaluation; the encoder is never a reward."""

    images: str = ""
    """As `data.images`; empty = no evaluation (the embedded world brings its own)."""
    image_root: str = ""
    split: str = "test"
    column: str = ""
    """As `data.column`."""
    limit: int | None = None
    clip: str = "laion/CLIP-ViT-g-14-laion2B-s12B-b42K"
    fit: Literal["crop", "squash"] = "crop"
    """The paper crops both for captioning and for retrieval."""
    beams: int = 5
    no_repeat_ngram: int = 2
    min_tokens: int = 4
    max_tokens: int = 60
