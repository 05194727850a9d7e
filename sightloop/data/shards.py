"""Walking through shards: tar archives (webdataset), parquet tables, and the keyframes of videos.

Each walk is a pure function of the file: image k of a shard is always the same one, from wherever the walk
starts. Damage to a shard appears as one broken image in its order.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from sightloop.data.decode import BrokenImageError
from sightloop.data.pictures import EncodedImage, damaged, read_file, read_range

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".jp2", ".avif",
)  # fmt: skip
_BLOCK = 512
_ROWS_AT_ONCE = 32
_READ_AHEAD_BYTES = 1 << 20


def tar_images(path: str, start: int) -> Iterator[EncodedImage]:
    """The images of an uncompressed tar from number `start` on; only headers are read."""
    number, end = 0, 0
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                end = member.offset_data + (-(-member.size // _BLOCK) * _BLOCK if member.isreg() else 0)
                name = PurePosixPath(member.name)
                if (
                    not member.isreg()
                    or name.name.startswith(".")
                    or name.suffix.lower() not in IMAGE_SUFFIXES
                ):
                    continue
                if number >= start:
                    read = partial(read_range, path, offset=member.offset_data, size=member.size)
                    yield EncodedImage(source=f"{path}!{member.name}", read=read)
                number += 1
        trouble = _trouble_after(path, end)
    except (tarfile.TarError, OSError) as error:
        trouble = str(error)
    if trouble and number >= start:
        yield damaged(path, f"the shard cannot be read beyond {number} images: {trouble}")


def _trouble_after(path: str, end: int) -> str:
    """What follows the last member of a tar besides the zeros that may: `tarfile` ends in silence there."""
    with open(path, "rb") as file:
        file.seek(end)
        block = file.read(_BLOCK)
    return "" if block in (b"", bytes(_BLOCK)) else f"no valid header at byte {end}"


def image_column(path: str, wanted: str | None) -> str:
    """The column of a parquet file that holds images: `wanted`, or the only one that can.

    Raises:
        ValueError: there is none, there are several and none is called "image", or `wanted` is none of them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as parquet: {error}") from error
    candidates = [field.name for field in schema if _holds_images(field.type)]
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    if wanted is not None and wanted not in candidates:
        raise ValueError(f"column {wanted!r} of {path} holds no images; its columns are {columns}")
    if wanted is None and not candidates:
        raise ValueError(
            f"{path} has no column of images (bytes, or a struct of bytes and path); its columns are "
            f"{columns}"
        )
    if wanted is None and len(candidates) > 1 and "image" not in candidates:
        raise ValueError(
            f"{path} has several columns of images; choose one with --data.column or --held-out.column: "
            f"{', '.join(candidates)}"
        )
    return wanted or ("image" if "image" in candidates else candidates[0])


def _holds_images(kind: Any) -> bool:
    import pyarrow.types as kinds

    if kinds.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_images(kind.field("bytes").type)
    return kinds.is_binary(kind) or kinds.is_large_binary(kind)


def parquet_images(path: str, start: int, *, column: str) -> Iterator[EncodedImage]:
    """The images of a parquet file from row `start` on; their encoded bytes are read as the walk goes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_AHEAD_BYTES) as file:
            for group in range(file.num_row_groups):
                num_rows = file.metadata.row_group(group).num_rows
                if row + num_rows <= start:
                    row += num_rows
                    continue
                # One group at a time: batches then start at the same rows wherever the walk starts.
                for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[column]):
                    skipped = min(max(start - row, 0), batch.num_rows)
                    row += skipped
                    for value in batch.column(column).slice(skipped).to_pylist():
                        yield _row_image(path, row, value)
                        row += 1
    except (pa.ArrowException, OSError, KeyError) as error:
        if row >= start:
            yield damaged(path, f"the shard cannot be read beyond row {row}: {error}")


def _row_image(path: str, row: int, value: dict[str, Any] | bytes | None) -> EncodedImage:
    source = f"{path}!{row}"
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is not None:
        return EncodedImage(source=source, read=lambda: data)
    elsewhere = value.get("path") if isinstance(value, dict) else None
    if elsewhere is None:
        return damaged(source, "the row holds no image")
    return EncodedImage(source=source, read=partial(read_file, str(Path(path).parent / elsewhere)))


def video_images(path: str, start: int) -> Iterator[EncodedImage]:
    """The keyframes of a video from number `start` on; frames are decoded when wanted."""
    import av
    from av.error import FFmpegError

    number = 0
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise BrokenImageError("it has no video stream")
            stream = container.streams.video[0]
            for packet in container.demux(stream):
                if not packet.is_keyframe or packet.pts is None:
                    continue
                if number >= start:
                    seconds = float(packet.pts * packet.time_base)
                    yield EncodedImage(
                        source=f"{path}!{seconds:.3f}s", read=partial(_keyframe, path, packet.pts)
                    )
                number += 1
    except (FFmpegError, BrokenImageError, OSError) as error:
        if number >= start:
            yield damaged(path, f"the video cannot be read beyond {number} keyframes: {error}")


def _keyframe(path: str, pts: int) -> Image.Image:
    import av
    from av.error import FFmpegError

    try:
        # Not every container can be searched; those that cannot are decoded from their start.
        for search in (True, False):
            with av.open(path) as container:
                stream = container.streams.video[0]
                stream.codec_context.skip_frame = "NONKEY"
                if search:
                    container.seek(pts, stream=stream)
                for frame in container.decode(stream):
                    if frame.pts == pts:
                        return frame.to_image().rotate(frame.rotation, expand=True)
    except FFmpegError as error:
        raise BrokenImageError(f"{type(error).__name__}: {error}") from error
    raise BrokenImageError("the keyframe that the container lists cannot be decoded")
