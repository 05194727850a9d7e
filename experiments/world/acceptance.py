"""The gates of models that draw and see: how many drawings fulfill their quiz, how many answers are right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from experiments.world.unified_models import GRID
from sightloop.geneval.prompts import prompt_of
from sightloop.geneval.rules import Detection, verdict_of
from sightloop.models.protocols import ImageGenerator
from sightloop.quizzes.grammar import CATEGORIES, Category, Quiz
from sightloop.types import Images, Prompt, Sampling, Tokens
from sightloop.world.checker import CHECKER_RULES
from sightloop.world.held_out_scenes import detect_in, held_out_quizzes, held_out_scenes, images_of
from sightloop.world.quizzes import is_right_answer
from sightloop.world.scenes import COLORS, CORNERS, SHAPES, SIDE

MAX_ANSWER = 12
"""Words of an answer, its end included."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Shares by category."""

    of: dict[Category, float]

    @property
    def mean(self) -> float:
        """Of the categories, each counted alike."""
        return sum(self.of.values()) / len(self.of)

    def __str__(self) -> str:
        parts = " ".join(f"{category} {share:.2f}" for category, share in self.of.items())
        return f"{self.mean:.3f} ({parts})"


def seen_in_codes(ids: Tensor) -> list[list[Detection]]:
    """The things whose four quarters the taught codes name alike: an image need not be decoded for that."""
    found: list[list[Detection]] = []
    for grid in ids.reshape(-1, GRID, GRID).cpu().numpy():
        things: list[Detection] = []
        for corner in range(len(CORNERS)):
            row, column = divmod(corner, 2)
            cells = grid[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].ravel()
            whole = (cells >> 5 & 3 == np.arange(4)).all() and len(set((cells & ~96).tolist())) == 1
            color, shape = int(cells[0] >> 2 & 7), int(cells[0] & 3)
            if whole and color < len(COLORS):
                left, top = (SIDE / 2 * place + 2 for place in (column, row))
                box = (left, top, left + 12, top + 12)
                things.append(Detection(name=SHAPES[shape], color=COLORS[color], box=box, score=1.0))
        found.append(things)
    return found


def drawing_figures(
    policy: ImageGenerator,
    quizzes: list[Quiz],
    sampling: Sampling,
    *,
    look: Callable[[Tokens], list[list[Detection]]] | None = None,
) -> Figures:
    """Share of drawings that fulfill their quiz, by category; None looks at the drawn pixels."""
    prompt = Prompt(
        texts=[quiz.prompt for quiz in quizzes], wants="image", seeds=list(range(1, len(quizzes) + 1))
    )
    tokens = policy.sample(prompt, sampling)
    found = detect_in(policy.pixels(tokens)) if look is None else look(tokens)
    right = [
        verdict_of(prompt_of(quiz), seen, rules=CHECKER_RULES).correct
        for seen, quiz in zip(found, quizzes, strict=True)
    ]
    return _by_category(quizzes, right)


def answer_figures(policy: ImageGenerator, quizzes: list[Quiz], images: Images | Tokens) -> Figures:
    """Share of greedy answers that are right, by category."""
    prompt = Prompt(texts=[quiz.question for quiz in quizzes], images=images)
    tokens = policy.sample(prompt, Sampling(max_tokens=MAX_ANSWER, temperature=0))
    answers = ["".join(pieces) for pieces in policy.decode(tokens)]
    return _by_category(quizzes, [is_right_answer(q, a) for q, a in zip(quizzes, answers, strict=True)])


def _by_category(quizzes: list[Quiz], right: list[bool]) -> Figures:
    shares: dict[Category, float] = {}
    for category in CATEGORIES:
        own = [r for r, quiz in zip(right, quizzes, strict=True) if quiz.category == category]
        if own:
            shares[category] = sum(own) / len(own)
    return Figures(of=shares)


def example_report(policy: ImageGenerator, quizzes: list[Quiz], shown: Images | Tokens) -> str:
    """Both figures while a stage runs: drawings read off their codes, answers about what is shown."""
    drawn = drawing_figures(
        policy, quizzes, policy.default_sampling(), look=lambda tokens: seen_in_codes(tokens.ids)
    )
    return f"drawings {drawn}, answers {answer_figures(policy, quizzes, shown)}"


def report_acceptance(name: str, policy: ImageGenerator, per_category: int = 60) -> str:
    """Both gates on pixels: drawings with the policy's own distribution, answers about rendered images."""
    quizzes = held_out_quizzes(per_category, seed=1)
    drawn = drawing_figures(policy, quizzes, policy.default_sampling())
    asked = answer_figures(policy, quizzes, images_of(held_out_scenes(quizzes, seed=1), seed=1))
    return f"{name}: drawings {drawn}, answers {asked}"
