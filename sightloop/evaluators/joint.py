"""How well a policy draws and how well it answers, on the same prompts: UniRL's test, with all four outcomes.

Every prompt is drawn several times with seeds made from its text; each drawing is judged by a check that is
no reward, and the policy is asked about it. It is also asked about images that are not its own, so that a
model that flatters itself is found out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch

from sightloop.evaluation.imbalance import Imbalance, imbalance
from sightloop.evaluation.intervals import Interval
from sightloop.evaluation.protocol import protocol_hash
from sightloop.evaluators.geneval_images import templates_of
from sightloop.evaluators.image_checks import ImageCheck
from sightloop.models.protocols import ImageGenerator
from sightloop.process.long_work import counted
from sightloop.quizzes.asks import Ask
from sightloop.quizzes.grammar import CATEGORIES, Quiz
from sightloop.rewards.answers import facts_stated
from sightloop.rollouts.seeds import image_seed
from sightloop.training import distributed
from sightloop.training.gallery import save_image
from sightloop.types import Evaluation, Images, Prompt, Sampling, Tokens

NUM_SHOWN = 96
"""Drawings kept in the run folder."""


@dataclass(frozen=True, kw_only=True)
class FixedImages:
    """Images of someone else, and the quizzes whose answers hold for them."""

    images: Images
    quizzes: list[Quiz]

    def described(self) -> str:
        """Their number, and a mark that differs where images or quizzes do."""
        asked = json.dumps([quiz.metadata() for quiz in self.quizzes]).encode()
        mark = crc32(self.images.pixels.contiguous().cpu().numpy().tobytes(), crc32(asked))
        return f"{len(self.quizzes)}, {mark:08x}"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One row of the evaluation."""

    drawn: bool
    answered: bool
    answer: str
    image: str = ""


@dataclass(frozen=True, kw_only=True)
class JointEvaluator:
    """Draws and asks with the current weights. All ranks share the work."""

    asks: Sequence[Ask]
    check: ImageCheck
    fixed: FixedImages | None
    folder: Path | None = None
    """A run folder that keeps some of the drawings; None keeps none."""
    max_answer: int = 32
    seed: int = 1
    chunk: int = 96
    """Drawings made together; they do not depend on it."""

    def __call__(self, policy: ImageGenerator) -> Evaluation:
        """Shares of drawings and answers that are right, alone and together, by category."""
        seen = self.seen(policy)
        quizzes = [ask.quiz for ask in self.asks]
        drawn, answered = [one.drawn for one in seen], [one.answered for one in seen]
        values = _outcomes(drawn, answered)
        metrics = {name: float(np.mean(row)) for name, row in values.items()}
        metrics["imbalance"] = metrics["only_drawn"] + metrics["only_answered"]
        metrics["gap"] = metrics["answered"] - metrics["drawn"]
        metrics |= _conditional(metrics)
        metrics |= _by_category("drawn", quizzes, drawn) | _by_category("answered", quizzes, answered)
        if self.fixed is not None:
            answered_right = self.answers_about_fixed(policy)
            values["answered_fixed"] = [float(right) for right in answered_right]
            metrics["answered_fixed"] = float(np.mean(answered_right))
            metrics |= _by_category("answered_fixed", self.fixed.quizzes, answered_right)
        samples = [_sample(quiz, one) for quiz, one in zip(quizzes, seen, strict=True)]
        return Evaluation(metrics=metrics, per_sample=values, samples=samples, protocol=self.protocol(policy))

    def seen(self, policy: ImageGenerator) -> list[Seen]:
        """Each drawing judged and asked about, in order."""
        everyones: dict[int, Seen] = {}
        for part in distributed.gather(dict(self._mine(policy))):
            everyones |= part
        return [everyones[row] for row in range(len(self.asks))]

    def answers_about_fixed(self, policy: ImageGenerator) -> list[bool]:
        """Whether each question about a fixed image is answered right."""
        assert self.fixed is not None
        everyones: dict[int, bool] = {}
        mine: dict[int, bool] = {}
        chunks = _parts(len(self.fixed.quizzes), self.chunk)
        for rows in counted(chunks, "asked about fixed images", total=len(chunks), unit="batches"):
            quizzes = [self.fixed.quizzes[row] for row in rows]
            images = self.fixed.images.rows(torch.tensor(rows))
            answered_right = _right(quizzes, self._answers(policy, quizzes, images))
            mine |= dict(zip(rows, answered_right, strict=True))
        for part in distributed.gather(mine):
            everyones |= part
        return [everyones[row] for row in range(len(everyones))]

    @torch.no_grad()
    def _mine(self, policy: ImageGenerator) -> Iterator[tuple[int, Seen]]:
        kept = set(np.linspace(0, len(self.asks) - 1, NUM_SHOWN).round().astype(int).tolist())
        chunks = _parts(len(self.asks), self.chunk)
        for rows in counted(chunks, "drawn and asked about", total=len(chunks), unit="batches"):
            asks = [self.asks[row] for row in rows]
            quizzes = [ask.quiz for ask in asks]
            prompt = Prompt(
                texts=[quiz.prompt for quiz in quizzes],
                wants="image",
                seeds=[image_seed(ask.quiz.prompt, ask.number, self.seed) for ask in asks],
            )
            codes = policy.sample(prompt, policy.default_sampling())
            images = policy.pixels(codes)
            # The images, not the codes: nobody else could read what only codes say.
            answers = self._answers(policy, quizzes, images)
            right = self.check.right(images, quizzes)
            for place, row in enumerate(rows):
                keep = self.folder is not None and row in kept
                yield (
                    row,
                    Seen(
                        drawn=right[place],
                        answered=_right([quizzes[place]], [answers[place]])[0],
                        answer=answers[place],
                        image=save_image(self.folder, images.pixels[place]) if keep and self.folder else "",
                    ),
                )

    def _answers(self, policy: ImageGenerator, quizzes: Sequence[Quiz], images: Images) -> list[str]:
        questions = [quiz.question for quiz in quizzes]
        return most_likely_answers(policy, questions, images, self.max_answer)

    def protocol(self, policy: ImageGenerator) -> dict[str, str]:
        """What the figures depend on, with its hash."""
        parts = {
            "evaluation": "drawing and answering",
            "prompts": str(len({ask.quiz.prompt for ask in self.asks})),
            "pictures": str(len(self.asks)),
            "quizzes_hash": protocol_hash(
                {"quizzes": json.dumps([ask.quiz.metadata() for ask in self.asks])}
            ),
            "fixed_pictures": "none" if self.fixed is None else self.fixed.described(),
            "answer_tokens": str(self.max_answer),
            "seed": f"{self.seed}, prompt and number of the image",
            "answers": "about the images, greedy, right if every fact is told",
            **templates_of(policy),
            **{name: str(value) for name, value in asdict(policy.default_sampling()).items()},
            **self.check.protocol,
        }
        return parts | {"hash": protocol_hash(parts)}


