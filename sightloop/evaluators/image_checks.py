"""Whether drawings show what their quizzes ask for: the embedded world's checker, or GenEval's rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sightloop.evaluators.geneval_run import GenEvalJob, colour_judge, coloured_as_needed, open_detector
from sightloop.geneval.colours import ColourClassifier
from sightloop.geneval.detectors import Detector, Picture
from sightloop.geneval.prompts import GenEvalPrompt, parse_prompt
from sightloop.geneval.rules import Detection, Rules, exact_reward, verdict
from sightloop.quizzes.grammar import Quiz
from sightloop.types import Images
from sightloop.world.held_out_scenes import detect_in
from sightloop.world.verdicts import fulfils, share_fulfilled


class PictureCheck(Protocol):
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
        return [fulfils(seen, quiz) for seen, quiz in zip(detect_in(images), quizzes, strict=True)]

    def share(self, images: Images, quizzes: Sequence[Quiz]) -> Float[Tensor, " B"]:
        """Share of what each quiz asks for."""
        return torch.tensor(
            [share_fulfilled(seen, quiz) for seen, quiz in zip(detect_in(images), quizzes, strict=True)]
        )


@dataclass(frozen=True, kw_only=True)
class GenEvalCheck:
    """GenEval's rules on what a detector sees."""

    detector: Detector
    colours: ColourClassifier | None
    rules: Rules

    @property
    def protocol(self) -> dict[str, str]:
        """Of detector and colours."""
        colours = {} if self.colours is None else self.colours.protocol
        return {"drawings judged by": "GenEval's rules", **self.detector.protocol, **colours}

    def right(self, images: Images, quizzes: Sequence[Quiz]) -> list[bool]:
        """GenEval's verdict of each drawing."""
        return [
            verdict(prompt, found, rules=self.rules).correct for prompt, found in self._seen(images, quizzes)
        ]

    def share(self, images: Images, quizzes: Sequence[Quiz]) -> Float[Tensor, " B"]:
        """The shaped form of the verdict."""
        return torch.tensor(
            [
                exact_reward(prompt, found, rules=self.rules).reward
                for prompt, found in self._seen(images, quizzes)
            ]
        )

    def _seen(self, images: Images, quizzes: Sequence[Quiz]) -> list[tuple[GenEvalPrompt, list[Detection]]]:
        prompts = [parse_prompt(quiz.metadata()) for quiz in quizzes]
        pictures = [
            Picture(
                file=prompt.text,
                image=Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy()),
                names=prompt.names,
            )
            for pixels, prompt in zip(images.pixels, prompts, strict=True)
        ]
        found = self.detector.detect(pictures)
        return [
            (prompt, coloured_as_needed(prompt, picture, seen, self.rules, self.colours))
            for prompt, picture, seen in zip(prompts, pictures, found, strict=True)
        ]


def open_check(detector: str, colours: str, *, in_world: bool, device: str) -> PictureCheck | None:
    """The check that the settings name; None if they name none.

    Raises:
        ValueError: colours without a detector, or a model that cannot be used.
    """
    if not detector:
        if colours:
            raise ValueError(f"colours is {colours!r} without a detector; name a Mask2Former as detector")
        return WorldCheck() if in_world else None
    job = GenEvalJob(images=Path(), output=Path(), detector=detector, colours=colours, device=device)
    eyes = open_detector(job)
    return GenEvalCheck(detector=eyes, colours=colour_judge(job, eyes), rules=job.rules)
