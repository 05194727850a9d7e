"""The options of `sightloop evaluate both-sides`; loads no network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sightloop.models.prompt_strings import PromptOptions


@dataclass(frozen=True, kw_only=True)
class BothSidesOptions:
    """How well a model draws and how well it answers, on the same prompts; two models side by side.

    Every prompt is drawn several times with seeds made from its text; each drawing is judged by the embedded
    world's checker or by GenEval's rules on what a detector sees, and the model is asked about it, and about
    pictures that are not its own. Two models get the same prompts, seeds and pictures, so that their
    differences have paired intervals.
    """

    policy: str = ""
    """Folder of a Show-o or Janus, or of a run (its best step); empty = the embedded world's."""
    against: str | None = None
    """What it is compared with, named in the same way. Left out, a run is compared with the model that it
    started from, and any other policy with nothing; "none" = nothing.
    """
    world_model: Literal["show-o", "janus"] = "show-o"
    """Which of the embedded world's models, if none is named."""
    magvit: Path | None = None
    """MAGVIT-v2 of a Show-o that was not converted; like the next two, of both models that are no runs."""
    tokenizer: Path | None = None
    """Tokenizer of a model whose folder has none."""
    tower: str = ""
    """CLIP (folder or hub name) of the Show-o that reads its features (w-clip-vit)."""
    prompts: PromptOptions = field(default_factory=PromptOptions)
    file: str = ""
    """Quizzes to draw and ask, JSON lines, 4 drawings each; empty = a fixed set made by the grammar."""
    per_category: int = 48
    """Drawings a category of that fixed set, at least 4 a prompt."""
    vocabulary: Literal["auto", "real", "shapes"] = "auto"
    """Words of the quizzes; auto = as the run was trained, the embedded world's for its own models, else
    "real".
    """
    detector: str = ""
    """Judge of the drawings: a Mask2Former (folder or hub name), or module:function; empty = the embedded
    world's checker.
    """
    colours: str = ""
    """CLIP that names the colours of what was detected."""
    fixed: str = ""
    """Pictures that are not the models' own, in GenEval's folder, to be asked about; empty = scenes of the
    embedded world, or none.
    """
    seed: int = 1
    """The seed of a drawing is made from this, its prompt and its number."""
    max_tokens: int | None = None
    """Longest answer; default as the run was trained, else 32."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of frozen weights."""
    device: str = "auto"
    output: Path | None = None
    """Write everything there as JSON: figures, intervals, every drawing's verdict and answer."""
    pictures: Path | None = None
    """Folder for sheet.png: the drawings of both models side by side, right ones framed in green."""
