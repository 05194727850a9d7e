"""An endless stream of quizzes: quiz number k depends on the seed and k alone, whoever asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from zlib import crc32

import numpy as np
from jaxtyping import Int
from torch import Tensor

from sightloop.data.order import derive, mix, permutation, sample_seeds
from sightloop.picking import numbers_of
from sightloop.quizzes.grammar import CATEGORIES, Category, Quiz, random_quiz
from sightloop.quizzes.vocabulary import Vocabulary

EVEN: dict[str, float] = dict.fromkeys(CATEGORIES, 1.0)
"""Every category as often as any other."""
_GRAMMAR, _LISTED = 101, 102
_MAX_ATTEMPTS = 1000


@dataclass(frozen=True, kw_only=True)
class QuizBatch:
    """Quizzes with their running numbers."""

    quizzes: list[Quiz]
    indices: list[int]
    """Unique over the endless stream and all its ranks."""
    seeds: list[int]
    """One a quiz, 63 bits, made from the seed of the stream and the running number."""

    def __len__(self) -> int:
        return len(self.quizzes)

    def rows(self, index: Int[Tensor, " N"]) -> QuizBatch:
        """The quizzes at `index`."""
        picked = numbers_of(index)
        return QuizBatch(
            quizzes=[self.quizzes[i] for i in picked],
            indices=[self.indices[i] for i in picked],
            seeds=[self.seeds[i] for i in picked],
        )


class QuizSource(Protocol):
    """Numbered quizzes without end."""

    def quiz(self, index: int) -> Quiz:
        """Quiz number `index`."""
        ...

    def fingerprint(self) -> str:
        """Differs between sources whose quizzes differ."""
        ...


class GrammarQuizzes:
    """Quizzes of a vocabulary, drawn at random.

    `weights` are relative; a category left out never comes. What `excluded` names is drawn again.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        seed: int,
        weights: Mapping[str, float] = EVEN,
        excluded: Callable[[Quiz], bool] | None = None,
    ) -> None:
        wrong = [name for name in weights if name not in CATEGORIES]
        if wrong:
            raise ValueError(f"unknown category {wrong[0]!r}; use some of {', '.join(CATEGORIES)}")
        if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
            raise ValueError(f"weights are {dict(weights)}; use numbers from 0, at least one above")
        self._vocabulary = vocabulary
        self._seed = seed
        self._categories: list[Category] = [name for name in CATEGORIES if weights.get(name, 0) > 0]
        shares = np.array([weights[name] for name in self._categories])
        self._ends = np.cumsum(shares / shares.sum())
        self._weights = dict(weights)
        self._excluded = excluded

    def quiz(self, index: int) -> Quiz:
        """Quiz number `index`.

        Raises:
            ValueError: nearly every quiz is excluded.
        """
        for attempt in range(_MAX_ATTEMPTS):
            draw = _Draw(derive(self._seed, _GRAMMAR, index, attempt))
            place = int(np.searchsorted(self._ends, draw.share(), side="right"))
            category = self._categories[min(place, len(self._categories) - 1)]
            quiz = random_quiz(category, self._vocabulary, pick=draw.below)
            if self._excluded is None or not self._excluded(quiz):
                return quiz
        raise ValueError(
            f"{_MAX_ATTEMPTS} quizzes in a row are excluded; exclude fewer prompts or give more words"
        )

    def fingerprint(self) -> str:
        """Of vocabulary and weights."""
        return f"grammar {crc32(repr((self._vocabulary, sorted(self._weights.items()))).encode()):08x}"


class _Draw:
    """Random numbers of one quiz."""

    def __init__(self, key: int) -> None:
        self._numbers = iter(mix(key, np.arange(16, dtype=np.uint64)).tolist())

    def below(self, limit: int) -> int:
        return next(self._numbers) % limit

    def share(self) -> float:
        return next(self._numbers) / 2**64


class ListedQuizzes:
    """Given quizzes, each once an epoch, in a fresh random order if `shuffle`."""

    def __init__(self, quizzes: Sequence[Quiz], *, seed: int, shuffle: bool = True) -> None:
        if not quizzes:
            raise ValueError("no quizzes given; give at least one")
        self._quizzes = list(quizzes)
        self._seed = seed
        self._shuffle = shuffle
        self._orders: dict[int, Int[np.ndarray, " N"]] = {}

    def quiz(self, index: int) -> Quiz:
        """Quiz number `index`."""
        epoch, place = divmod(index, len(self._quizzes))
        if not self._shuffle:
            return self._quizzes[place]
        if epoch not in self._orders:
            order = permutation(derive(self._seed, _LISTED, epoch), len(self._quizzes))
            self._orders = {epoch: order}
        return self._quizzes[int(self._orders[epoch][place])]

    def fingerprint(self) -> str:
        """Of the quizzes and their order."""
        return (
            f"listed {crc32(repr(self._quizzes).encode()):08x} {'shuffled' if self._shuffle else 'in order'}"
        )


class QuizStream:
    """Batches without end; rank r of R gets the r-th of R equal slices of every global batch."""

    def __init__(
        self, source: QuizSource, *, batch_size: int, seed: int, rank: int = 0, num_ranks: int = 1
    ) -> None:
        if batch_size < 1 or num_ranks < 1 or batch_size % num_ranks:
            raise ValueError(
                f"batch_size {batch_size} cannot be split over {num_ranks} ranks; use a multiple"
            )
        if not 0 <= rank < num_ranks:
            raise ValueError(f"rank is {rank}; ranks count from 0 to {num_ranks - 1}")
        self._source = source
        self._batch_size = batch_size
        self._seed = seed
        self._num_rows = batch_size // num_ranks
        self._first = rank * self._num_rows
        self._next_index = 0

    def __iter__(self) -> Iterator[QuizBatch]:
        return self

    def __next__(self) -> QuizBatch:
        """The next batch."""
        start = self._next_index + self._first
        self._next_index += self._batch_size
        indices = list(range(start, start + self._num_rows))
        return QuizBatch(
            quizzes=[self._source.quiz(index) for index in indices],
            indices=indices,
            seeds=sample_seeds(self._seed, indices),
        )

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as plain data that JSON can hold."""
        return {"made_for": self._made_for(), "next_index": self._next_index}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last batch that was handed out when `state` was taken, on any number of ranks.

        Raises:
            ValueError: the state is that of other quizzes or another seed.
        """
        if state["made_for"] != self._made_for():
            raise ValueError(
                f"the state belongs to another stream: {state['made_for']}, but this one is "
                f"{self._made_for()}; resume with the same quizzes and seed"
            )
        self._next_index = state["next_index"]

    def _made_for(self) -> dict[str, Any]:
        return {"quizzes": self._source.fingerprint(), "seed": self._seed}

    def close(self) -> None:
        """Nothing to end: the stream has no threads."""
