"""Quizzes of the embedded world: scenes that fulfill them, right answers, and one tokenizer of words for all.

Scenes for drawing hold exactly what the prompt names, in large shapes: an image has 16 tokens of 8 x 8
pixels, and a shape spreads over four of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sightloop.quizzes.grammar import (
    CATEGORIES,
    PROMPT_START,
    QUESTIONS,
    Category,
    Clause,
    Quiz,
    quiz_of,
    random_quiz,
)
from sightloop.quizzes.vocabulary import NUMBER_WORDS, OPPOSITES, Noun, Vocabulary, plural_of
from sightloop.world.scenes import COLORS, CORNERS, GROUNDS, SHAPES, Scene, Thing

SHAPES_VOCABULARY = Vocabulary(
    nouns=tuple(Noun(name=shape, plural=plural_of(shape)) for shape in SHAPES), colors=COLORS
)
"""Four shapes, six colors, two to four of a kind, four relations."""
DRAWN_SIZE = "large"


def sample_quiz(rng: np.random.Generator, category: Category | None = None) -> Quiz:
    """A quiz of the world; of any category, evenly, if none is named."""
    chosen = CATEGORIES[rng.integers(len(CATEGORIES))] if category is None else category
    return random_quiz(chosen, SHAPES_VOCABULARY, pick=lambda limit: int(rng.integers(limit)))


def scene_for(quiz: Quiz, rng: np.random.Generator) -> Scene:
    """A scene with exactly the things of the quiz; what it leaves open is drawn at random.

    Raises:
        ValueError: the quiz names things that the world does not have, or more than four.
    """
    kinds = [clause for clause in quiz.include for _ in range(clause.count)]
    for clause in kinds:
        if clause.noun not in SHAPES or clause.color not in (None, *COLORS):
            raise ValueError(f"{quiz.prompt!r} is not of the embedded world; use its shapes and colors")
    if len(kinds) > len(CORNERS):
        raise ValueError(f"{quiz.prompt!r} names {len(kinds)} things; a scene has {len(CORNERS)} corners")
    if quiz.category == "position":
        corners = _related_corners(quiz.include[1], rng)
    else:
        corners = [int(corner) for corner in rng.permutation(len(CORNERS))[: len(kinds)]]
    things = [
        Thing(
            size=DRAWN_SIZE,
            color=clause.color or COLORS[rng.integers(len(COLORS))],
            shape=clause.noun,
            corner=CORNERS[corner],
        )
        for clause, corner in zip(kinds, corners, strict=True)
    ]
    things.sort(key=lambda thing: CORNERS.index(thing.corner))
    return Scene(ground=GROUNDS[rng.integers(len(GROUNDS))], things=tuple(things))


def _related_corners(subject: Clause, rng: np.random.Generator) -> list[int]:
    """Corners of target and subject: neighbors, as a diagonal would lie on the edge of two relations."""
    assert subject.position is not None
    relation, line = subject.position[0], int(rng.integers(2))
    if relation in ("left of", "right of"):
        near, far = 2 * line, 2 * line + 1
    else:
        near, far = line, line + 2
    return [far, near] if relation in ("left of", "above") else [near, far]


def sample_drawn_scene(rng: np.random.Generator) -> Scene:
    """A scene that fulfills some quiz."""
    return scene_for(sample_quiz(rng), rng)


def quizzes_about(scene: Scene, wording: int = 0) -> list[Quiz]:
    """Every quiz whose answer holds for the scene and names all its things; one subject for each pair.

    >>> thing = Thing(size="large", color="red", shape="circle", corner="top-left")
    >>> [quiz.answer for quiz in quizzes_about(Scene(ground="white", things=(thing,)))]
    ['circle', 'red']
    """
    found: list[tuple[Category, tuple[Clause, ...]]] = []
    things = scene.things
    if len(things) == 1:
        found.append(("single_object", (Clause(noun=things[0].shape),)))
        found.append(("colors", (Clause(noun=things[0].shape, color=things[0].color),)))
    elif len({thing.shape for thing in things}) == 1:
        found.append(("counting", (Clause(noun=things[0].shape, count=len(things)),)))
    elif len(things) == 2:
        first, second = things
        found.append(("two_object", (Clause(noun=first.shape), Clause(noun=second.shape))))
        relation = _relation(second, first)
        if relation is not None:
            subject = Clause(noun=second.shape, position=(relation, 0))
            found.append(("position", (Clause(noun=first.shape), subject)))
        if first.color != second.color:
            clauses = tuple(Clause(noun=thing.shape, color=thing.color) for thing in things)
            found.append(("color_attr", clauses))
    return [quiz_of(category, include, SHAPES_VOCABULARY, wording=wording) for category, include in found]


def _relation(one: Thing, other: Thing) -> str | None:
    """Of neighbors only."""
    row, column = divmod(CORNERS.index(one.corner), 2)
    other_row, other_column = divmod(CORNERS.index(other.corner), 2)
    if row == other_row:
        return "left of" if column < other_column else "right of"
    if column == other_column:
        return "above" if row < other_row else "below"
    return None


def right_answers(quiz: Quiz) -> tuple[str, ...]:
    """The quiz's answer and the same with the two things named the other way round.

    >>> both = (Clause(noun="circle"), Clause(noun="square"))
    >>> right_answers(quiz_of("two_object", both, SHAPES_VOCABULARY))
    ('There is a circle and a square', 'There is a square and a circle')
    """
    first, last = quiz.include[0], quiz.include[-1]
    if quiz.category in ("two_object", "color_attr"):
        swapped = (last, first)
    elif quiz.category == "position":
        assert last.position is not None
        turned = Clause(noun=first.noun, position=(OPPOSITES[last.position[0]], 0))
        swapped = (Clause(noun=last.noun), turned)
    else:
        return (quiz.answer,)
    return quiz.answer, quiz_of(quiz.category, swapped, SHAPES_VOCABULARY).answer


def is_right_answer(quiz: Quiz, answer: str) -> bool:
    """Whether the answer is right, whatever its case and white space."""
    given = " ".join(answer.lower().split())
    return given in {right.lower() for right in right_answers(quiz)}


def _words(texts: Sequence[str]) -> list[str]:
    return [word for text in texts for word in text.lower().replace(",", " ,").replace("?", " ?").split()]


def quiz_words() -> tuple[str, ...]:
    """Every word and mark of the world's prompts, questions and answers, once each, in a fixed order."""
    questions = [question for wordings in QUESTIONS.values() for question in wordings]
    spoken = [PROMPT_START, "there is a an and the", ". : user assistant"]
    listed = [*SHAPES, *(plural_of(shape) for shape in SHAPES), *COLORS, *OPPOSITES]
    numbers = [NUMBER_WORDS[count] for count in SHAPES_VOCABULARY.counts]
    marked = [question.replace(".", " .") for question in questions]
    return tuple(dict.fromkeys(_words([*spoken, *listed, *numbers, *marked])))
