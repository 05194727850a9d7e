"""Encoded images to uint8 RGB squares of one size, the way the models' own processors resize.

First frame of an animation; color profiles are not applied, as in those processors; an EXIF orientation is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sightloop.image_files import (
    DAMAGE,
    PIL_MAX_PIXELS,
    BrokenImageError,
    open_encoded,
    over_white,
    require_format,
)

Fit = Literal["crop", "squash"]
_WHITE_16_BIT = 65535


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How an image becomes a square of `size` x `size` pixels.

    `fit` "crop" brings the shorter side to `size` and keeps the center (as CLIP); "squash" brings both sides
    to `size` (as BLIP). Both are bicubic. An image of more than `max_pixels` pixels counts as broken.
    """

    size: int
    fit: Fit = "crop"
    max_pixels: int = PIL_MAX_PIXELS

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is {self.size} pixels; use at least 1, usually the model's input size")
        if self.fit not in ("crop", "squash"):
            raise ValueError(f'fit is {self.fit!r}; use "crop" or "squash"')
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels is {self.max_pixels}; use at least 1")


def decode(picture: bytes | Image.Image, decoding: Decoding) -> UInt8[np.ndarray, "H W 3"]:
    """The image as an RGB square.

    Raises:
        BrokenImageError: it is no image of a known format, is damaged, or is larger than `max_pixels`.
    """
    image = _upright(picture, lambda size: _check_pixels(size, decoding))
    return np.asarray(_square(image, decoding))


def upright(picture: bytes, *, max_pixels: int = PIL_MAX_PIXELS) -> UInt8[np.ndarray, "H W 3"]:
    """The whole image as RGB in its own size.

    Raises:
        BrokenImageError: it is no image of a known format, is damaged, or is larger than `max_pixels`.
    """
    return np.array(_upright(picture, lambda size: _check_number(size, max_pixels)))


def _upright(picture: bytes | Image.Image, check: Callable[[tuple[int, int]], None]) -> Image.Image:
    try:
        image = open_encoded(picture) if isinstance(picture, bytes) else picture
        require_format(image)
        check(image.size)
        ImageOps.exif_transpose(image, in_place=True)
        return _rgb(image)
    except BrokenImageError:
        raise
    except DAMAGE as error:
        raise BrokenImageError(f"{type(error).__name__}: {error}") from error


def _check_number(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise BrokenImageError(
            f"{width} x {height} pixels, more than the {max_pixels} that are accepted; scale it down"
        )


def _check_pixels(size: tuple[int, int], decoding: Decoding) -> None:
    _check_number(size, decoding.max_pixels)
    width, height = size
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
    return image.convert("RGB")


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    white = 1.0 if image.mode == "F" else _WHITE_16_BIT
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):
        raise BrokenImageError(
            f"grey values from {low} to {high}, of which the white is unknown; save it as 16 bit"
        )
    levels: NDArray[np.float64] = values.astype(np.float64) * (255 / white)
    if "transparency" in image.info:
        levels[values == image.info["transparency"]] = 255
    return Image.fromarray(np.rint(levels).astype(np.uint8)).convert("RGB")


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
