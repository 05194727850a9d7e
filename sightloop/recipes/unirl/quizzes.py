"""Quizzes of the UniRL recipes: those of training, and the fixed ones of the evaluation with pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor

from sightloop.data.decode import BrokenImageError, Decoding, decode
from sightloop.evaluators.joint import Ask, FixedPictures
from sightloop.geneval.folder import sample_files
from sightloop.image_files import read_regular
from sightloop.quizzes.grammar import (
    CATEGORIES,
    Category,
    Quiz,
    quiz_of,
    quiz_of_metadata,
    user_quizzes,
)
from sightloop.quizzes.prompt_guard import excludes, is_geneval_prompt, normalized_prompt, read_prompts
from sightloop.quizzes.stream import GrammarQuizzes, ListedQuizzes, QuizSource, QuizStream
from sightloop.quizzes.vocabulary import REAL, Vocabulary
from sightloop.recipes.image_policies import world_folder
from sightloop.recipes.unirl.config import PER_PROMPT, BothSidesSettings, UniConfig
from sightloop.training import distributed
from sightloop.types import Fact, Images
from sightloop.world.boundary import require_world_images, require_world_words
from sightloop.world.held_out_scenes import held_out_scenes, images_of
from sightloop.world.quizzes import SHAPES_VOCABULARY

_SPARE = 3
"""A category whose quizzes are this many times the test's keeps the test out of training."""
_TRIES = 2000
_SEEN = 8
"""Quizzes of a grammar whose words are looked at."""
_FIXED_SIDE = 384
"""Pixels along the side of fixed pictures; policies bring them to their own size."""


def vocabulary_of(config: UniConfig) -> Vocabulary:
    """The words of quizzes: the embedded world's for its own models, else the real ones."""
    chosen = config.quizzes.vocabulary
    in_world = not config.policy if chosen == "auto" else chosen == "shapes"
    return SHAPES_VOCABULARY if in_world else REAL


def in_world(config: UniConfig) -> bool:
    """Whether pictures are those of the embedded world, whose checker is exact."""
    return vocabulary_of(config) is SHAPES_VOCABULARY


def quiz_stream(config: UniConfig, asks: Sequence[Ask]) -> QuizStream:
    """The training quizzes, without the prompts of `quizzes.excluded`, GenEval's among real words, and
    those of the evaluation where the grammar makes the quizzes.

    Raises:
        ValueError: a file with a broken line, or prompts that cannot be split over the ranks.
    """
    settings, vocabulary, seed = config.quizzes, vocabulary_of(config), config.schedule.seed
    held = [] if not settings.excluded else read_prompts(Path(settings.excluded))
    if not settings.file:
        held += kept_out(asks, vocabulary)
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
        require_known(config, listed)
        source = ListedQuizzes(left, seed=seed)
    else:
        weights = {name: getattr(settings, name) for name in CATEGORIES}
        source = GrammarQuizzes(vocabulary, seed=seed, weights=weights, excluded=is_held)
        require_known(config, [source.quiz(index) for index in range(_SEEN)])
    rank, ranks = distributed.rank(), distributed.num_ranks()
    return QuizStream(source, batch_size=config.prompts, seed=seed, rank=rank, num_ranks=ranks)


def _guard(held: list[str], vocabulary: Vocabulary, *, geneval: bool) -> Callable[[Quiz], bool] | None:
    listed = excludes(held, vocabulary) if held else None
    # The embedded world's words are none of GenEval's.
    if not geneval or vocabulary is not REAL:
        return listed
    return is_geneval_prompt if listed is None else lambda quiz: is_geneval_prompt(quiz) or listed(quiz)


def naming_question(quiz: Quiz, vocabulary: Vocabulary) -> tuple[str, tuple[Fact, ...]] | None:
    """What to ask besides where the quiz's question leaves out which thing it is; None where it does not."""
    if any(fact.kind == "noun" for fact in quiz.facts):
        return None
    asked = quiz_of("single_object", quiz.include[:1], vocabulary, wording=crc32(quiz.question.encode()))
    return asked.question, asked.facts


def fixed_asks(settings: BothSidesSettings, vocabulary: Vocabulary) -> list[Ask]:
    """The fixed quizzes of the evaluation and which of their drawings each row is."""
    if settings.file:
        quizzes = user_quizzes(Path(settings.file), vocabulary)
        return [Ask(quiz=quiz, number=number) for quiz in quizzes for number in range(PER_PROMPT)]
    asks: list[Ask] = []
    for category in CATEGORIES:
        wanted = max(1, settings.per_category // PER_PROMPT)
        quizzes = _distinct(category, vocabulary, seed=settings.seed, enough=wanted)
        each, rest = divmod(settings.per_category, len(quizzes))
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


def asks_of(config: UniConfig) -> list[Ask]:
    """The quizzes of the configuration's evaluation."""
    if not config.both_sides.per_category:
        return []
    return fixed_asks(config.both_sides, vocabulary_of(config))


def require_known(config: UniConfig, quizzes: Sequence[Quiz]) -> None:
    """Refuse quizzes in words that the embedded world's model does not know, if no other is named.

    Raises:
        ValueError: such a word.
    """
    if not config.policy:
        texts = (text for quiz in quizzes for text in (quiz.prompt, quiz.question))
        require_world_words(texts, world_folder(config.world_model), option="--policy")


def fixed_pictures(config: UniConfig, asks: Sequence[Ask]) -> FixedPictures | None:
    """Pictures that are not the policy's own, with questions whose answers are known."""
    settings = config.both_sides
    if settings.fixed:
        if not config.policy:
            folders = Path(settings.fixed).glob("[0-9]*/samples")
            shown = [str(file) for folder in folders for file in sample_files(folder)]
            require_world_images(shown, what="model", option="--policy")
        return read_fixed(Path(settings.fixed), vocabulary_of(config))
    if not in_world(config):
        return None
    quizzes = [ask.quiz for ask in asks]
    scenes = held_out_scenes(quizzes, seed=settings.seed)
    return FixedPictures(images=images_of(scenes, seed=settings.seed), quizzes=quizzes)


def read_fixed(folder: Path, vocabulary: Vocabulary, size: int = _FIXED_SIDE) -> FixedPictures:
    """Pictures in GenEval's folder that show what their metadata says; each is asked about.

    Raises:
        ValueError: there are none, or metadata or a picture cannot be read; it is named.
    """
    files = sorted(folder.glob("[0-9]*/metadata.jsonl"))
    if not files:
        raise ValueError(f"{folder} holds no 00000/metadata.jsonl; give pictures in GenEval's folder")
    pixels: list[Tensor] = []
    quizzes: list[Quiz] = []
    for file in files:
        try:
            quiz = quiz_of_metadata(json.loads(file.read_text(encoding="utf-8")), vocabulary)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        for picture in sample_files(file.parent / "samples"):
            try:
                found = decode(read_regular(picture), Decoding(size=size, fit="squash"))
                pixels.append(torch.from_numpy(found.copy()).permute(2, 0, 1))
            except (BrokenImageError, OSError) as error:
                raise ValueError(f"{picture}: {error}") from error
            quizzes.append(quiz)
    if not pixels:
        raise ValueError(f"{folder} holds metadata and no samples/0000.png; put the pictures beside it")
    return FixedPictures(images=Images(pixels=torch.stack(pixels)), quizzes=quizzes)
