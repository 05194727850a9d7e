"""Walking through shards: tar archives (webdataset), parquet tables, and the keyframes of videos.

Each walk is a pure function of the file: image k of a shard is always the same one, from wherever the walk
starts. Damage to a shard appears as one broken image in its order.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from sightloop.data.decode import BrokenImageError
from sightloop.data.encoded import IMAGE_SUFFIXES, EncodedImage, damaged, read_file, read_range
from sightloop.image_files import DAMAGE, MAX_BYTES, path_inside

_BLOCK = 512
_HEADERS_BYTES = 1 << 20
"""Of one member of an archive; long names take some thousands."""
_ROWS_AT_ONCE = 32
_BATCH_BYTES = 1 << 26
_READ_AHEAD_BYTES = 1 << 20
_HELD_BYTES = 1 << 20
"""A larger row is read again when it is wanted: many of them wait among those to be shuffled."""
_MAX_INFLATION = 20
"""Images are compressed already: a column that grows so much as it is unpacked holds none."""
_VIDEOS = {
    "format_whitelist": "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo",
    "protocol_whitelist": "file",
}
"""What is read as a video, by content: lists of other files and addresses are formats of the library, too."""


class _Headers(io.FileIO):
    """An archive of which only headers are read. `tarfile` would read as much as one of them asks for."""

    left = _HEADERS_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """Bytes of headers.

        Raises:
            tarfile.ReadError: one member has more of them than any image's name needs.
        """
        self.left -= self.left + 1 if size is None or size < 0 else size
        if self.left < 0:
            raise tarfile.ReadError(f"a header has more than {_HEADERS_BYTES} bytes")
        return super().read(size)


def tar_images(path: str, start: int) -> Iterator[EncodedImage]:
    """The images of an uncompressed tar from number `start` on; only headers are read.

    A sample is what shares a name up to the first dot, as webdataset has it: beside `1.jpg`, `1.seg.png` and
    `1.depth.png` are not photographs.
    """
    number, trouble = 0, list[str]()
    for number, member in enumerate(_photographs(_image_members(path, trouble)), 1):
        if number > start:
            read = partial(read_range, path, offset=member.offset_data, size=member.size)
            yield EncodedImage(source=f"{path}!{member.name}", read=read)
    if trouble and number >= start:
        yield damaged(path, f"the shard cannot be read beyond {number} images: {trouble[0]}")


def _image_members(path: str, trouble: list[str]) -> Iterator[tarfile.TarInfo]:
    """Members that are named as images; what is wrong with the archive goes into `trouble`."""
    end = 0
    try:
        with _Headers(path) as headers, tarfile.open(fileobj=headers, mode="r:") as tar:
            while (member := tar.next()) is not None:
                headers.left = _HEADERS_BYTES
                end = member.offset_data + (-(-member.size // _BLOCK) * _BLOCK if member.isreg() else 0)
                name = PurePosixPath(member.name)
                is_hidden, is_image = name.name.startswith("."), name.suffix.lower() in IMAGE_SUFFIXES
                if member.isreg() and is_image and not is_hidden:
                    yield member
        after = _trouble_after(path, end)
    except (tarfile.TarError, *DAMAGE) as error:
        after = f"{error}" or type(error).__name__
    trouble += [after] if after else []


def _photographs(members: Iterator[tarfile.TarInfo]) -> Iterator[tarfile.TarInfo]:
    """Of each sample the images whose whole suffix is an image's, or all where none has one."""

    def parts(member: tarfile.TarInfo) -> tuple[str, str]:
        folder, name = os.path.split(member.name)
        stem, _, suffix = name.partition(".")
        return f"{folder}/{stem}", suffix

    for _, sample in groupby(members, lambda member: parts(member)[0]):
        images = list(sample)
        yield from [each for each in images if "." not in parts(each)[1]] or images


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
    candidates = [field.name for field in schema if holds_images(field.type)]
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    if wanted is not None and wanted not in candidates:
        raise ValueError(f"column {wanted!r} of {path} holds no images; its columns are {columns}")
    if wanted is None and not candidates:
        raise ValueError(
            f"{path} has no column of images (bytes, a struct of bytes and path, or a list of one); "
            f"its columns are {columns}"
        )
    if wanted is None and len(candidates) > 1 and "image" not in candidates:
        raise ValueError(
            f"{path} has several columns of images; choose one with --data.column or --held-out.column: "
            f"{', '.join(candidates)}"
        )
    return wanted or ("image" if "image" in candidates else candidates[0])


