"""Batches of images, and a set of them in the order of its files for evaluation."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from sightloop.data.decode import Decoded, Decoding
from sightloop.data.encoded import Broken, EncodedImage, Row, load_row
from sightloop.data.order import sample_seeds
from sightloop.data.sources import FileSource, Source
from sightloop.picking import picked
from sightloop.terminal import one_line
from sightloop.types import Images

logger = logging.getLogger(__name__)
OneSample = Sequence[Decoded]
"""The images of one sample, which are one where data are not rows."""


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """Images of one size with what is known of each."""

    images: Images
    sources: list[str]
    """A path, or `shard!member`."""
    references: list[str]
    """The first thing that people wrote about the image, see `FileSource.all_references`; "" if nothing."""
    indices: list[int]
    """Running numbers: unique over the endless stream and all its ranks, or the places in an `ImageSet`."""
    seeds: list[int]
    """One a sample, 63 bits, made from the seed of the stream and the running number."""
    prompts: list[str] = field(default_factory=list[str])
    """What is asked, where data are rows."""
    columns: Mapping[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    """Everything else that stands in the rows, by column."""

    def __len__(self) -> int:
        return len(self.sources)

    def rows(self, index: Int[Tensor, " N"]) -> ImageBatch:
        """The samples at `index`."""
        return ImageBatch(**picked(vars(self), index))


class UnreadableImageError(ValueError):
    """An image of a set cannot be read, and none is to be left out."""


OnBroken = Literal["raise", "leave out"]
Made = TypeVar("Made")
Numbered = tuple[int, EncodedImage]
InTurns = Callable[[Iterable[Any], Callable[[Any], Any]], Iterator[Any]]
"""Who works on which part: what the work makes of each part, in order."""


class ImageSet:
    """Every image of a source once, in the order of its files; each `iter` is a fresh pass.

    A broken image raises, because a figure must not change in silence with the images it is made of. With
    `on_broken` "leave out" they are logged and named in `left_out`, and keep their places in `indices`.
    """

    def __init__(
        self,
        source: Source,
        decoding: Decoding,
        *,
        batch_size: int = 64,
        limit: int | None = None,
        on_broken: OnBroken = "raise",
        workers: int = 2,
        seed: int = 0,
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}; use at least 1")
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}; use None for all images or at least 1")
        if workers < 1:
            raise ValueError(f"workers is {workers}; use at least 1 thread")
        self.source = source
        self.left_out: list[Broken] = []
        """Of the latest pass, as far as it went."""
        self._decoding = decoding
        self._batch_size = batch_size
        self._limit = limit
        self._on_broken: OnBroken = on_broken
        self._workers = workers
        self._seed = seed

    @property
    def most(self) -> int:
        """So many images at most; 0 = nobody has counted them."""
        known = len(self.source.paths) if isinstance(self.source, FileSource) else 0
        return min(known, self._limit or known)

    def __iter__(self) -> Iterator[ImageBatch]:
        """Batches in order, the last one possibly smaller.

        Raises:
            ValueError: an image is broken (or, when such are left out, all of them).
        """
        return self.each(lambda batch: batch)

    def each(self, work: Callable[[ImageBatch], Made], *, in_turns: InTurns | None = None) -> Iterator[Made]:
        """What `work` makes of each batch, in order; with `in_turns` ranks read and work on a part of them.

        Raises:
            ValueError: as for the batches themselves.
        """
        self.left_out = []
        numbered = enumerate(itertools.islice(self.source.pictures(), self._limit))
        chunks = iter(lambda: list(itertools.islice(numbered, self._batch_size)), [])
        is_any = False
        with ThreadPoolExecutor(self._workers) as pool:

            def done(chunk: list[Numbered]) -> tuple[list[Made], list[Broken]]:
                batch, broken = self._read(chunk, pool)
                return [] if batch is None else [work(batch)], broken

            for made, broken in map(done, chunks) if in_turns is None else in_turns(chunks, done):
                for one in broken:
                    logger.warning("broken image left out: %s", one_line(f"{one.source}: {one.reason}"))
                self.left_out += broken
                is_any = is_any or bool(made)
                yield from made
        if not is_any:
            first = "".join(f", the first is {one.source}: {one.reason}" for one in self.left_out[:1])
            raise ValueError(f"all {len(self.left_out)} images of {self.source.spec!r} are broken{first}")

    def _read(self, chunk: list[Numbered], pool: Executor) -> tuple[ImageBatch | None, list[Broken]]:
        """The batch of these images; None if all are broken. And those that are."""
        loaded = load_many([image for _, image in chunk], self._decoding, pool=pool)
        used: list[tuple[int, EncodedImage, OneSample]] = []
        all_broken: list[Broken] = []
        for (index, image), pixels in zip(chunk, loaded, strict=True):
            if not isinstance(pixels, Broken):
                used.append((index, image, pixels))
            elif self._on_broken == "raise":
                raise UnreadableImageError(
                    f"broken image {pixels.source}: {pixels.reason}. Repair or remove it"
                )
            else:
                all_broken.append(pixels)
        return _batch(used, self._seed) if used else None, all_broken


def _batch(used: Sequence[tuple[int, EncodedImage, OneSample]], seed: int) -> ImageBatch:
    indices, images, pixels = zip(*used, strict=True)
    return make_batch(images, pixels, indices=list(indices), seed=seed)


def make_batch(
    images: Sequence[EncodedImage], pixels: Sequence[OneSample], *, indices: list[int], seed: int
) -> ImageBatch:
    """A batch of decoded images."""
    rows = [image.row for image in images if image.row is not None]
    return ImageBatch(
        images=_images(pixels, rows),
        sources=[image.source for image in images],
        references=[image.reference for image in images],
        indices=indices,
        seeds=sample_seeds(seed, indices),
        prompts=[row.prompt for row in rows],
        columns={name: [row.columns.get(name) for row in rows] for name in _names(rows)},
    )


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.columns))


def _images(pixels: Sequence[OneSample], rows: Sequence[Row]) -> Images:
    """First images, and further ones where any sample has some; where one has fewer, its first again."""
    most = max(map(len, pixels))
    parts = [_stacked([each[place if place < len(each) else 0] for each in pixels]) for place in range(most)]
    if most == 1 and all(row.has_image and not row.is_list for row in rows):
        return parts[0]
    counts = [len(each) if row.has_image else 0 for each, row in zip(pixels, rows, strict=True)]
    return replace(parts[0], more=tuple(parts[1:]), counts=counts)


def _stacked(images: Sequence[Decoded]) -> Images:
    stacked = np.ascontiguousarray(np.stack([each.square for each in images]).transpose(0, 3, 1, 2))
    whole = [torch.from_numpy(each.whole).permute(2, 0, 1) for each in images if each.whole is not None]
    return Images(pixels=torch.from_numpy(stacked), whole=whole or None)


def load_many(
    images: Sequence[EncodedImage], decoding: Decoding, *, pool: Executor | None
) -> list[OneSample | Broken]:
    """The pixels of each image, or why there are none; in parallel if there is a pool."""
    return list((map if pool is None else pool.map)(lambda image: load_row(image, decoding), images))
