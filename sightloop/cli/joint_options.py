"""The options of `sightloop evaluate joint`; loads no network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sightloop.evaluators.settings import JointSettings
from sightloop.models.families import Parts
from sightloop.ranges import Count, require_ranges


@dataclass(frozen=True, kw_only=True)
class JointOptions:
    """How well a model draws and how well it answers, on the same prompts; two models side by side.

    Every prompt is drawn several times with seeds made from its text; each drawing is judged by the embedded
    world's checker or by GenEval's rules on what a detector sees, and the model is asked about it, and about
    images that are not its own. Two models get the same prompts, seeds and images, so that their
    differences have paired intervals.
    """

    policy: Annotated[str, tyro.conf.arg(name="model")] = ""
    """Folder or hub name of a Show-o or Janus, or a run (its best step); empty = the embedded world's."""
    against: str | None = None
    """What it is compared with, named in the same way. Left out, a run is compared with the model that it
    started from, and any other policy with nothing; "none" = nothing.
    """
    world_model: Literal["show-o", "janus"] = "show-o"
    """Which of the embedded world's models, if none is named."""
    parts: Annotated[Parts, tyro.conf.arg(name="")] = field(default_factory=Parts)
    evaluation: Annotated[JointSettings, tyro.conf.arg(name="")] = field(default_factory=JointSettings)
    vocabulary: Literal["auto", "real", "shapes"] = "auto"
    """Words of the quizzes; auto = as the run was trained, the embedded world's for its own models, else
    "real".
    """
    max_tokens: Count | None = None
    """Longest answer; default as the run was trained, else 32."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of frozen weights."""
    device: str = "auto"
    """auto (an accelerator if there is one, else the CPU), cpu, cuda, cuda:1, xpu or mps."""
    output: Path | None = None
    """Write everything there as JSON: figures, intervals, every drawing's verdict and answer."""
    pictures: Annotated[Path | None, tyro.conf.arg(name="image-dir")] = None
    """Folder for sheet.png: the drawings of both models side by side, right ones framed in green."""

    def __post_init__(self) -> None:
        require_ranges(self)
