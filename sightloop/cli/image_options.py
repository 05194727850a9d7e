"""The options of `sightloop convert | draw | ask`; loads no network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sightloop.models.families import Parts
from sightloop.models.prompt_strings import PromptOptions
from sightloop.ranges import Count, NotNegative, Seed, require_ranges

Positional = tyro.conf.Positional


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Checkpoints of models that draw: from their authors' folders to such that load here, and back.

    Show-o becomes a folder with its language model, tokenizer and MAGVIT-v2; Janus becomes a folder that
    transformers loads.
    """

    family: Positional[Literal["show-o", "magvit2", "janus"]]
    source: Positional[Path]
    """Folder or hub name of the checkpoint; for magvit2 also a weight file."""
    output: Positional[Path]
    """Folder to write; it must not exist yet, or be empty."""
    to: Literal["sightloop", "official"] = "sightloop"
    """Into sightloop's folder, or into that of the authors."""
    magvit: Path | None = None
    """MAGVIT-v2 (folder, hub name or weight file), which Show-o draws with."""
    tokenizer: Path | None = None
    """Folder or hub name of the tokenizer (Show-o: Phi-1.5's), where the source has none."""
    max_text_tokens: Count | None = None
    """Text positions that a Show-o was trained with; default 128."""
    prompts: PromptOptions = field(default_factory=PromptOptions)

    def __post_init__(self) -> None:
        require_ranges(self)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model draws or answers."""

    model: str = ""
    """Folder or hub name of a Show-o or Janus, or a run (its best step); empty = the embedded world's,
    which knows only its own images and words.
    """
    world_model: Literal["show-o", "janus"] = "show-o"
    """Which of the embedded world's models, if none is named."""
    parts: Annotated[Parts, tyro.conf.arg(name="")] = field(default_factory=Parts)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the weights."""
    device: str = "auto"
    """auto (an accelerator if there is one, else the CPU), cpu, cuda, cuda:1, xpu or mps."""


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """Draw images of a prompt, or of each prompt of a file, and a sheet of them with a record of the
    settings; the defaults are the distribution of the model's authors.
    """

    prompt: Positional[str] = ""
    """What the images shall show."""
    prompt_file: Path | None = None
    """File of prompts instead, one a line."""
    number: Annotated[Count, tyro.conf.arg(name="per-prompt")] = 4
    """How many images to draw of a prompt."""
    output: Path = Path("drawings")
    """Folder; its images are kept and their numbers continued."""
    steps: Annotated[Count | None, tyro.conf.arg(name="rounds")] = None
    """Rounds of a masked decoder (Show-o): more are slower and truer."""
    guidance: NotNegative | None = None
    """How far the prompt counts; 0 = no guidance. Scales differ between families."""
    temperature: NotNegative | None = None
    """Temperature of sampling; 1 = the model's own distribution."""
    seed: Seed = 0
    """Everything random follows from it."""
    source: Annotated[ModelOptions, tyro.conf.arg(name="")] = ModelOptions()

    def __post_init__(self) -> None:
        require_ranges(self)


@dataclass(frozen=True, kw_only=True)
class AskOptions:
    """Ask one or more questions about an image; the most likely answers are printed."""

    image: Positional[Path]
    question: Positional[tuple[str, ...]] = ()
    """Each in quotes; of several, question and answer stand in a line."""
    question_file: Path | None = None
    """File of questions, one a line."""
    output: Path | None = None
    """Write .jsonl with "image", "question" and "answer" there instead."""
    max_tokens: Count = 64
    """Longest answer."""
    source: Annotated[ModelOptions, tyro.conf.arg(name="")] = ModelOptions()

    def __post_init__(self) -> None:
        require_ranges(self)
