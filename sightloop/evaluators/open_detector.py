"""Who sees the objects and names their colors in `sightloop evaluate geneval`: by name to detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from sightloop.evaluators.geneval_options import DetectorOptions
from sightloop.geneval.colors import ClipColors, ColorClassifier
from sightloop.geneval.detectors import DetectionsFile, Detector, DetectorImage
from sightloop.geneval.function_detector import FunctionDetector
from sightloop.geneval.mask2former import Mask2FormerDetector
from sightloop.geneval.prompts import GenEvalPrompt
from sightloop.geneval.rules import Detection, GenEvalRules, kept_objects, objects_to_color
from sightloop.geneval.zero_shot import FAMILIES, USUAL_THRESHOLD, ZeroShotDetector
from sightloop.models.clip import ClipEncoder
from sightloop.models.kinds import DETECTOR, is_detector, kind_named
from sightloop.models.named_models import model_config
from sightloop.rewards.user_functions import load_function, names_function
from sightloop.training import distributed
from sightloop.world.checker import CHECKER_RULES, detect
from sightloop.world.scenes import SHAPES

EMBEDDED = "shapes"
"""The name of the embedded world's checker as a detector."""
_COLORS = "--colors (in training --judge.colors or --joint.colors)"


@dataclass(frozen=True, kw_only=True)
class ObjectChecker:
    """What sees the objects of images, what names their colors, and by which rules they count."""

    detector: Detector
    colors: ColorClassifier | None
    rules: GenEvalRules

    @property
    def protocol(self) -> dict[str, str]:
        """What detections depend on."""
        return {**self.detector.protocol, **(self.colors.protocol if self.colors else {})}

    def colored(self, prompt: GenEvalPrompt, image: DetectorImage, found: list[Detection]) -> list[Detection]:
        """The detections, with the colors that the verdict needs.

        Raises:
            ValueError: they are needed, and nothing names them.
        """
        wanted = objects_to_color(prompt, kept_objects(prompt.tag, found, self.rules))
        missing = [seen for seen in wanted if seen.color is None]
        if not missing:
            return found
        if self.colors is None:
            raise ValueError(
                f"{image.file} needs the color of its {missing[0].name}; name a CLIP model with "
                f"{_COLORS}, officially openai/clip-vit-large-patch14"
            )
        colors = self.colors.colors(image.image, missing)
        named = {id(seen): color for seen, color in zip(missing, colors, strict=True)}
        return [replace(seen, color=named.get(id(seen), seen.color)) for seen in found]

    def require_fit(self, prompts: Sequence[GenEvalPrompt]) -> None:
        """Refuse a detector that cannot answer for these prompts under these rules.

        Raises:
            ValueError: it does not know a class, or its detections end above the thresholds.
        """
        known = self.detector.vocabulary
        for prompt in prompts if known is not None else []:
            if unknown := [name for name in prompt.names if name not in (known or ())]:
                raise ValueError(
                    f"{self.detector.protocol['detector']} does not know the class {unknown[0]!r} of "
                    f"{prompt.text!r}; use another detector, or --detections"
                )
        floor = float(self.detector.protocol.get("floor", 0.0))
        if floor > self.rules.floor:
            raise ValueError(
                f"the detections hold nothing below {floor}, the thresholds go down to {self.rules.floor}; "
                "detect again"
            )


def open_judge(options: DetectorOptions) -> ObjectChecker:
    """The detector, the colors and the rules that the options name.

    Raises:
        ValueError: no detector or two are named, a checkpoint is of an architecture that cannot be used, or
            the detector names colors itself.
    """
    rules = rules_of(options)
    detector = open_detector(options, rules)
    colors = None
    if options.colors:
        if isinstance(detector, ShapesDetector):
            raise ValueError(f"the embedded world's checker names colors itself; leave {_COLORS} out")
        device = distributed.device(options.device)
        colors = ClipColors(ClipEncoder.from_pretrained(options.colors, device=device))
    return ObjectChecker(detector=detector, colors=colors, rules=rules)


def rules_of(options: DetectorOptions) -> GenEvalRules:
    """The rules; thresholds not given are those of the detector's kind, officially 0.3 and 0.9."""
    usual, name = GenEvalRules(), options.detector
    if options.detections is None and name == EMBEDDED:
        usual = CHECKER_RULES
    elif options.detections is None and name and not names_function(name) and model_kind(name) in FAMILIES:
        usual = GenEvalRules(threshold=USUAL_THRESHOLD, counting_threshold=USUAL_THRESHOLD)
    given = {"threshold": options.threshold, "counting_threshold": options.counting_threshold}
    chosen = {name: value for name, value in given.items() if value is not None}
    return replace(usual, max_overlap=options.max_overlap, **chosen)


@cache
def model_kind(name: str) -> str:
    """transformers' name of a checkpoint's architecture.

    Raises:
        ValueError: there is no such model.
    """
    return model_config(name).model_type


class ShapesDetector:
    """The embedded world's exact checker; it names colors too."""

    protocol: dict[str, str]
    vocabulary: frozenset[str] | None

    def __init__(self) -> None:
        self.protocol = {"detector": "shapes-checker", "floor": "0.0", "numpy": np.__version__}
        self.vocabulary = frozenset(SHAPES)

    def detect(self, pictures: Sequence[DetectorImage]) -> list[list[Detection]]:
        """The things of each image."""
        return [detect(np.asarray(picture.image)) for picture in pictures]


def open_detector(options: DetectorOptions, rules: GenEvalRules) -> Detector:
    """The detector that the options name.

    Raises:
        ValueError: none or two are named, or the checkpoint is of an architecture that cannot be used.
    """
    if (options.detections is None) == (not options.detector):
        raise ValueError(
            "name what sees the objects, one of: --detector facebook/mask2former-swin-small-coco-instance or "
            "a folder, --detector IDEA-Research/grounding-dino-tiny or another zero-shot detector for words "
            f"outside COCO, --detector module:function or file.py:function for one of your own, --detector "
            f"{EMBEDDED} for the embedded world, --detections FILE"
        )
    if options.detections is not None:
        return DetectionsFile(options.detections)
    if options.detector == EMBEDDED:
        return ShapesDetector()
    if names_function(options.detector):
        return function_detector(options.detector)
    config, device = model_config(options.detector), distributed.device(options.device)
    if not is_detector(config):
        what, takes = kind_named(config)
        raise ValueError(
            f"{options.detector} is {what}, not {DETECTOR}; {takes}; of another detector let "
            "`sightloop evaluate geneval` read what it saw with --detections, or name a function of your own "
            "that runs it (file.py:function)"
        )
    if config.model_type in FAMILIES:
        return ZeroShotDetector.from_pretrained(options.detector, floor=rules.floor, device=device)
    return Mask2FormerDetector.from_pretrained(options.detector, floor=rules.floor, device=device)


def function_detector(name: str) -> FunctionDetector:
    """The detector that `module:function` or `file.py:function` names.

    Raises:
        ValueError: there is no such function.
    """
    found = load_function(name, what="detector")
    # Where the file lies does not matter, what it says does.
    short = name.rpartition("/")[2]
    protocol = {"detector": short, "detector_source": found.digest, "floor": "0.0"}
    return FunctionDetector(found, protocol=protocol, takes_names="names" in found.parameters)