def holds_images(kind: Any) -> bool:
    """Whether a column of this type holds images: bytes, a struct of bytes and path, or lists of these."""
    import pyarrow.types as kinds

    if kinds.is_list(kind) or kinds.is_large_list(kind):
        return holds_images(kind.value_type)
    if kinds.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and holds_images(kind.field("bytes").type)
    return kinds.is_binary(kind) or kinds.is_large_binary(kind)


def parquet_images(path: str, start: int, *, column: str) -> Iterator[EncodedImage]:
    """The images of a parquet file from row `start` on; their encoded bytes are read as the walk goes."""
    import pyarrow as pa

    row = start
    try:
        for row, (value,) in parquet_values(path, start, (column,)):
            images = row_images(path, column, row, value, Path(path).parent)
            several = f"the row holds {len(images)} images; rows of one image are read"
            yield images[0] if len(images) == 1 else damaged(f"{path}!{row}", several)
            row += 1
    except (pa.ArrowException, OSError, KeyError, BrokenImageError) as error:
        yield damaged(path, f"the shard cannot be read beyond row {row}: {error}")


def parquet_values(path: str, start: int, columns: Sequence[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Numbers of rows, and what each has in these columns, images in the first of them; an image that stands
    in many of them is in memory once.
    """
    import pyarrow.parquet as pq

    row, column = 0, columns[0]
    metadata = pq.read_metadata(path)
    names = {metadata.schema.column(number).path for number in range(metadata.num_columns)}
    leaves = sorted(name for name in names if name == column or _is_of_bytes(name, column))
    with pq.ParquetFile(
        path, metadata=metadata, read_dictionary=leaves, pre_buffer=False, buffer_size=_READ_AHEAD_BYTES
    ) as file:
        for group in range(file.num_row_groups):
            num_rows = metadata.row_group(group).num_rows
            if row + num_rows <= start:
                row += num_rows
                continue
            at_once = _rows_at_once(metadata.row_group(group), column)
            # One group at a time: batches then start at the same rows wherever the walk starts.
            for batch in file.iter_batches(at_once, row_groups=[group], columns=list(columns)):
                skipped = min(max(start - row, 0), batch.num_rows)
                row += skipped
                for values in zip(*(batch.column(name).slice(skipped) for name in columns), strict=True):
                    yield row, values
                    row += 1


def _is_of_bytes(name: str, column: str) -> bool:
    return name.startswith(f"{column}.") and name.endswith((".bytes", ".element"))


def _rows_at_once(group: Any, column: str) -> int:
    parts = [group.column(number) for number in range(group.num_columns)]
    parts = [part for part in parts if part.path_in_schema.split(".")[0] == column.split(".")[0]]
    size = sum(part.total_uncompressed_size for part in parts)
    packed = sum(part.total_compressed_size for part in parts)
    if size > max(_BATCH_BYTES, _MAX_INFLATION * packed):
        raise BrokenImageError(f"{packed} bytes would be unpacked to {size}; images are not so")
    return max(1, min(_ROWS_AT_ONCE, _BATCH_BYTES * group.num_rows // max(1, size)))


def row_images(path: str, column: str, row: int, value: Any, root: Path) -> list[EncodedImage]:
    """The images of a row: one, or those of its list; names of files start from `root`."""
    import pyarrow as pa

    is_list = isinstance(value, pa.ListScalar) and value.is_valid
    values = list(value.values) if is_list else [value]
    names = {"path": path, "column": column, "row": row}
    return [_row_image(each, place=place, root=root, **names) for place, each in enumerate(values)]


def _row_image(value: Any, *, path: str, column: str, row: int, place: int, root: Path) -> EncodedImage:
    source = f"{path}!{row}"
    encoded = _encoded(value)
    if encoded is not None and encoded.size > MAX_BYTES:
        return damaged(source, f"it has {encoded.size} bytes, more than the {MAX_BYTES} that are read")
    if encoded is not None and encoded.size > _HELD_BYTES:
        return EncodedImage(source=source, read=partial(_read_row, path, column, row, place))
    if encoded is not None:
        data = encoded.to_pybytes()
        return EncodedImage(source=source, read=lambda: data)
    elsewhere = value.as_py().get("path") if _is_struct(value) and value.is_valid else None
    if not isinstance(elsewhere, str):
        return damaged(source, "the row holds no image")
    try:
        return EncodedImage(source=source, read=partial(read_file, str(path_inside(root, elsewhere))))
    except BrokenImageError as error:
        return damaged(source, str(error))


def _is_struct(value: Any) -> bool:
    import pyarrow as pa

    return isinstance(value, pa.StructScalar)


def _encoded(value: Any) -> Any:
    """The bytes of a row where they are, or None."""
    import pyarrow as pa

    if isinstance(value, pa.StructScalar):
        value = value["bytes"] if value.is_valid else value
    if isinstance(value, pa.DictionaryScalar):
        value = value.value
    return value.as_buffer() if value.is_valid and isinstance(value, pa.BinaryScalar) else None


def _read_row(path: str, column: str, row: int, place: int) -> bytes:
    import pyarrow as pa

    try:
        _, (value,) = next(parquet_values(path, row, (column,)))
        return _encoded(value.values[place] if isinstance(value, pa.ListScalar) else value).to_pybytes()
    except (pa.ArrowException, StopIteration, LookupError, AttributeError) as error:
        raise BrokenImageError(f"it cannot be read again: {type(error).__name__}: {error}") from error


def video_images(path: str, start: int) -> Iterator[EncodedImage]:
    """The keyframes of a video from number `start` on; frames are decoded when wanted."""
    import av
    from av.error import FFmpegError

    number = 0
    try:
        with av.open(path, options=_VIDEOS) as container:
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


def video_frame(path: str, share: float) -> Image.Image:
    """The frame of a video at a share of its length, 0 the first and 1 the last.

    Raises:
        BrokenImageError: it cannot be read.
    """
    import av
    from av.error import FFmpegError

    found = None
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise BrokenImageError("it has no video stream")
            stream = container.streams.video[0]
            length = stream.duration or 0
            wanted = (stream.start_time or 0) + round(length * share)
            container.seek(wanted, stream=stream)
            for found in container.decode(stream):
                if found.pts is None or found.pts >= wanted:
                    break
    except (FFmpegError, OSError) as error:
        raise BrokenImageError(f"{type(error).__name__}: {error}") from error
    if found is None:
        raise BrokenImageError("no frame of it can be decoded")
    return found.to_image().rotate(found.rotation, expand=True)


def _keyframe(path: str, pts: int) -> Image.Image:
    import av
    from av.error import FFmpegError

    try:
        # Not every container can be searched; those that cannot are decoded from their start.
        for search in (True, False):
            with av.open(path, options=_VIDEOS) as container:
                stream = container.streams.video[0]
                if stream.codec_context is None:
                    raise BrokenImageError("it is of a codec that FFmpeg does not know")
                stream.codec_context.skip_frame = "NONKEY"
                if search:
                    container.seek(pts, stream=stream)
                for frame in container.decode(stream):
                    if frame.pts == pts:
                        return frame.to_image().rotate(frame.rotation, expand=True)
    except FFmpegError as error:
        raise BrokenImageError(f"{type(error).__name__}: {error}") from error
    raise BrokenImageError("the keyframe that the container lists cannot be decoded")
