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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What is read."""
PIL_MAX_PIXELS = 89_478_485
"""Where Pillow starts to warn of decompression bombs: a quarter of a gigabyte as RGB."""
MAX_JPEG_2000_PIXELS = 1 << 26
"""Its decoder takes twenty bytes a pixel, more than any other."""
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
LARGE_PIXELS = 1 << 24
"""Above this many pixels images are decoded one at a time, in a reduced size where their format can be."""
_OPENING = threading.Lock()
_LARGE = threading.Lock()
_STRIP_PIXELS = 1 << 20
_EXACT = 4
"""A side reduced while it is decoded stays this many times as long as what is wanted."""


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
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise BrokenImageError("it is no regular file")
    wanted = status.st_size - offset if size is None else size
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
        info = open_encoded(read_regular(path)).info
    except BrokenImageError:
        raise
    except DAMAGE as error:
        raise BrokenImageError(f"{type(error).__name__}: {error}") from error
    return {name: value for name, value in info.items() if isinstance(name, str) and isinstance(value, str)}


def path_inside(folder: str | Path, name: str) -> Path:
    """The path of a file that a data file names by its place below a folder, or whole.

    Raises:
        BrokenImageError: the name leads out of that folder.
    """
    if os.path.isabs(name) and Path(name).is_relative_to(Path(folder).absolute()):
        name = os.path.relpath(name, Path(folder).absolute()) if ".." not in Path(name).parts else name
    if os.path.isabs(name) or ".." in Path(name).parts or "\0" in name:
        raise BrokenImageError(f"{name!r} leads out of the folder {str(folder)!r}; name a file below it")
    return Path(folder) / name


def open_image(path: str | Path) -> Image.Image:
    """An image file as upright 8-bit RGB, transparency over white.

    Raises:
        ValueError: it is missing, damaged, no image, too large, or has more than 8 bits a channel.
    """
    try:
        image = open_encoded(read_regular(path))
        with one_if_large(image.size):
            return upright_rgb(image)
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
    require_pixels(image, PIL_MAX_PIXELS)
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;"):
        raise DeepImageError(f"more than 8 bits a channel (mode {upright.mode}); save it with 8 bits")
    return over_white(upright) if upright.has_transparency_data else as_rgb(upright)


def reduced_copy(data: bytes, side: int) -> bytes:
    """An encoded image as a JPEG whose sides are at most `side`; one that cannot be read as it is."""
    out = io.BytesIO()
    try:
        with open_encoded(data) as image:
            reduced = upright_rgb(image)
            reduced.thumbnail((side, side))
            reduced.save(out, "JPEG", quality=80)
    except DAMAGE:
        return data
    return out.getvalue()


def as_rgb(image: Image.Image) -> Image.Image:
    """RGB of an image without transparency; itself if it is that."""
    return image if image.mode == "RGB" else image.convert("RGB")


def over_white(image: Image.Image) -> Image.Image:
    """RGB of an image with transparency."""

    def covered(strip: Image.Image) -> Image.Image:
        strip = strip.convert("RGBA")
        ground = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, strip).convert("RGB")

    return in_strips(image, covered)


def in_strips(image: Image.Image, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """RGB of an image, changed in strips: several copies of a large one would be gigabytes."""
    width, height = image.size
    changed = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // max(1, width))
    for top in range(0, height, rows):
        changed.paste(change(image.crop((0, top, width, min(top + rows, height)))), (0, top))
    return changed


def reduce_while_decoding(image: Image.Image, shortest: int) -> None:
    """Let a large JPEG be decoded in a smaller size, whose sides stay well above `shortest`.

    What is not large is decoded as ever, so that no figure depends on it; other formats cannot be reduced.
    """
    width, height = image.size
    if image.format == "JPEG" and width * height > LARGE_PIXELS:
        image.draft(None, (_EXACT * shortest, _EXACT * shortest))


@contextmanager
def one_if_large(size: tuple[int, int]) -> Iterator[None]:
    """Only one large image at a time is decoded in a process: decoders take many bytes a pixel."""
    if size[0] * size[1] <= LARGE_PIXELS:
        yield
        return
    with _LARGE:
        yield


def require_pixels(image: Image.Image, most: int) -> None:
    """Refuse an image of more pixels than `most`, or than the decoder of its format has memory for.

    Raises:
        BrokenImageError: it has more.
    """
    width, height = image.size
    limit = min(most, MAX_JPEG_2000_PIXELS) if image.format == "JPEG2000" else most
    if width * height > limit:
        raise BrokenImageError(
            f"{width} x {height} pixels, more than the {limit} that are accepted; scale it down"
        )


def require_format(image: Image.Image) -> None:
    """Refuse an image that somebody else opened if decoding it might run a program.

    Raises:
        BrokenImageError: it is of a format that is not read here.
    """
    if image.format is not None and image.format not in FORMATS:
        raise BrokenImageError(f"{image.format} is not a format that is read ({', '.join(FORMATS)})")
