"""Images that a Python program holds: lists of images or files, data sets, and streams of them.

They get a name that settings can hold, `python:images`, under which `open_source` finds them in this process.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeGuard, cast, runtime_checkable

import numpy as np
from PIL import Image
from torch import Tensor

from sightloop.data.encoded import EncodedImage, read_file
from sightloop.data.settings import IN_PYTHON
from sightloop.data.sources import FileSource, ShardSource, Source, give_source
from sightloop.image_files import BrokenImageError

_WANTED = (
    "a folder, glob or file name, a list of images (PIL, NumPy, bytes, file names), a datasets.Dataset "
    "(also streaming), or anything with a length or a fresh iterator"
)


@runtime_checkable
class Places(Protocol):
    """Has a length and places."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> Any: ...


@runtime_checkable
class _Skips(Protocol):
    """A stream that can begin later."""

    def skip(self, n: int) -> Any: ...


@runtime_checkable
class _Lists(Protocol):
    """A column of lists, by what they hold."""

    feature: Any


@runtime_checkable
class _Described(Protocol):
    """A data set that knows what its columns hold."""

    features: Any

    def cast_column(self, column: str, feature: Any) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class HeldImages(FileSource):
    """Images that a program holds, any of which can be reached at once."""

    rows: Any = field(repr=False)
    column: str

    def picture(self, number: int) -> EncodedImage:
        """The image at a place of the order."""
        return EncodedImage(source=self.paths[number], read=partial(self._read, number))

    def _read(self, number: int) -> bytes | Image.Image:
        return image_in(self.rows[number], self.column)


def given_images(images: Any, *, name: str, column: str = "") -> str:
    """What a setting holds for these images: names of files as they are, else `python:NAME`.

    `column` of a data set; empty = the only one that holds images, or "image".

    Raises:
        ValueError: something else than images, none at all, or a stream that can be walked only once.
    """
    if isinstance(images, str | Path):
        return str(images)
    source = source_of(images, name=name, column=column)
    give_source(source)
    return source.spec


def source_of(images: Any, *, name: str = "images", column: str = "") -> Source:
    """The images of a program, as training and evaluations read them.

    Raises:
        ValueError: as for `given_images`.
    """
    spec = f"{IN_PYTHON}{name}"
    if isinstance(images, Mapping):
        raise ValueError(f"{name} has the parts {', '.join(map(str, images))}; give one of them")
    if is_one_image(images):
        raise ValueError(f"{name} is one image; give a list: [image]")
    rows = undecoded(images)
    if isinstance(rows, Places):
        if not len(rows):
            raise ValueError(f"{name} is empty; give at least one image")
        if isinstance(rows, Sequence) and all(isinstance(row, str | Path) for row in rows):
            return FileSource(spec=spec, paths=tuple(map(str, rows)))
        found = _column(rows[0], column, name)
        paths = tuple(f"{spec}!{number}" for number in range(len(rows)))
        return HeldImages(spec=spec, paths=paths, rows=rows, column=found)
    if not isinstance(rows, Iterable):
        raise ValueError(f"{name} is {_shortly(images)}; give {_WANTED}")
    if iter(rows) is rows:
        raise ValueError(
            f"{name} is {_shortly(images)}, which can be walked only once; give a list, or an object whose "
            "iter() starts anew"
        )
    first = next(iter(rows), None)
    if first is None:
        raise ValueError(f"{name} is empty; give at least one image")
    walk = partial(_walk, rows=rows, column=_column(first, column, name))
    return ShardSource(spec=spec, shards=(spec,), walk=walk)


def is_one_image(images: Any) -> bool:
    """Whether this is an image rather than several."""
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim < 4
    return isinstance(images, Image.Image | bytes)


def _walk(shard: str, start: int, *, rows: Any, column: str) -> Iterator[EncodedImage]:
    left = iter(rows.skip(start)) if isinstance(rows, _Skips) else itertools.islice(rows, start, None)
    for number, row in enumerate(left, start):
        yield EncodedImage(source=f"{shard}!{number}", read=partial(image_in, row, column))


def undecoded(images: Any) -> Any:
    """A data set of `datasets` whose images stay files until they are wanted; anything else as it is."""
    if not isinstance(images, _Described):
        return images
    for name, kind in (images.features or {}).items():
        if type(kind).__name__ == "Image" and kind.decode:
            images = images.cast_column(name, replace(kind, decode=False))
        if isinstance(kind, _Lists) and type(kind.feature).__name__ == "Image" and kind.feature.decode:
            inside = replace(kind.feature, decode=False)
            images = images.cast_column(name, replace(cast("Any", kind), feature=inside))
    return images


def _column(row: Any, wanted: str, name: str) -> str:
    """The column of images in rows that have columns; "" = rows are images, or begin with one."""
    if not isinstance(row, Mapping) or _is_file(row):
        if wanted:
            raise ValueError(f"{name} has no columns; leave column {wanted!r} out")
        try:
            image_in(row, "")
        except BrokenImageError as error:
            raise ValueError(f"{name} holds {_shortly(row)}: {error}; give {_WANTED}") from error
        return ""
    columns = ", ".join(map(str, row))
    if wanted and wanted not in row:
        raise ValueError(f"{name} has no column {wanted!r}; it has {columns}")
    holding = [wanted] if wanted else [key for key, value in row.items() if _is_image(value)]
    if len(holding) > 1 and "image" in holding:
        holding = ["image"]
    if len(holding) != 1:
        what = f"several columns of images, {', '.join(holding)}" if holding else "no column of images"
        raise ValueError(f"{name} has {what} (of {columns}); name one with column")
    return str(holding[0])


def _is_file(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether this is how `datasets` holds an image that is not decoded."""
    return isinstance(value, Mapping) and {"bytes", "path"} >= set(value) and bool(value)


def _is_image(value: Any) -> bool:
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim in (2, 3)
    return isinstance(value, Image.Image | bytes) or _is_file(value)


def image_in(row: Any, column: str) -> bytes | Image.Image:
    """The image of a row.

    Raises:
        BrokenImageError: there is none.
    """
    value = row[column] if column else row
    if isinstance(value, tuple) and value:
        # As data sets of torchvision have it: the image, then its label.
        value = value[0]
    if isinstance(value, Image.Image):
        # Decoding turns and reduces in place.
        return value.copy()
    if isinstance(value, bytes):
        return value
    if isinstance(value, str | Path):
        return read_file(str(value))
    if _is_file(value):
        return value["bytes"] if value.get("bytes") else read_file(str(value.get("path")))
    if isinstance(value, Tensor) and value.ndim == 3:
        value = value.detach().cpu().movedim(0, 2).numpy() if len(value) in (1, 3) else value.cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim in (2, 3):
        return Image.fromarray(value[..., 0] if value.shape[2:] == (1,) else value)
    raise BrokenImageError(f"{_shortly(value)} is no image; arrays are uint8, tensors uint8 with 3 x H x W")


def _shortly(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
