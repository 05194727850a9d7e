"""One image that has not been read yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sightloop.data.decode import BrokenImageError, Decoded, Decoding, decode_both
from sightloop.image_files import read_regular


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """Where an image is, and how its bytes (or, for a video, its frame) are fetched when it is wanted."""

    source: str
    """A path, or `shard!member`."""
    read: Callable[[], bytes | Image.Image]
    reference: str = ""


@dataclass(frozen=True, kw_only=True)
class Broken:
    """An image that could not be used, and why."""

    source: str
    reason: str


def load(picture: EncodedImage, decoding: Decoding) -> UInt8[np.ndarray, "H W 3"] | Broken:
    """The square, or why there is none."""
    found = load_both(picture, decoding)
    return found if isinstance(found, Broken) else found.square


def load_both(picture: EncodedImage, decoding: Decoding) -> Decoded | Broken:
    """The square, and the whole image if that is wanted, or why there is none."""
    try:
        return decode_both(picture.read(), decoding)
    except (BrokenImageError, OSError) as error:
        return Broken(source=picture.source, reason=str(error))


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
