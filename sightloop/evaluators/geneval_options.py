"""The options of `sightloop evaluate geneval`; loads no network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sightloop.models.families import Parts
from sightloop.ranges import Count, Fraction, NotNegative, Seed, require_ranges


@dataclass(frozen=True, kw_only=True)
class DrawerOptions:
    """A policy that draws the images first."""

    policy: Annotated[str, tyro.conf.arg(name="model")] = ""
    """Model that draws the images first, into --images: folder or hub name of a Show-o or Janus, a run, or
    "shapes" for the embedded world's. Without it the images have to be there.
    """
    per_prompt: Count = 4
    """Images of each prompt; officially 4."""
    steps: Annotated[Count | None, tyro.conf.arg(name="rounds")] = None
    """Rounds of a masked decoder (Show-o); default the distribution of the model's authors, as the next
    two."""
    guidance: NotNegative | None = None
    """Classifier-free guidance; 0 = none. Scales differ between families."""
    temperature: NotNegative | None = None
    """Temperature of sampling; 1 = the model's own distribution."""
    seed: Seed = 0
    """The seed of an image is made from this, its prompt and its number."""
    draw_batch: Count = 8
    """Images drawn together; they do not depend on it."""
    world_model: Literal["show-o", "janus"] = "show-o"
    """Which of the embedded world's models draws for "shapes"."""
    parts: Annotated[Parts, tyro.conf.arg(name="")] = field(default_factory=Parts)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the policy's frozen weights."""


@dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """What sees the objects of images, and when they count."""

    detector: str = ""
    """Mask2Former of COCO's classes for instances: folder or hub name; Grounding DINO or OWLv2 for words
    outside COCO; module:function or file.py:function for one of your own; "shapes" = the embedded world's
    checker.
    """
    detections: Path | None = None
    """File of detections instead, one image a line, such as mmdetection's or an earlier evaluation's."""
    colors: str = ""
    """CLIP that names colors: folder or hub name; officially openai/clip-vit-large-patch14."""
    threshold: Fraction | None = None
    """An object counts above this score; default 0.3, or the checker's own for "shapes"."""
    counting_threshold: Fraction | None = None
    """The same for the counting task; default 0.9, or 0.3 for zero-shot detectors, or the checker's own."""
    max_overlap: Fraction = 1.0
    """Objects of a class that overlap this much count once; 1 = officially never."""
    device: str = "auto"
    """auto (an accelerator if there is one, else the CPU), cpu, cuda, cuda:1, xpu or mps."""


@dataclass(frozen=True, kw_only=True)
class GenEvalOptions:
    """Do images show what their prompts ask for (GenEval, six tasks, without mmdetection)?

    Reads GenEval's folder, writes its results file and what was detected, and goes on where it was stopped.
    Figures depend on the detector: name it beside them.
    """

    images: Path | None = None
    """Folder of 00000/metadata.jsonl and 00000/samples/0000.png and so on."""
    judge: Annotated[DetectorOptions, tyro.conf.arg(name="")] = DetectorOptions()
    prompts: Annotated[Path | None, tyro.conf.arg(name="prompt-file")] = None
    """File of the prompts that the folder has to hold; default the numbers of the 553 official ones;
    "shapes" = 24 of the embedded world.
    """
    batch: Annotated[Count, tyro.conf.arg(name="detect-batch")] = 1
    """Images that go through the detector together."""
    output: Path | None = None
    """The results file; default results.jsonl in the folder of images."""
    results: Path | None = None
    """A results file that is there already, also the official evaluator's: told, and nothing is detected."""
    compare: Path | None = None
    """An earlier results file: prints what changed since, paired by prompt."""
    drawer: Annotated[DrawerOptions, tyro.conf.arg(name="")] = DrawerOptions()

    def __post_init__(self) -> None:
        require_ranges(self)

    @property
    def results_file(self) -> Path:
        """Where the results go.

        Raises:
            ValueError: no folder of images is named.
        """
        return self.output or self.folder / "results.jsonl"

    @property
    def folder(self) -> Path:
        """The folder of images.

        Raises:
            ValueError: none is named.
        """
        if self.images is None:
            raise ValueError("name the folder of images with --images, or a results file with --results")
        return self.images
