"""In which order images are drawn: endless, seeded, and continued exactly from a state of plain data.

An epoch shows every image once, then the next begins. Every rank walks the same order by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int, UInt64

from sightloop.data.encoded import EncodedImage
from sightloop.data.sources import FileSource, ShardSource, Source

_SEEDS, _FILES, _SHARDS, _DRAWS = range(4)
"""What random numbers are for; each use has its own sequence."""
_MASK = 2**64 - 1


def mix(key: int, numbers: UInt64[np.ndarray, " N"]) -> UInt64[np.ndarray, " N"]:
    """64 random-looking bits for each number, the same on every machine and with every library version.

    The outputs of SplitMix64 (Steele, Lea and Flood, 2014) seeded with `key`, at the places `numbers`.
    """
    z = np.uint64(key & _MASK) + (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def derive(key: int, *numbers: int) -> int:
    """One such number from several: a key for each use, epoch and draw."""
    for number in numbers:
        key = int(mix(key, np.array([number], np.uint64))[0])
    return key


def sample_seeds(seed: int, indices: list[int]) -> list[int]:
    """One seed of 63 bits a sample, from the seed of the stream and its running number."""
    return (mix(derive(seed, _SEEDS), np.array(indices, np.uint64)) >> np.uint64(1)).tolist()


def permutation(key: int, size: int) -> Int[np.ndarray, " N"]:
    """A random order of `size` things."""
    return np.argsort(mix(key, np.arange(size, dtype=np.uint64)), kind="stable")


class Order(Protocol):
    """An endless order of images."""

    def take(self, count: int) -> list[EncodedImage]:
        """The next images."""
        ...

    def ahead(self, distance: int) -> EncodedImage:
        """The image that `take` returns after `distance` others, left where it is."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Where the order stands, as plain data."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        ...


def order_of(source: Source, *, seed: int, shuffle: bool, shuffle_buffer: int) -> Order:
    """The order of a source. `shuffle_buffer` is the number of images that shards are shuffled among."""
    if isinstance(source, FileSource):
        return FileOrder(source, seed=seed, shuffle=shuffle)
    return ShardOrder(source, seed=seed, buffer_size=shuffle_buffer if shuffle else None)


