"""Which held-out images a run is evaluated on, and how it writes about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sightloop.ranges import Count, CountOrNone, Seed


@dataclass(frozen=True, kw_only=True)
class HeldOutSettings:
    """Images and measures of the evaluation; the encoder is never a reward."""

    images: str = ""
    """As `data.images`; empty = no evaluation (the embedded world brings its own)."""
    image_root: str = ""
    """Folder that the names of the images start from."""
    split: str = "test"
    """Split of a Karpathy JSON."""
    column: str = ""
    """As `data.column`."""
    limit: Count | None = None
    """At most so many images, from the first."""
    clip: str = "laion/CLIP-ViT-g-14-laion2B-s12B-b42K"
    """CLIP that measures recall: folder or hub name; never one that rewards."""
    fit: Literal["crop", "squash"] = "crop"
    """The paper crops both for captioning and for retrieval."""
    beams: Count = 5
    """Beams of the evaluated captions; 1 = greedy."""
    no_repeat_ngram: CountOrNone = 2
    """Word sequences of this length never repeat; 0 = they may."""
    min_tokens: CountOrNone = 4
    """Shortest caption in tokens."""
    max_tokens: Count = 60
    """Longest text in tokens."""
    draw_batch: Count = 64
    """Images captioned at once on a rank."""


PER_PROMPT = 4
"""Drawings of a prompt in the evaluation, at least."""


@dataclass(frozen=True, kw_only=True)
class JointSettings:
    """The evaluation of drawing and answering; its judge of drawings is never a reward unless named."""

    quiz_file: str = ""
    """Quizzes as in `quizzes.file`; empty = a fixed set made by the grammar, kept out of training."""
    per_category: CountOrNone = 48
    """Drawings a category, at least 4 a prompt; 0 = no evaluation. With a file: 4 a prompt."""
    detector: str = ""
    """Mask2Former (folder or hub name) or module:function; empty in the embedded world = its checker."""
    colors: str = ""
    """CLIP that names colors."""
    fixed: str = ""
    """Images that are not the policy's own, in GenEval's folder, to be asked about; empty = scenes of the
    embedded world, or none.
    """
    draw_batch: Count = 96
    """Drawings made at once on a rank; they do not depend on it."""
    seed: Seed = 1
    """Everything random follows from it."""


@dataclass(frozen=True, kw_only=True)
class HeldOutRowSettings:
    """Held-out rows, which are answered greedily and judged by the rewards of training."""

    rows: str = ""
    """As `data.rows`; empty = no evaluation (the embedded world brings its own)."""
    split: str = "test"
    """Split of a data set that has several."""
    limit: Count | None = None
    """At most so many rows, from the first."""
