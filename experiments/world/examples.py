"""What the models that draw and see are taught from: prompts with their scenes, questions with their answers.

Some drawings are not what their prompt says, as in data from the web, and mostly where models are known to be
weak: relations, numbers and which color belongs to which thing. So there is something left to learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from sightloop.quizzes.grammar import CATEGORIES, Category, Clause, Quiz, quiz_of
from sightloop.quizzes.vocabulary import OPPOSITES
from sightloop.world.quizzes import SHAPES_VOCABULARY, quizzes_about, sample_quiz, scene_for
from sightloop.world.scenes import COLORS, SHAPES, Scene

WRONG_SHARES: dict[Category, float] = {
    "single_object": 0.05,
    "two_object": 0.15,
    "counting": 0.3,
    "colors": 0.1,
    "position": 0.3,
    "color_attr": 0.25,
}
"""How often the drawing of a prompt shows something else."""
DRAWING_WEIGHTS: dict[Category, float] = {
    "single_object": 1,
    "two_object": 1,
    "counting": 1.5,
    "colors": 1.5,
    "position": 2.5,
    "color_attr": 2.5,
}
"""How often drawings are of each category: the hardest most often."""


def by_category(*values: float) -> dict[Category, float]:
    """Numbers in the order of the categories, by name."""
    return dict(zip(CATEGORIES, values, strict=True))


RIGHT = by_category(0, 0, 0, 0, 0, 0)
"""No drawing is wrong."""


@dataclass(frozen=True, kw_only=True)
class TrainingPhase:
    """A further training phase: what was drawn wrong hides what prompts mean, so first nothing is wrong,
    then half of it, as is fit for a model that is to improve itself.
    """

    name: str
    steps: int
    answers: int
    """Answer examples a step."""
    peak_lr: float
    wrong: Mapping[Category, float]
    weights: Mapping[Category, float] = field(default_factory=lambda: dict(DRAWING_WEIGHTS))


@dataclass(frozen=True, kw_only=True)
class Example:
    """A quiz and the scene that stands for its image."""

    quiz: Quiz
    scene: Scene

    @property
    def answer(self) -> str:
        """What is right to say, the things in reading order: tiny models bind by place, if at all."""
        told = [quiz.answer for quiz in quizzes_about(self.scene) if quiz.category == self.quiz.category]
        return told[0]


def drawing_examples(
    rng: np.random.Generator,
    size: int,
    wrong: Mapping[Category, float] = WRONG_SHARES,
    often: Mapping[Category, float] = DRAWING_WEIGHTS,
) -> list[Example]:
    """Prompts of all categories, some with the scene of a quiz that differs in one thing."""
    weights = np.array([often[category] for category in CATEGORIES])
    examples: list[Example] = []
    for place in rng.choice(len(CATEGORIES), size, p=weights / weights.sum()).tolist():
        quiz = sample_quiz(rng, CATEGORIES[place])
        shown = mistaken(quiz, rng) if rng.random() < wrong[quiz.category] else quiz
        examples.append(Example(quiz=quiz, scene=scene_for(shown, rng)))
    return examples


def answer_examples(rng: np.random.Generator, size: int) -> list[Example]:
    """Quizzes of all categories with a scene that fulfills them."""
    quizzes = [sample_quiz(rng) for _ in range(size)]
    return [Example(quiz=quiz, scene=scene_for(quiz, rng)) for quiz in quizzes]


def mistaken(quiz: Quiz, rng: np.random.Generator) -> Quiz:
    """The quiz with its places or colors swapped, another number, another color or another shape."""
    first, last = quiz.include[0], quiz.include[-1]
    if quiz.category == "position":
        assert last.position is not None
        turned = (OPPOSITES[last.position[0]], 0)
        clauses: tuple[Clause, ...] = (first, replace(last, position=turned))
    elif quiz.category == "color_attr":
        clauses = (replace(first, color=last.color), replace(last, color=first.color))
    elif quiz.category == "counting":
        counts = [count for count in SHAPES_VOCABULARY.counts if count != first.count]
        clauses = (replace(first, count=counts[rng.integers(len(counts))]),)
    elif quiz.category == "colors":
        # Always the same one: guidance would undo mistakes that are spread thin.
        taken = COLORS[(COLORS.index(str(first.color)) + 1) % len(COLORS)]
        clauses = (replace(first, color=taken),)
    else:
        told = {clause.noun for clause in quiz.include}
        nouns = [noun for noun in SHAPES if noun not in told]
        clauses = (replace(first, noun=nouns[rng.integers(len(nouns))]), *quiz.include[1:])
    return quiz_of(quiz.category, clauses, SHAPES_VOCABULARY)
