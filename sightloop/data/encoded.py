"""One image that has not been read yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sightloop.data.decode import BrokenImageError, Decoded, Decoding, decode_both
from sightloop.image_files import read_regular

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".jp2", ".avif",
)  # fmt: skip
Reading = Callable[[], bytes | Image.Image]
"""Fetches the bytes of an image (or, for a video, its frame) when it is wanted."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What stands beside an image where data are rows."""

    prompt: str
    """A text, or a `MessagePrompt`."""
    columns: Mapping[str, Any]
    """Everything else, by column."""
    more: tuple[Reading, ...] = ()
    """Its second image and further ones."""
    is_list: bool = False
    """Whether its images are a list, which may hold one."""
    has_image: bool = True


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """Where an image is, and how it is fetched when it is wanted."""

    source: str
    """A path, or `shard!member`."""
    read: Reading
    reference: str = ""
    row: Row | None = None
    """The row that it is the first image of."""


@dataclass(frozen=True, kw_only=True)
class Broken:
    """An image that could not be used, and why."""

    source: str
    reason: str


def load(image: EncodedImage, decoding: Decoding) -> UInt8[np.ndarray, "H W 3"] | Broken:
    """The square, or why there is none."""
    found = load_row(image, decoding)
    return found if isinstance(found, Broken) else found[0].square


def load_row(image: EncodedImage, decoding: Decoding) -> tuple[Decoded, ...] | Broken:
    """All images of its row, itself alone where it is in none, as squares and whole if that is wanted; or why
    there are none.
    """
    reads = (image.read, *(image.row.more if image.row else ()))
    try:
        return tuple(decode_both(read(), decoding) for read in reads)
    except (BrokenImageError, OSError) as error:
        return Broken(source=image.source, reason=str(error))


def read_file(path: str) -> bytes:
    """The content of an image file.

    Raises:
        BrokenImageError: it is no regular file, or larger than any image should be.
    """
    return read_regular(path)


def read_range(path: str, *, offset: int, size: int) -> bytes:
    """`size` bytes of a file from `offset` on.

    Raises:
        BrokenImageError: the file ends before.
    """
    data = read_regular(path, offset=offset, size=size)
    if len(data) < size:
        raise BrokenImageError(f"the shard ends after {len(data)} of its {size} bytes")
    return data


def damaged(source: str, reason: str) -> EncodedImage:
    """Stands for what cannot be read, so that damage is counted and reported like a broken image."""

    def read() -> bytes:
        raise BrokenImageError(reason)

    return EncodedImage(source=source, read=read)
