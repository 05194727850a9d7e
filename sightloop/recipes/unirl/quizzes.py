"""Quizzes of the UniRL recipes: those of training, and the fixed ones of the evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from sightloop.evaluators.settings import PER_PROMPT, JointSettings
from sightloop.quizzes.asks import Ask, QuizSetup, fixed_asks, kept_out
from sightloop.quizzes.grammar import (
    CATEGORIES,
    Quiz,
    user_quizzes,
)
from sightloop.quizzes.prompt_guard import excludes, is_geneval_prompt, read_prompts
from sightloop.quizzes.stream import GrammarQuizzes, ListedQuizzes, QuizSource, QuizStream
from sightloop.quizzes.vocabulary import REAL, Vocabulary
from sightloop.recipes.image_policies import world_folder
from sightloop.recipes.unirl.config import UniConfig, WorldModel
from sightloop.training import distributed
from sightloop.world.boundary import require_world_words
from sightloop.world.quizzes import SHAPES_VOCABULARY

_SEEN = 8
"""Quizzes of a grammar whose words are looked at."""


def quiz_setup(
    evaluation: JointSettings,
    *,
    policy: str,
    world_model: WorldModel,
    vocabulary: Literal["auto", "real", "shapes"],
) -> QuizSetup:
    """Words and fixed quizzes: the embedded world's words for its own models, else the real ones.

    Raises:
        ValueError: a file with a broken line.
    """
    in_world = not policy if vocabulary == "auto" else vocabulary == "shapes"
    words = SHAPES_VOCABULARY if in_world else REAL
    asks: list[Ask] = []
    if evaluation.per_category:
        asks = fixed_asks(
            words,
            file=evaluation.quiz_file,
            per_category=evaluation.per_category,
            per_prompt=PER_PROMPT,
            seed=evaluation.seed,
        )
    return QuizSetup(
        vocabulary=words,
        in_world=in_world,
        world_model=None if policy else world_folder(world_model),
        asks=asks,
    )


def setup_of(config: UniConfig) -> QuizSetup:
    """What the configuration says about quizzes."""
    return quiz_setup(
        config.joint,
        policy=config.policy,
        world_model=config.world_model,
        vocabulary=config.quizzes.vocabulary,
    )


def quiz_stream(config: UniConfig, setup: QuizSetup) -> QuizStream:
    """The training quizzes, without the prompts of `quizzes.excluded`, GenEval's among real words, and
    those of the evaluation where the grammar makes the quizzes.

    Raises:
        ValueError: a file with a broken line, or prompts that cannot be split over the ranks.
    """
    settings, vocabulary, seed = config.quizzes, setup.vocabulary, config.schedule.seed
    held = [] if not settings.excluded else read_prompts(Path(settings.excluded))
    if not settings.file:
        held += kept_out(setup.asks, vocabulary)
    is_held = _guard(held, vocabulary, geneval=settings.geneval_prompts == "leave-out")
    source: QuizSource
    if settings.file:
        listed = user_quizzes(Path(settings.file), vocabulary)
        left = [quiz for quiz in listed if is_held is None or not is_held(quiz)]
        if not left:
            raise ValueError(
                f"{settings.file} holds only excluded prompts; give others. GenEval's test prompts are "
                "excluded too, unless --quizzes.geneval-prompts is allow"
            )
        _require_known(setup, listed)
        source = ListedQuizzes(left, seed=seed)
    else:
        weights = {name: getattr(settings, name) for name in CATEGORIES}
        source = GrammarQuizzes(vocabulary, seed=seed, weights=weights, excluded=is_held)
        _require_known(setup, [source.quiz(index) for index in range(_SEEN)])
    rank, ranks = distributed.rank(), distributed.num_ranks()
    return QuizStream(source, batch_size=config.batch, seed=seed, rank=rank, num_ranks=ranks)


def _guard(held: list[str], vocabulary: Vocabulary, *, geneval: bool) -> Callable[[Quiz], bool] | None:
    listed = excludes(held, vocabulary) if held else None
    # The embedded world's words are none of GenEval's.
    if not geneval or vocabulary is not REAL:
        return listed
    return is_geneval_prompt if listed is None else lambda quiz: is_geneval_prompt(quiz) or listed(quiz)


def _require_known(setup: QuizSetup, quizzes: Sequence[Quiz]) -> None:
    if setup.world_model is not None:
        texts = (text for quiz in quizzes for text in (quiz.prompt, quiz.question))
        require_world_words(texts, setup.world_model, option="--model")
