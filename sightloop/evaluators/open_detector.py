"""Who sees the objects and names their colours in `sightloop evaluate geneval`: by name to detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from sightloop.geneval.colours import ClipColours, ColourClassifier
from sightloop.geneval.detectors import DetectionsFile, Detector, Picture
from sightloop.geneval.function_detector import FunctionDetector
from sightloop.geneval.mask2former import Mask2FormerDetector
from sightloop.geneval.prompts import GenEvalPrompt
from sightloop.geneval.rules import Detection, Rules, kept_objects, objects_to_colour
from sightloop.geneval.zero_shot import FAMILIES, USUAL_THRESHOLD, ZeroShotDetector
from sightloop.models.clip import ClipEncoder
from sightloop.models.named_models import model_config
from sightloop.rewards.user_functions import load_function, names_function
from sightloop.training import distributed
from sightloop.world.checker import SURE, detect
from sightloop.world.scenes import SHAPES

EMBEDDED = "shapes"
"""The name of the embedded world's checker as a detector."""
_COLOURS = "--colours (in training --judge.colours or --both-sides.colours)"


@dataclass(frozen=True, kw_only=True)
class GenEvalJob:
    """What to evaluate, and by which eyes."""

    images: Path
    output: Path
    """The results file; what was detected and the protocol go beside it."""
    detector: str = ""
    """A checkpoint: folder or hub name; `module:function` or `file.py:function` is a function of the user's,
    "shapes" the embedded world's checker.
    """
    detections: Path | None = None
    """A file of detections instead."""
    colours: str = ""
    """CLIP model: folder or hub name."""
    prompts: Path | None = None
    """What the folder has to hold; None = the 553 official prompts."""
    threshold: float | None = None
    counting_threshold: float | None = None
    max_overlap: float = 1.0
    batch: int = 1
    """Pictures that go through the detector together."""
    device: str = "auto"

    @property
    def rules(self) -> Rules:
        """The rules; thresholds not given are those of the detector's kind, officially 0.3 and 0.9."""
        usual = Rules()
        if self.detections is None and self.detector == EMBEDDED:
            usual = Rules(threshold=SURE, counting_threshold=SURE)
        elif self.detections is None and self._is_checkpoint and model_kind(self.detector) in FAMILIES:
            usual = Rules(threshold=USUAL_THRESHOLD, counting_threshold=USUAL_THRESHOLD)
        return Rules(
            threshold=usual.threshold if self.threshold is None else self.threshold,
            counting_threshold=(
                usual.counting_threshold if self.counting_threshold is None else self.counting_threshold
            ),
            max_overlap=self.max_overlap,
        )

    @property
    def _is_checkpoint(self) -> bool:
        return bool(self.detector) and not names_function(self.detector)


@cache
def model_kind(name: str) -> str:
    """transformers' name of a checkpoint's architecture.

    Raises:
        ValueError: there is no such model.
    """
    return model_config(name).model_type


class ShapesDetector:
    """The embedded world's exact checker; it names colours too."""

    protocol: dict[str, str]
    vocabulary: frozenset[str] | None

    def __init__(self) -> None:
        self.protocol = {"detector": "shapes-checker", "floor": "0.0", "numpy": np.__version__}
        self.vocabulary = frozenset(SHAPES)

    def detect(self, pictures: Sequence[Picture]) -> list[list[Detection]]:
        """The things of each picture."""
        return [
            [
                Detection(name=seen.noun, box=seen.box, score=seen.score, colour=seen.colour)
                for seen in detect(np.asarray(picture.image))
            ]
            for picture in pictures
        ]


def open_detector(job: GenEvalJob) -> Detector:
    """The detector that a job names.

    Raises:
        ValueError: none or two are named, or the checkpoint is of an architecture that cannot be used.
    """
    if (job.detections is None) == (not job.detector):
        raise ValueError(
            "name what sees the objects, one of: --detector facebook/mask2former-swin-small-coco-instance or "
            "a folder, --detector IDEA-Research/grounding-dino-tiny or another zero-shot detector for words "
            f"outside COCO, --detector module:function or file.py:function for one of your own, --detector "
            f"{EMBEDDED} for the embedded world, --detections FILE"
        )
    if job.detections is not None:
        return DetectionsFile(job.detections)
    if job.detector == EMBEDDED:
        return ShapesDetector()
    if names_function(job.detector):
        return function_detector(job.detector)
    kind, device = model_kind(job.detector), distributed.device(job.device)
    if kind in FAMILIES:
        return ZeroShotDetector.from_pretrained(job.detector, floor=job.rules.floor, device=device)
    if kind != "mask2former":
        raise ValueError(
            f"{job.detector} is a {kind} model; use a Mask2Former, {' or '.join(FAMILIES)}, or let "
            "`sightloop evaluate geneval` read what another one saw with --detections, or name a function of "
            "your own that runs it (file.py:function)"
        )
    return Mask2FormerDetector.from_pretrained(job.detector, floor=job.rules.floor, device=device)


def function_detector(name: str) -> FunctionDetector:
    """The detector that `module:function` or `file.py:function` names.

    Raises:
        ValueError: there is no such function.
    """
    found = load_function(name, what="detector")
    # Where the file lies does not matter, what it says does.
    short = name.rpartition("/")[2]
    protocol = {"detector": short, "detector_source": found.digest, "floor": "0.0"}
    return FunctionDetector(found, protocol=protocol, told_names="names" in found.parameters)


def coloured_as_needed(
    prompt: GenEvalPrompt,
    picture: Picture,
    found: list[Detection],
    rules: Rules,
    judge: ColourClassifier | None,
) -> list[Detection]:
    """The detections, with the colours that the verdict needs."""
    wanted = objects_to_colour(prompt, kept_objects(prompt.tag, found, rules))
    missing = [seen for seen in wanted if seen.colour is None]
    if not missing:
        return found
    if judge is None:
        raise ValueError(
            f"{picture.file} needs the colour of its {missing[0].name}; name a CLIP model with "
            f"{_COLOURS}, officially openai/clip-vit-large-patch14"
        )
    colours = judge.colours(picture.image, missing)
    named = {id(seen): colour for seen, colour in zip(missing, colours, strict=True)}
    return [replace(seen, colour=named.get(id(seen), seen.colour)) for seen in found]


def colour_judge(job: GenEvalJob, detector: Detector) -> ColourClassifier | None:
    """What names colours; None if the job names none.

    Raises:
        ValueError: the detector names colours itself.
    """
    if not job.colours:
        return None
    if isinstance(detector, ShapesDetector):
        raise ValueError(f"the embedded world's checker names colours itself; leave {_COLOURS} out")
    encoder = ClipEncoder.from_pretrained(job.colours, device=distributed.device(job.device))
    return ClipColours(encoder)


def check_detector(detector: Detector, rules: Rules, prompts: Sequence[GenEvalPrompt]) -> None:
    """Refuse a detector that cannot answer for these prompts under these rules.

    Raises:
        ValueError: it does not know a class, or its detections end above the thresholds.
    """
    if detector.vocabulary is not None:
        for prompt in prompts:
            if unknown := [name for name in prompt.names if name not in detector.vocabulary]:
                raise ValueError(
                    f"{detector.protocol['detector']} does not know the class {unknown[0]!r} of "
                    f"{prompt.text!r}; use another detector, or --detections"
                )
    floor = float(detector.protocol.get("floor", 0.0))
    if floor > rules.floor:
        raise ValueError(
            f"the detections hold nothing below {floor}, the thresholds go down to {rules.floor}; "
            "detect again"
        )