class FileOrder:
    """A fresh permutation of all images each epoch."""

    def __init__(self, source: FileSource, *, seed: int, shuffle: bool) -> None:
        self._source = source
        self._key = derive(seed, _FILES)
        self._shuffle = shuffle
        self._position = 0
        self._epochs: dict[int, Int[np.ndarray, " N"]] = {}

    def take(self, count: int) -> list[EncodedImage]:
        """The next images."""
        taken = [self.ahead(distance) for distance in range(count)]
        self._position += count
        return taken

    def ahead(self, distance: int) -> EncodedImage:
        """The image that `take` returns after `distance` others, left where it is."""
        epoch, place = divmod(self._position + distance, len(self._source))
        return self._source.picture(int(self._epoch(epoch)[place]) if self._shuffle else place)

    def _epoch(self, epoch: int) -> Int[np.ndarray, " N"]:
        if epoch not in self._epochs:
            # Looking ahead alternates between two epochs; more are never needed again.
            self._epochs = {kept: order for kept, order in self._epochs.items() if abs(kept - epoch) == 1}
            self._epochs[epoch] = permutation(derive(self._key, epoch), len(self._source))
        return self._epochs[epoch]

    def state_dict(self) -> dict[str, Any]:
        """Where the order stands, as plain data."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._position = state["position"]


Place = tuple[int, int]
"""A shard's number in the source and an image's number in the shard."""


class ShardOrder:
    """Shards in a fresh permutation each epoch; of the images met, a buffer is filled and drawn from.

    The buffer is emptied before the next epoch begins. Without a buffer: the order of the files.
    """

    def __init__(self, source: ShardSource, *, seed: int, buffer_size: int | None) -> None:
        self._source = source
        self._seed = seed
        self._buffer_size = buffer_size
        self._buffer: list[tuple[Place, EncodedImage]] = []
        self._ahead: deque[tuple[Place, EncodedImage]] = deque()
        self._start_epoch(0)

    def _start_epoch(self, epoch: int, *, num_shards: int = 0, number: int = 0, num_draws: int = 0) -> None:
        count = len(self._source.shards)
        shuffled = self._buffer_size is not None
        self._epoch = epoch
        self._shards = (
            permutation(derive(self._seed, _SHARDS, epoch), count) if shuffled else np.arange(count)
        )
        self._draw_key = derive(self._seed, _DRAWS, epoch)
        self._num_shards = num_shards
        self._number = number
        self._num_draws = num_draws
        self._walk: Iterator[EncodedImage] | None = None

    def take(self, count: int) -> list[EncodedImage]:
        """The next images."""
        return [self._ahead.popleft()[1] if self._ahead else self._draw()[1] for _ in range(count)]

    def ahead(self, distance: int) -> EncodedImage:
        """The image that `take` returns after `distance` others, left where it is."""
        while len(self._ahead) <= distance:
            self._ahead.append(self._draw())
        return self._ahead[distance][1]

    def _draw(self) -> tuple[Place, EncodedImage]:
        for _ in range(2):
            while len(self._buffer) < (self._buffer_size or 1) and (met := self._next_met()):
                self._buffer.append(met)
            if self._buffer:
                place = derive(self._draw_key, self._num_draws) % len(self._buffer)
                self._num_draws += 1
                self._buffer[place], self._buffer[-1] = self._buffer[-1], self._buffer[place]
                return self._buffer.pop()
            self._start_epoch(self._epoch + 1)
        raise ValueError(f"{self._source.spec!r} holds no image any more; a whole pass found none")

    def _next_met(self) -> tuple[Place, EncodedImage] | None:
        """The next image of this shard, or the first later one that has any; None: end of epoch."""
        while self._num_shards < len(self._shards):
            shard = int(self._shards[self._num_shards])
            if self._walk is None:
                self._walk = self._source.walk(self._source.shards[shard], self._number)
            image = next(self._walk, None)
            if image is not None:
                self._number += 1
                return (shard, self._number - 1), image
            self._walk, self._number = None, 0
            self._num_shards += 1
        return None

    def state_dict(self) -> dict[str, Any]:
        """Where the order stands, as plain data: images by their place, not their bytes."""
        return {
            "epoch": self._epoch,
            "num_shards": self._num_shards,
            "number": self._number,
            "num_draws": self._num_draws,
            "buffer": [list(place) for place, _ in self._buffer],
            "ahead": [list(place) for place, _ in self._ahead],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; the images of the buffer are looked up again.

        Raises:
            ValueError: a shard no longer has an image that was in the buffer.
        """
        self._start_epoch(
            state["epoch"],
            num_shards=state["num_shards"],
            number=state["number"],
            num_draws=state["num_draws"],
        )
        buffer = [(shard, number) for shard, number in state["buffer"]]
        ahead = [(shard, number) for shard, number in state["ahead"]]
        found = self._look_up({*buffer, *ahead})
        self._buffer = [(place, found[place]) for place in buffer]
        self._ahead = deque((place, found[place]) for place in ahead)

    def _look_up(self, places: Iterable[Place]) -> dict[Place, EncodedImage]:
        numbers_of: dict[int, set[int]] = {}
        for shard, number in places:
            numbers_of.setdefault(shard, set()).add(number)
        found: dict[Place, EncodedImage] = {}
        for shard, numbers in numbers_of.items():
            path, first = self._source.shards[shard], min(numbers)
            for number, image in zip(
                range(first, max(numbers) + 1), self._source.walk(path, first), strict=False
            ):
                if number in numbers:
                    found[shard, number] = image
            if missing := [number for number in numbers if (shard, number) not in found]:
                raise ValueError(
                    f"{path} no longer has image {min(missing)}; the shard changed since the state"
                )
        return found
