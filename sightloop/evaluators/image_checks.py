"""Whether drawings show what their quizzes ask for: the embedded world's checker, or GenEval's rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sightloop.evaluators.geneval_options import DetectorOptions
from sightloop.evaluators.open_detector import ObjectChecker, open_judge
from sightloop.geneval.detectors import DetectorImage
from sightloop.geneval.prompts import GenEvalPrompt, prompt_of
from sightloop.geneval.rules import Detection, conditions_met, exact_reward, verdict_of
from sightloop.quizzes.grammar import Quiz
from sightloop.types import Images
from sightloop.world.checker import CHECKER_RULES
from sightloop.world.held_out_scenes import detect_in


class ImageCheck(Protocol):
    """Judges drawings by what is in them."""

    @property
    def protocol(self) -> dict[str, str]:
        """What its verdicts depend on."""
        ...

    def right(self, images: Images, quizzes: Sequence[Quiz]) -> list[bool]:
        """Whether each drawing shows all that its quiz asks for."""
        ...

    def share(self, images: Images, quizzes: Sequence[Quiz]) -> Float[Tensor, " B"]:
        """How much of it each drawing shows, in [0, 1]."""
        ...


@dataclass(frozen=True, kw_only=True)
class WorldCheck:
    """The embedded world's exact checker."""

    @property
    def protocol(self) -> dict[str, str]:
        """Its name."""
        return {"drawings judged by": "shapes-checker"}

    def right(self, images: Images, quizzes: Sequence[Quiz]) -> list[bool]:
        """Whether each drawing shows all that its quiz asks for."""
        return [
            verdict_of(prompt_of(quiz), seen, rules=CHECKER_RULES).correct
            for seen, quiz in zip(detect_in(images), quizzes, strict=True)
        ]

    def share(self, images: Images, quizzes: Sequence[Quiz]) -> Float[Tensor, " B"]:
        """Share of what each quiz asks for."""
        conditions = [
            conditions_met(prompt_of(quiz), seen, rules=CHECKER_RULES)
            for seen, quiz in zip(detect_in(images), quizzes, strict=True)
        ]
        return torch.tensor([sum(met) / len(met) for met in conditions])


@dataclass(frozen=True, kw_only=True)
class GenEvalCheck:
    """GenEval's rules on what a detector sees."""

    judge: ObjectChecker

    @property
    def protocol(self) -> dict[str, str]:
        """Of detector and colors."""
        return {"drawings judged by": "GenEval's rules", **self.judge.protocol}

    def right(self, images: Images, quizzes: Sequence[Quiz]) -> list[bool]:
        """GenEval's verdict of each drawing."""
        return [
            verdict_of(prompt, found, rules=self.judge.rules).correct
            for prompt, found in self._seen(images, quizzes)
        ]

    def share(self, images: Images, quizzes: Sequence[Quiz]) -> Float[Tensor, " B"]:
        """The shaped form of the verdict."""
        return torch.tensor(
            [
                exact_reward(prompt, found, rules=self.judge.rules).reward
                for prompt, found in self._seen(images, quizzes)
            ]
        )

    def _seen(self, images: Images, quizzes: Sequence[Quiz]) -> list[tuple[GenEvalPrompt, list[Detection]]]:
        prompts = [prompt_of(quiz) for quiz in quizzes]
        pictures = [
            DetectorImage(
                file=prompt.text,
                image=Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy()),
                names=prompt.names,
            )
            for pixels, prompt in zip(images.pixels, prompts, strict=True)
        ]
        found = self.judge.detector.detect(pictures)
        return [
            (prompt, self.judge.colored(prompt, image, seen))
            for prompt, image, seen in zip(prompts, pictures, found, strict=True)
        ]


def open_check(detector: str, colors: str, *, in_world: bool, device: str) -> ImageCheck | None:
    """The check that the settings name; None if they name none.

    Raises:
        ValueError: colors without a detector, or a model that cannot be used.
    """
    if not detector:
        if colors:
            raise ValueError(f"colors is {colors!r} without a detector; name a Mask2Former as detector")
        return WorldCheck() if in_world else None
    options = DetectorOptions(detector=detector, colors=colors, device=device)
    return GenEvalCheck(judge=open_judge(options))
