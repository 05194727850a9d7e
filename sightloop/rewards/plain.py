"""Rewards without a model: size as JPEG, length of a caption, and rules over what a detector finds.

The first two try out a training loop in seconds, and show what chasing a number does: `caption_length` can be
raised without end by saying nothing, which is what it is here for. Train on neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sightloop.rewards.samples import outcome_images, pil_images, sample_name, texts_of
from sightloop.types import Images, Outcome, on_last_token

Detect = Callable[[Sequence[Image.Image], Sequence[str]], Sequence[Any]]
"""Finds what is in images; is also told what each was drawn from."""
Rule = Callable[[str, Any], float]
"""Says how well what was found fulfills a prompt."""


@dataclass(frozen=True, kw_only=True)
class JpegSize:
    """Minus the size as JPEG in units of 500 kB (compressibility): smooth images earn most, at most 0."""

    quality: int = 95
    sign: int = -1
    """1 rewards size instead (incompressibility)."""

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 95 or self.sign not in (-1, 1):
            raise ValueError(f"quality is {self.quality}, sign {self.sign}; use 1 to 95, and -1 or 1")

    def rewards(self, images: Images, texts: Sequence[str] = ()) -> Float[Tensor, " B"]:
        """The size of each image, with its sign."""
        sizes = [self.kilobytes(image) for image in pil_images(images)]
        return self.sign * torch.tensor(sizes) / 500

    def kilobytes(self, image: Image.Image) -> float:
        """Size of an image as JPEG, in units of 1000 bytes."""
        file = BytesIO()
        image.save(file, format="JPEG", quality=self.quality)
        return file.tell() / 1000


def exact_answer(outcome: Outcome) -> Float[Tensor, "B T"]:
    """1 for a text that is the true answer, or a line of it, whatever its case, white space and last stop."""
    wanted = [_bare(text) for text in outcome.texts()]
    right = [{_bare(line) for line in reference.split("\n")} for reference in outcome.references]
    values = [float(text in known) for text, known in zip(wanted, right, strict=True)]
    return on_last_token(torch.tensor(values), outcome.tokens)


def _bare(text: str) -> str:
    return " ".join(text.lower().split()).removesuffix(".")


def caption_length(outcome: Outcome) -> Float[Tensor, "B T"]:
    """The number of words of each caption, on its last token: the simplest reward to hack."""
    return on_last_token(torch.tensor([float(len(text.split())) for text in outcome.texts()]), outcome.tokens)


@dataclass(frozen=True, kw_only=True)
class DetectorReward:
    """What a rule says about the objects that a detector finds in a drawing, on the last token.

    Detector and rule come from outside: `evaluation.geneval.exact_reward` is such a rule.
    """

    detect: Detect
    rule: Rule

    def __call__(self, outcome: Outcome) -> Float[Tensor, "B T"]:
        """The rule's number for each sample.

        Raises:
            ValueError: no images, no prompts, or the detector answers about another number of images.
        """
        prompts = texts_of(outcome, "prompt")
        found = self.detect(pil_images(outcome_images(outcome)), prompts)
        if len(found) != len(prompts):
            raise ValueError(f"the detector answered about {len(found)} of {len(prompts)} images")
        values = [float(self.rule(*pair)) for pair in zip(prompts, found, strict=True)]
        for row, value in enumerate(values):
            if not math.isfinite(value):
                raise ValueError(f"the rule says {value} about {sample_name(outcome, row)}")
        return on_last_token(torch.tensor(values), outcome.tokens)
