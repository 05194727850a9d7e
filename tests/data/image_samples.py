"""Files of images that the tests of this folder read: images whose content tells their number."""

from __future__ import annotations

import io
import tarfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from sightloop.data.images import ImageBatch


def photo_like(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colors with sharp edges and grain, as a photograph has."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    layers = [128 + 90 * np.sin(x / 17 + k) * np.cos(y / 23 - k) for k in range(3)]
    picture = np.stack(layers, -1) + rng.normal(0, 12, (height, width, 3))
    picture[height // 4 : height // 2, width // 3 : width // 2] = (230, 30, 60)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """The image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


def numbered(number: int) -> bytes:
    """A PNG of one color, `number` in its red and green."""
    return encoded(Image.new("RGB", (4, 4), (number % 256, number // 256, 77)))


def numbers(batch: ImageBatch) -> list[int]:
    """The numbers of the images of a batch, read off their pixels."""
    red, green = batch.images.pixels[:, 0, 0, 0].int(), batch.images.pixels[:, 1, 0, 0].int()
    return (red + 256 * green).tolist()


def write_folder(folder: Path, count: int, broken: tuple[int, ...] = ()) -> str:
    """Files 00000.png and on; those in `broken` are cut off."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        data = numbered(number)
        (folder / f"{number:05d}.png").write_bytes(data[:40] if number in broken else data)
    return str(folder)


def write_tar(path: Path, members: dict[str, bytes]) -> str:
    """An archive of the given files."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return str(path)


def write_tars(folder: Path, sizes: list[int], broken: tuple[int, ...] = ()) -> str:
    """Shards 000.tar and on with a caption beside each image; the pattern that names them all."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for shard, size in enumerate(sizes):
        members: dict[str, bytes] = {}
        for _ in range(size):
            data = numbered(number)
            members[f"{number:05d}.png"] = data[:40] if number in broken else data
            members[f"{number:05d}.txt"] = b"a caption"
            number += 1
        write_tar(folder / f"{shard:03d}.tar", members)
    return str(folder / f"{{000..{len(sizes) - 1:03d}}}.tar")


def write_parquet(path: Path, values: list[dict[str, object] | None], rows_a_group: int = 3) -> str:
    """A table with the images as `datasets` stores them, and a label."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"label": list(range(len(values))), "image": pa.array(values, kind)})
    pq.write_table(table, path, row_group_size=rows_a_group)
    return str(path)


def write_video(path: Path, frames: list[NDArray[np.uint8]], keyframe_every: int) -> str:
    """A video of ten frames a second."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        stream.codec_context.gop_size = keyframe_every
        # The encoder would add keyframes of its own where the image changes much.
        stream.options = {"sc_threshold": "1000000000"}
        for place, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = place, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)
