"""Data as rows: images, a prompt, a reference, and any other columns, which rewards ask for by name.

Files of JSON lines, parquet, folders and hub names of `datasets`, and data sets of a program. A row with its
first image is an `EncodedImage`, so that order, batches and resuming are those of images.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from PIL import Image

from sightloop.data.encoded import IMAGE_SUFFIXES, EncodedImage, Reading, Row, damaged, read_file
from sightloop.data.given import Places, image_in, undecoded
from sightloop.data.settings import IN_PYTHON, RowSettings
from sightloop.data.shards import holds_images, parquet_values, row_images, video_frame
from sightloop.data.sources import FileSource, ShardSource, Source, files_of, require_library
from sightloop.image_files import BrokenImageError, path_inside
from sightloop.messages import MessagePrompt, with_images
from sightloop.text_files import read_json_lines

_WANTED = (
    "a file of JSON lines (rows.jsonl), parquet files, a folder that `datasets` wrote, or a hub name with a "
    "data set"
)
_IMAGE_COLUMNS = ("image", "images", "video", "videos", "file_name")
"""Which column holds the images, if none is named."""
_LINES = (".jsonl", ".ndjson", ".json")
_VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts")
_GIVEN: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class HeldRows(FileSource):
    """Rows any of which can be reached at once."""

    rows: Any = field(repr=False)
    settings: RowSettings
    root: Path | None
    """Where names of images start from; None = where the program is."""

    def picture(self, number: int) -> EncodedImage:
        """The row at a place of the order."""
        source = self.paths[number]
        return _row(self.rows[number], source=source, settings=self.settings, root=self.root)


def give_rows(rows: Any, *, name: str = "rows") -> str:
    """Let `open_rows` find rows that a program holds; the name that settings call them by."""
    if isinstance(rows, str | Path):
        return str(rows)
    if isinstance(rows, Mapping):
        raise ValueError(f"{name} has the parts {', '.join(map(str, rows))}; give one of them")
    _GIVEN[f"{IN_PYTHON}{name}"] = undecoded(rows)
    return f"{IN_PYTHON}{name}"


def open_rows(settings: RowSettings) -> Source:
    """The rows that the settings name; the first of them is looked at.

    Raises:
        ValueError: nothing is there, it is of no known kind, or its rows have no prompt or no image.
    """
    source = _opened(settings)
    if next(source.pictures(), None) is None:
        raise ValueError(f"{settings.rows!r} holds no row; give {_WANTED}")
    return source


def _opened(settings: RowSettings) -> Source:
    spec = settings.rows
    path = Path(spec).expanduser()
    if spec.startswith(IN_PYTHON):
        if spec not in _GIVEN:
            raise ValueError(
                f"the rows {spec!r} were given in Python and are not on disk; go on there: "
                f"sightloop.train(resume=RUN, {spec.removeprefix(IN_PYTHON)}=...)"
            )
        return _held(_GIVEN[spec], settings, root=None)
    if path.suffix.lower() in _LINES or (path / "metadata.jsonl").is_file():
        return _lines(path / "metadata.jsonl" if path.is_dir() else path, settings)
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        return _held(_of_datasets(spec, settings.split, is_folder=True), settings, root=None)
    if path.exists() or any(mark in spec for mark in "*?{["):
        return _parquet(spec, settings)
    if spec.count("/") == 1 and not spec.startswith((".", "/", "~")):
        return _held(_of_datasets(spec, settings.split, is_folder=False), settings, root=None)
    raise ValueError(f"{spec!r} does not exist; give {_WANTED}")


def _held(rows: Any, settings: RowSettings, *, root: Path | None) -> Source:
    if not isinstance(rows, Places):
        walk = partial(_walk_given, rows=rows, settings=settings)
        return ShardSource(spec=settings.rows, shards=(settings.rows,), walk=walk)
    paths = tuple(f"{settings.rows}!{number}" for number in range(len(rows)))
    return HeldRows(spec=settings.rows, paths=paths, rows=rows, settings=settings, root=root)


def _walk_given(shard: str, start: int, *, rows: Any, settings: RowSettings) -> Iterator[EncodedImage]:
    for number, values in enumerate(rows):
        if number >= start:
            yield _row(values, source=f"{shard}!{number}", settings=settings, root=None)


def _lines(path: Path, settings: RowSettings) -> Source:
    found = read_json_lines(path, fix=f"give {_WANTED}")
    root = Path(settings.image_root).expanduser() if settings.image_root else path.parent
    source = HeldRows(
        spec=settings.rows,
        paths=tuple(place.replace(" line ", "!") for place, _ in found),
        rows=[values for _, values in found],
        settings=settings,
        root=root,
    )
    # All are in memory: what is missing anywhere is said before anything is loaded.
    for _ in source.pictures():
        pass
    return source


def _of_datasets(spec: str, split: str, *, is_folder: bool) -> Any:
    require_library("datasets", extra="data", kind="data sets")
    import datasets

    try:
        found = datasets.load_from_disk(spec) if is_folder else datasets.load_dataset(spec)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{spec!r} cannot be opened by datasets: {error}; give {_WANTED}") from error
    if isinstance(found, Mapping):
        if split not in found:
            raise ValueError(
                f"{spec!r} has no split {split!r}; it has {', '.join(map(str, found))}: name one with "
                "--data.split or --held-out.split"
            )
        found = found[split]
    return undecoded(found)


def _parquet(spec: str, settings: RowSettings) -> Source:
    paths = files_of(spec, kind="parquet files", wanted=_WANTED)
    require_library("pyarrow", extra="data", kind="parquet files")
    walk = partial(_walk_parquet, settings=settings)
    return ShardSource(spec=spec, shards=paths, walk=walk)


def _walk_parquet(path: str, start: int, *, settings: RowSettings) -> Iterator[EncodedImage]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = start
    root = Path(settings.image_root).expanduser() if settings.image_root else Path(path).parent
    try:
        schema = pq.read_schema(path)
        column = _column_of(schema.names, settings, source=path)
        held = column in schema.names and holds_images(schema.field(column).type)
        others = [each.name for each in schema if each.name != column and not holds_images(each.type)]
        names = [column, *others] if column in schema.names else others
        for row, scalars in parquet_values(path, start, names):
            values = dict(zip(names, scalars, strict=True))
            images = row_images(path, column, row, values.pop(column), root) if held else None
            plain = {name: value.as_py() for name, value in values.items()}
            yield _row(
                plain | ({column: [image.read for image in images]} if images is not None else {}),
                source=f"{path}!{row}",
                settings=replace(settings, column=column),
                root=root,
            )
            row += 1
    except (pa.ArrowException, OSError, KeyError, BrokenImageError) as error:
        yield damaged(path, f"the shard cannot be read beyond row {row}: {error}")


# -- one row


def _row(values: Mapping[str, Any], *, source: str, settings: RowSettings, root: Path | None) -> EncodedImage:
    """The row that these values are.

    Raises:
        ValueError: it has no prompt, or no image where one is wanted.
    """
    columns = ", ".join(map(str, values))
    column = _column_of([*values], settings, source=source)
    prompt = values.get(settings.prompt_column)
    if not prompt:
        raise ValueError(
            f"{source} has no prompt in a column {settings.prompt_column!r} (it has {columns}); name the "
            "column with --data.prompt-column"
        )
    reads = _reads(values.get(column), root)
    if column.startswith("video"):
        reads = _spread(reads, settings.frames)
    if not reads and not settings.allow_text:
        raise ValueError(
            f"{source} has no image in a column {column!r} (it has {columns}); name the column with "
            "--data.column, or let rows without an image be asked as texts with --data.allow-text"
        )
    left_out = {column, settings.prompt_column}
    reference = values.get(settings.reference_column)
    return EncodedImage(
        source=source,
        read=reads[0] if reads else _blank,
        reference=_told(reference),
        row=Row(
            prompt=_prompt(prompt, len(reads), source),
            columns={name: value for name, value in values.items() if name not in left_out},
            more=tuple(reads[1:]),
            is_list=isinstance(values.get(column), list | tuple) or len(reads) > 1,
            has_image=bool(reads),
        ),
    )


def _told(reference: Any) -> str:
    """The true answer as a text; of several, any of which is right, one a line."""
    several = reference if isinstance(reference, list | tuple) else [reference]
    return "\n".join("" if each is None else str(each) for each in several)


def _column_of(names: Sequence[str], settings: RowSettings, *, source: str) -> str:
    known = [name for name in _IMAGE_COLUMNS if name in names]
    if settings.column and settings.column not in names and not settings.allow_text:
        raise ValueError(f"{source} has no column {settings.column!r}; it has {', '.join(map(str, names))}")
    if not settings.column and len(known) > 1:
        raise ValueError(f"{source} has the columns {', '.join(known)}; choose one with --data.column")
    return settings.column or (known[0] if known else "image")


def _prompt(value: Any, images: int, source: str) -> str:
    if isinstance(value, str):
        return value
    messages = list(value) if isinstance(value, Sequence) else []
    if not messages or not all(
        isinstance(each, Mapping) and {"role", "content"} <= each.keys() for each in messages
    ):
        raise ValueError(
            f"the prompt of {source} is {value!r}; give a text, or messages with `role` and `content` each"
        )
    # What is not said in a message is None in tables.
    plain = [
        {name: _said(part) for name, part in message.items() if part is not None} for message in messages
    ]
    try:
        with_images(plain, images)
    except ValueError as error:
        raise ValueError(f"the prompt of {source}: {error}") from error
    return MessagePrompt.of(plain)


def _said(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [{name: value for name, value in part.items() if value is not None} for part in content]


def _reads(value: Any, root: Path | None) -> list[Reading]:
    """How the images of a row are fetched."""
    if value is None or value == "":
        return []
    if isinstance(value, list | tuple):
        return [read for each in value for read in _reads(each, root)]
    if callable(value):
        return [cast("Reading", value)]
    if isinstance(value, Mapping) and not value.get("bytes") and value.get("path"):
        value = value["path"]
    if not isinstance(value, str | Path):
        return [partial(image_in, value, "")]
    if str(value).startswith("data:"):
        return [partial(_inline, str(value))]
    try:
        path = str(value) if root is None else str(_below(root, str(value)))
    except BrokenImageError as error:
        return [damaged(str(value), str(error)).read]
    if os.path.isdir(path):
        frames = sorted(name for name in os.listdir(path) if name.lower().endswith(IMAGE_SUFFIXES))
        return [partial(read_file, os.path.join(path, name)) for name in frames]
    if path.lower().endswith(_VIDEOS):
        require_library("av", extra="video", kind="videos")
        return [partial(video_frame, path, share) for share in _SHARES]
    return [partial(read_file, path)]


_SHARES = tuple(number / 63 for number in range(64))
"""Places in a video of which frames are taken."""


def _spread(reads: list[Any], number: int) -> list[Any]:
    """At most so many of them, evenly from the first to the last.

    >>> _spread([*"abcdefg"], 3)
    ['a', 'd', 'g']
    """
    if len(reads) <= number:
        return reads
    return [reads[round(place * (len(reads) - 1) / max(1, number - 1))] for place in range(number)]


def _below(root: Path, name: str) -> Path:
    """A file below the folder that names start from."""
    if name.startswith(("http://", "https://")):
        raise BrokenImageError(f"{name!r} is not on a local disk; download it first")
    try:
        return path_inside(root, name)
    except BrokenImageError as error:
        raise BrokenImageError(f"{error}, or that folder with --data.image-root") from error


def _inline(text: str) -> bytes:
    """The bytes of a data URL."""
    kind, _, data = text.partition(",")
    try:
        if not kind.endswith(";base64"):
            raise BrokenImageError(f"{kind[:60]!r} is no data URL in base64")
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise BrokenImageError(f"its data URL is damaged: {error}") from error


def _blank() -> Image.Image:
    """Stands in batches for the image of a text alone; no model reads it."""
    return Image.new("RGB", (1, 1))
