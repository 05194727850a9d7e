"""The only place that opens image files: regular files only, their formats told by their content.

Pillow knows more formats than are read here, some of which start other programs: an EPS file, whatever its
name ends in, is handed to Ghostscript.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import threading
import zlib
from pathlib import Path

from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What is read."""
PIL_MAX_PIXELS = 89_478_485
"""Where Pillow starts to warn of decompression bombs: a quarter of a gigabyte as RGB."""
MAX_BYTES = 1 << 29
"""The largest file that is read: an uncompressed image of that many pixels has half as many bytes."""
DAMAGE = (
    Image.DecompressionBombError,
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on damaged files; they promise nothing narrower."""
_OPENING = threading.Lock()
_STRIP_PIXELS = 1 << 20


class BrokenImageError(ValueError):
    """An image that cannot be read, decoded or used; the message says why."""


class DeepImageError(BrokenImageError):
    """An image of more than 8 bits a channel where 8 are wanted."""


def read_regular(path: str | Path, *, offset: int = 0, size: int | None = None) -> bytes:
    """The content of a file, or `size` bytes of it from `offset` on; never of a pipe, a device or a folder.

    Raises:
        BrokenImageError: it is no regular file, or more than `MAX_BYTES` are wanted.
        OSError: it cannot be read.
    """
    told = os.stat(path)
    if not stat.S_ISREG(told.st_mode):
        raise BrokenImageError("it is no regular file")
    wanted = told.st_size - offset if size is None else size
    if wanted > MAX_BYTES:
        raise BrokenImageError(f"it has {wanted} bytes, more than the {MAX_BYTES} that are read")
    with open(path, "rb") as file:
        file.seek(offset)
        # What grew meanwhile is cut; some files of the system say that they are empty and are not.
        return file.read(MAX_BYTES if size is None else size)


def open_encoded(data: bytes) -> Image.Image:
    """An encoded image, of which nothing but its header is decoded yet.

    Raises:
        BrokenImageError: it is empty or of no known format.
    """
    if not data:
        raise BrokenImageError("it is empty")
    # Pillow's own limit is one for the process, with a warning at one size and an error at another. Ours is
    # checked by who decodes; the lock keeps the threads of a stream from restoring each other's value.
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.UnidentifiedImageError:
            raise BrokenImageError(f"not an image of a known format ({', '.join(FORMATS)})") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def texts_in(path: str | Path) -> dict[str, str]:
    """What an image file tells besides its pixels, by names; the texts of a PNG file are among it.

    Raises:
        BrokenImageError: it cannot be read.
    """
    try:
        told = open_encoded(read_regular(path)).info
    except BrokenImageError:
        raise
    except DAMAGE as error:
        raise BrokenImageError(f"{type(error).__name__}: {error}") from error
    return {name: value for name, value in told.items() if isinstance(name, str) and isinstance(value, str)}


def open_image(path: str | Path) -> Image.Image:
    """An image file as upright 8-bit RGB, transparency over white.

    Raises:
        ValueError: it is missing, damaged, no image, too large, or has more than 8 bits a channel.
    """
    try:
        return upright_rgb(open_encoded(read_regular(path)))
    except DeepImageError as error:
        raise ValueError(f"{path} has {error}") from error
    except DAMAGE as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image as upright 8-bit RGB, transparency over white.

    Raises:
        BrokenImageError: a format that is not read, or more than `PIL_MAX_PIXELS`.
        DeepImageError: more than 8 bits a channel.
    """
    require_format(image)
    width, height = image.size
    if width * height > PIL_MAX_PIXELS:
        raise BrokenImageError(f"{width} x {height} pixels, more than {PIL_MAX_PIXELS}; scale it down")
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;"):
        raise DeepImageError(f"more than 8 bits a channel (mode {upright.mode}); save it with 8 bits")
    return over_white(upright) if upright.has_transparency_data else upright.convert("RGB")


def over_white(image: Image.Image) -> Image.Image:
    """RGB of an image with transparency, in strips: three copies of a large one would be a gigabyte."""
    width, height = image.size
    told = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // max(1, width))
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height))).convert("RGBA")
        ground = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        told.paste(Image.alpha_composite(ground, strip).convert("RGB"), (0, top))
    return told


def require_format(image: Image.Image) -> None:
    """Refuse an image that somebody else opened if decoding it might run a program.

    Raises:
        BrokenImageError: it is of a format that is not read here.
    """
    if image.format is not None and image.format not in FORMATS:
        raise BrokenImageError(f"{image.format} is not a format that is read ({', '.join(FORMATS)})")