@torch.no_grad()
def most_likely_answers(
    policy: ImageGenerator, questions: Sequence[str], images: Images | Tokens, max_tokens: int
) -> list[str]:
    """The greedy answer to each question about its image."""
    prompt = Prompt(texts=list(questions), images=images)
    tokens = policy.sample(prompt, Sampling(max_tokens=max_tokens, temperature=0.0))
    return ["".join(pieces).strip() for pieces in policy.decode(tokens)]


def imbalance_of(evaluation: Evaluation) -> Imbalance:
    """The 2 x 2 table of an evaluation and all shares, with intervals by prompt."""
    return imbalance(
        [bool(value) for value in evaluation.per_sample["drawn"]],
        [bool(value) for value in evaluation.per_sample["answered"]],
        prompts=[str(sample["source"]) for sample in evaluation.samples],
    )


def joint_table(found: Imbalance) -> str:
    """Counts and shares as text."""
    table = found.outcomes
    lines = [
        f"{'':<18}{'answered right':>16}{'answered wrong':>16}",
        f"{'drawn right':<18}{table.both:>16}{table.only_drawn:>16}",
        f"{'drawn wrong':<18}{table.only_answered:>16}{table.neither:>16}",
        "",
        f"{'share':<44}value    95% interval by prompt",
    ]
    rows: list[tuple[str, Interval | None]] = [
        ("drawn right", found.drawn),
        ("answered right", found.answered),
        ("both right", found.both),
        ("drawn right, answered wrong", found.only_drawn),
        ("answered right, drawn wrong", found.only_answered),
        ("answered right, of those drawn right", found.answered_if_drawn),
        ("drawn right, of those answered right", found.drawn_if_answered),
        ("gap: answered right minus drawn right", found.gap),
    ]
    for name, interval in rows:
        text = "none" if interval is None else _interval_text(interval)
        lines.append(f"{name:<44}{text}")
    return "\n".join(lines)


def _interval_text(interval: Interval) -> str:
    return f"{interval.value:>6.3f}   [{interval.low:.3f}, {interval.high:.3f}]"


def _outcomes(drawn: Sequence[bool], answered: Sequence[bool]) -> dict[str, list[float]]:
    pairs = list(zip(drawn, answered, strict=True))
    return {
        "drawn": [float(d) for d, _ in pairs],
        "answered": [float(a) for _, a in pairs],
        "both": [float(d and a) for d, a in pairs],
        "only_drawn": [float(d and not a) for d, a in pairs],
        "only_answered": [float(a and not d) for d, a in pairs],
    }


def _conditional(shares: dict[str, float]) -> dict[str, float]:
    """Rates among those that are right on the other side; left out where there are none."""
    found: dict[str, float] = {}
    if shares["drawn"] > 0:
        found["answered_if_drawn"] = shares["both"] / shares["drawn"]
    if shares["answered"] > 0:
        found["drawn_if_answered"] = shares["both"] / shares["answered"]
    return found


def _by_category(name: str, quizzes: Sequence[Quiz], right: Sequence[bool]) -> dict[str, float]:
    rates: dict[str, float] = {}
    for category in CATEGORIES:
        own = [r for r, quiz in zip(right, quizzes, strict=True) if quiz.category == category]
        if own:
            rates[f"{name}_{category}"] = sum(own) / len(own)
    return rates


def _right(quizzes: Sequence[Quiz], answers: Sequence[str]) -> list[bool]:
    return [all(facts_stated(answer, quiz.facts)) for quiz, answer in zip(quizzes, answers, strict=True)]


def _sample(quiz: Quiz, one: Seen) -> dict[str, Any]:
    sample = {
        "source": quiz.prompt,
        "category": quiz.category,
        "question": quiz.question,
        "answer": one.answer,
        "truth": quiz.answer,
        "drawn": "right" if one.drawn else "wrong",
        "answered": "right" if one.answered else "wrong",
    }
    return sample | ({"image": one.image} if one.image else {})


def _parts(number: int, size: int) -> list[list[int]]:
    """Rows of this rank, some at a time."""
    mine = list(range(number))[distributed.rank() :: distributed.num_ranks()]
    return [mine[start : start + size] for start in range(0, len(mine), size)]
