"""Encoded images to uint8 RGB squares of one size, the way the models' own processors resize.

First frame of an animation; color profiles are not applied, as in those processors; an EXIF orientation is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sightloop.image_files import (
    DAMAGE,
    PIL_MAX_PIXELS,
    BrokenImageError,
    as_rgb,
    in_strips,
    one_if_large,
    open_encoded,
    over_white,
    reduce_while_decoding,
    require_format,
    require_pixels,
)

Fit = Literal["crop", "squash"]
MOST_WHOLE = 1 << 22
"""Pixels of a whole image that is kept; one of more is brought down to so many."""
_MOST_ELONGATED = 100
_WHITE_16_BIT = 65535


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How an image becomes a square of `size` x `size` pixels.

    `fit` "crop" brings the shorter side to `size` and keeps the center (as CLIP); "squash" brings both sides
    to `size` (as BLIP). Both are bicubic. An image of more than `max_pixels` pixels counts as broken. `whole`
    also keeps the image in its own shape.
    """

    size: int
    fit: Fit = "crop"
    max_pixels: int = PIL_MAX_PIXELS
    whole: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is {self.size} pixels; use at least 1, usually the model's input size")
        if self.fit not in ("crop", "squash"):
            raise ValueError(f'fit is {self.fit!r}; use "crop" or "squash"')
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels is {self.max_pixels}; use at least 1")


class Decoded(NamedTuple):
    """An image as an RGB square, and in its own shape where that is wanted."""

    square: UInt8[np.ndarray, "S S 3"]
    whole: UInt8[np.ndarray, "H W 3"] | None = None


def decode(image: bytes | Image.Image, decoding: Decoding) -> UInt8[np.ndarray, "H W 3"]:
    """The image as an RGB square.

    Raises:
        BrokenImageError: it is no image of a known format, is damaged, or is larger than `max_pixels`.
    """
    return decode_both(image, decoding).square


def decode_both(picture: bytes | Image.Image, decoding: Decoding) -> Decoded:
    """The image as an RGB square, and whole if that is wanted.

    Raises:
        BrokenImageError: as for `decode`, or it is too elongated to be looked at whole.
    """
    try:
        image = _opened(picture, decoding.max_pixels)
        _check_shape(image.size, decoding)
        with one_if_large(image.size):
            if not decoding.whole:
                reduce_while_decoding(image, decoding.size)
                return Decoded(np.asarray(_square(_upright(image), decoding)))
            reduce_while_decoding(image, math.isqrt(MOST_WHOLE))
            whole = _brought_down(_upright(image))
            return Decoded(np.asarray(_square(whole, decoding)), np.array(whole))
    except BrokenImageError:
        raise
    except DAMAGE as error:
        raise BrokenImageError(f"{type(error).__name__}: {error}") from error


def upright(picture: bytes, *, max_pixels: int = PIL_MAX_PIXELS) -> UInt8[np.ndarray, "H W 3"]:
    """The whole image as RGB in its own size.

    Raises:
        BrokenImageError: it is no image of a known format, is damaged, or is larger than `max_pixels`.
    """
    try:
        image = _opened(picture, max_pixels)
        with one_if_large(image.size):
            return np.array(_upright(image))
    except BrokenImageError:
        raise
    except DAMAGE as error:
        raise BrokenImageError(f"{type(error).__name__}: {error}") from error


def _opened(picture: bytes | Image.Image, max_pixels: int) -> Image.Image:
    image = open_encoded(picture) if isinstance(picture, bytes) else picture
    require_format(image)
    require_pixels(image, max_pixels)
    return image


def _upright(image: Image.Image) -> Image.Image:
    ImageOps.exif_transpose(image, in_place=True)
    return _rgb(image)


def _check_shape(size: tuple[int, int], decoding: Decoding) -> None:
    width, height = size
    if decoding.whole and max(size) > _MOST_ELONGATED * min(size):
        raise BrokenImageError(
            f"{width} x {height} pixels is too elongated to be looked at whole: more than "
            f"{_MOST_ELONGATED} times as long as wide"
        )
    # The crop is cut from a resized whole, which for a very long image can be far larger than the image.
    long = decoding.size * max(size) // min(size)
    if decoding.fit == "crop" and long * decoding.size > max(decoding.max_pixels, PIL_MAX_PIXELS):
        raise BrokenImageError(
            f'{width} x {height} pixels is too elongated for fit "crop" at size {decoding.size}: {long} '
            "pixels on the long side before the crop"
        )


def _rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB, transparency over white."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey_to_rgb(image)
    if "transparency" in image.info or any(band in ("A", "a") for band in image.getbands()):
        return over_white(image)
    return as_rgb(image)


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    white = 1.0 if image.mode == "F" else _WHITE_16_BIT
    clear = image.info.get("transparency")
    if clear is not None and not isinstance(clear, int):
        raise BrokenImageError(f"its transparency is {clear!r}, which is no level of grey")
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):
        raise BrokenImageError(
            f"grey values from {low} to {high}, of which the white is unknown; save it as 16 bit"
        )
    del values

    def to_8_bits(strip: Image.Image) -> Image.Image:
        values = np.asarray(strip)
        levels: NDArray[np.float64] = values.astype(np.float64) * (255 / white)
        if clear is not None:
            levels[values == clear] = 255
        return Image.fromarray(np.rint(levels).astype(np.uint8)).convert("RGB")

    return in_strips(image, to_8_bits)


def _brought_down(image: Image.Image) -> Image.Image:
    """An image of at most `MOST_WHOLE` pixels."""
    scale = math.sqrt(MOST_WHOLE / (image.width * image.height))
    if scale >= 1:
        return image
    size = (max(1, int(scale * image.width)), max(1, int(scale * image.height)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _square(image: Image.Image, decoding: Decoding) -> Image.Image:
    size, (width, height) = decoding.size, image.size
    if decoding.fit == "squash":
        return image.resize((size, size), Image.Resampling.BICUBIC)
    # Neither `long * size // short` nor rounded: the division and the cut of CLIP's processor.
    long = int(size * max(width, height) / min(width, height))
    width, height = (size, long) if width <= height else (long, size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
