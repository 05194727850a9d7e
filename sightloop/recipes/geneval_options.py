"""The options of `sightloop evaluate geneval`; loads no network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class GenEvalOptions:
    """Do pictures show what their prompts ask for (GenEval, six tasks, without mmdetection)?

    Reads GenEval's folder, writes its results file and what was detected, and goes on where it was stopped.
    Figures depend on the detector: name it beside them.
    """

    images: Path
    """Folder of 00000/metadata.jsonl and 00000/samples/0000.png and so on."""
    detector: str = ""
    """Mask2Former of COCO's classes for instances: folder or hub name; "shapes" = the embedded world's
    checker.
    """
    detections: Path | None = None
    """File of detections instead, one picture a line, such as mmdetection's or an earlier evaluation's."""
    colours: str = ""
    """CLIP that names colours: folder or hub name; officially openai/clip-vit-large-patch14."""
    prompts: Path | None = None
    """File of the prompts that the folder has to hold; default the numbers of the 553 official ones."""
    threshold: float | None = None
    """An object counts above this score; default 0.3, or the checker's own for "shapes"."""
    counting_threshold: float | None = None
    """The same for the counting task; default 0.9, or the checker's own for "shapes"."""
    max_overlap: float = 1.0
    """Objects of a class that overlap this much count once; 1 = officially never."""
    batch: int = 1
    """Pictures that go through the detector together."""
    device: str = "auto"
    output: Path | None = None
    """The results file; default results.jsonl in the folder of pictures."""
    compare: Path | None = None
    """An earlier results file: prints what changed since, paired by prompt."""
