"""An endless stream of image batches: seeded, the same for any number of ranks, resumed at the exact sample.

Sample k of a stream of global batch size N shows the image at place k of the order. If that one is broken,
it shows the image at place k + N, which the same row of the next batch shows too, then k + N + 1 and so on.
The order itself never moves: no rank needs to know what is broken at another, and a state holds for any
number of ranks.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from sightloop.data.decode import Decoding
from sightloop.data.encoded import Broken, load_row
from sightloop.data.images import ImageBatch, OneSample, load_many, make_batch
from sightloop.data.order import order_of
from sightloop.data.sources import Source
from sightloop.terminal import one_line

logger = logging.getLogger(__name__)
_MIN_SEEN = 100
"""Below this many images, the share of broken ones is reckoned as if so many had been seen."""
_NUM_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How a source is cut into batches. `batch_size` counts the images of all ranks together."""

    batch_size: int
    seed: int = 0
    shuffle: bool = True
    shuffle_buffer: int = 1024
    """Images that shards are shuffled among; those of parquet are held in memory, encoded."""
    rank: int = 0
    num_ranks: int = 1
    workers: int = 2
    """Threads that decode, one batch ahead."""
    max_broken_fraction: float = 0.05
    """Of the images seen; in [0, 1)."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_ranks < 1 or self.batch_size % self.num_ranks:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be split over {self.num_ranks} ranks; use a multiple"
            )
        if not 0 <= self.rank < self.num_ranks:
            raise ValueError(f"rank is {self.rank}; ranks count from 0 to {self.num_ranks - 1}")
        if self.shuffle_buffer < 1:
            raise ValueError(f"shuffle_buffer is {self.shuffle_buffer}; use at least 1")
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; use at least 1 thread")
        if not 0 <= self.max_broken_fraction < 1:
            raise ValueError(f"max_broken_fraction is {self.max_broken_fraction}; use a share in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class _Progress:
    """Where the stream stands after a batch."""

    next_index: int
    order: dict[str, Any]
    num_seen: int = 0
    num_broken: int = 0


@dataclass(frozen=True, kw_only=True)
class _Made:
    batch: ImageBatch
    broken: list[Broken]
    progress: _Progress


class ImageStream:
    """Batches without end; rank r of R gets the r-th of R equal slices of every global batch.

    `broken` names every image that this rank could not use; `num_seen` and `num_broken` count attempts. All
    three go with the state: after a resume on other ranks they are those of the rank that saved.
    """

    def __init__(self, source: Source, decoding: Decoding, batching: Batching) -> None:
        self._source = source
        self._decoding = decoding
        self._batching = batching
        self._order = order_of(
            source, seed=batching.seed, shuffle=batching.shuffle, shuffle_buffer=batching.shuffle_buffer
        )
        self._progress = _Progress(next_index=0, order=self._order.state_dict())
        self._broken: dict[str, Broken] = {}
        # One thread makes batches, one after the other; the others only decode for it.
        self._maker = ThreadPoolExecutor(1, "sightloop-batches")
        self._pool = (
            ThreadPoolExecutor(batching.workers, "sightloop-decode") if batching.workers > 1 else None
        )
        self._pending: Future[_Made] | None = None
        self._made_for: dict[str, Any] = {
            "pictures": source.fingerprint(),
            "seed": batching.seed,
            "shuffle_buffer": batching.shuffle_buffer if batching.shuffle else None,
        }

    @property
    def broken(self) -> list[Broken]:
        """Every image that could not be used so far, once."""
        return list(self._broken.values())

    @property
    def num_seen(self) -> int:
        """Images tried so far."""
        return self._progress.num_seen

    @property
    def num_broken(self) -> int:
        """How many of the images tried were broken."""
        return self._progress.num_broken

    def __iter__(self) -> Iterator[ImageBatch]:
        return self

    def __next__(self) -> ImageBatch:
        """The next batch.

        Raises:
            ValueError: more than `max_broken_fraction` of the images are broken.
        """
        # Kept until its batch is here: an interrupted wait must not lose a batch.
        if self._pending is None:
            self._pending = self._maker.submit(self._make, self._progress)
        made = self._pending.result()
        self._pending = self._maker.submit(self._make, made.progress)
        self._progress = made.progress
        for broken in made.broken:
            if broken.source not in self._broken:
                self._broken[broken.source] = broken
                logger.warning(
                    "broken image replaced: %s: %s", one_line(broken.source), one_line(broken.reason)
                )
        return made.batch

    def _make(self, before: _Progress) -> _Made:
        batching = self._batching
        num_rows = batching.batch_size // batching.num_ranks
        first = batching.rank * num_rows
        images = self._order.take(batching.batch_size)[first : first + num_rows]
        loaded = load_many(images, self._decoding, pool=self._pool)
        broken = [result for result in loaded if isinstance(result, Broken)]
        num_seen = before.num_seen + num_rows
        self._check(num_seen, before, broken)
        pixels: list[OneSample] = []
        for row, result in enumerate(loaded):
            attempt = 0
            while isinstance(result, Broken):
                images[row] = self._order.ahead(first + row + attempt)
                result = load_row(images[row], self._decoding)
                attempt += 1
                num_seen += 1
                if isinstance(result, Broken):
                    broken.append(result)
                    self._check(num_seen, before, broken)
            pixels.append(result)
        start = before.next_index + first
        batch = make_batch(images, pixels, indices=list(range(start, start + num_rows)), seed=batching.seed)
        progress = _Progress(
            next_index=before.next_index + batching.batch_size,
            order=self._order.state_dict(),
            num_seen=num_seen,
            num_broken=before.num_broken + len(broken),
        )
        return _Made(batch=batch, broken=broken, progress=progress)

    def _check(self, num_seen: int, before: _Progress, broken: list[Broken]) -> None:
        num_broken = before.num_broken + len(broken)
        if num_broken <= self._batching.max_broken_fraction * max(num_seen, _MIN_SEEN):
            return
        named = "; ".join(f"{image.source}: {image.reason}" for image in broken[:_NUM_NAMED])
        raise ValueError(
            f"{num_broken} of {num_seen} images of {self._source.spec!r} are broken, more than "
            f"max_broken_fraction {self._batching.max_broken_fraction}; the latest are "
            f"{named}. Repair the data, or accept more of them with --data.max-broken-fraction"
        )

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands after the last batch handed out, as plain data that JSON can hold."""
        return {
            "made_for": dict(self._made_for),
            "next_index": self._progress.next_index,
            "order": copy.deepcopy(self._progress.order),
            "num_seen": self._progress.num_seen,
            "num_broken": self._progress.num_broken,
            "broken": [[broken.source, broken.reason] for broken in self._broken.values()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last batch that was handed out when `state` was taken, on any number of ranks.

        Raises:
            ValueError: the state is that of other images, another seed or another shuffling.
        """
        if state["made_for"] != self._made_for:
            raise ValueError(
                f"the state belongs to another stream: {state['made_for']}, but this one is "
                f"{self._made_for}; resume with the same images, seed and shuffling"
            )
        if self._pending is not None:
            wait([self._pending])
            self._pending = None
        self._order.load_state_dict(state["order"])
        self._progress = _Progress(
            next_index=state["next_index"],
            order=self._order.state_dict(),
            num_seen=state["num_seen"],
            num_broken=state["num_broken"],
        )
        self._broken = {source: Broken(source=source, reason=reason) for source, reason in state["broken"]}

    def close(self) -> None:
        """End the threads; what was handed out stays valid."""
        self._maker.shutdown(cancel_futures=True)
        if self._pool is not None:
            self._pool.shutdown()
