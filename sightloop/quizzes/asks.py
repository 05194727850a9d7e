"""The fixed quizzes of an evaluation, and what of them training leaves out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sightloop.quizzes.grammar import CATEGORIES, Category, Quiz, user_quizzes
from sightloop.quizzes.prompt_guard import normalized_prompt
from sightloop.quizzes.stream import GrammarQuizzes
from sightloop.quizzes.vocabulary import Vocabulary

_SPARE = 3
"""A category whose quizzes are this many times the test's keeps the test out of training."""
_TRIES = 2000


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A quiz, and which of its drawings this is."""

    quiz: Quiz
    number: int


@dataclass(frozen=True, kw_only=True)
class QuizSetup:
    """What a configuration says about quizzes, worked out once for all that need it."""

    vocabulary: Vocabulary
    in_world: bool
    """Images are those of the embedded world, whose checker is exact."""
    world_model: Path | None
    """The embedded world's model, which must know every word; None = another policy is named."""
    asks: Sequence[Ask]
    """The evaluation's; empty = there is none."""


def fixed_asks(
    vocabulary: Vocabulary, *, file: str = "", per_category: int, per_prompt: int, seed: int = 1
) -> list[Ask]:
    """The fixed quizzes of the evaluation and which of their drawings each row is."""
    if file:
        quizzes = user_quizzes(Path(file), vocabulary)
        return [Ask(quiz=quiz, number=number) for quiz in quizzes for number in range(per_prompt)]
    asks: list[Ask] = []
    for category in CATEGORIES:
        wanted = max(1, per_category // per_prompt)
        quizzes = _distinct(category, vocabulary, seed=seed, enough=wanted)
        each, rest = divmod(per_category, len(quizzes))
        for place, quiz in enumerate(quizzes):
            asks += [Ask(quiz=quiz, number=number) for number in range(each + (place < rest))]
    return asks


def kept_out(asks: Sequence[Ask], vocabulary: Vocabulary) -> list[str]:
    """Prompts of the evaluation that training leaves out: of every category that has enough others."""
    found: list[str] = []
    for category in CATEGORIES:
        mine = {ask.quiz.prompt for ask in asks if ask.quiz.category == category}
        meaning = partial(normalized_prompt, vocabulary=vocabulary)
        needed = _SPARE * len(set(map(meaning, mine)))
        if len(_distinct(category, vocabulary, seed=0, enough=needed, key=meaning)) >= needed:
            found += sorted(mine)
    return found


def _distinct(
    category: Category, vocabulary: Vocabulary, *, seed: int, enough: int, key: Callable[[str], str] = str
) -> list[Quiz]:
    """The first quizzes of a category whose prompts differ by `key`: `enough` of them, or all there are."""
    source = GrammarQuizzes(vocabulary, seed=seed, weights={category: 1.0})
    found: dict[str, Quiz] = {}
    for index in range(_TRIES):
        if len(found) == enough:
            break
        quiz = source.quiz(index)
        found.setdefault(key(quiz.prompt), quiz)
    return list(found.values())
