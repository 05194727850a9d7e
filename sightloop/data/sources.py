"""Where images come from: a folder, a glob, shards, a COCO split or videos, opened by one call.

`FileSource`: every image is a file of its own, so any of them can be reached at once.
`ShardSource`: images sit in shards that are walked from the start; nothing is decoded before it is drawn.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from sightloop.data.encoded import IMAGE_SUFFIXES, EncodedImage, read_file
from sightloop.data.settings import IN_PYTHON
from sightloop.late import late

_read_karpathy = late("sightloop.data.karpathy:read_karpathy")
_tar_images, _video_images, _parquet_images, _image_column = (
    late(f"sightloop.data.shards:{name}")
    for name in ("tar_images", "video_images", "parquet_images", "image_column")
)
SUPPORTED = (
    "a folder or a glob ('photos/**/*.jpg') of images, tar shards ('shards/{000..012}.tar'), parquet files "
    "with an image column, videos, or a Karpathy JSON ('dataset_coco.json') with a split and an image root; "
    "all on local disks"
)
_KINDS = {
    **dict.fromkeys(IMAGE_SUFFIXES, "images"),
    ".tar": "tar shards",
    ".parquet": "parquet files",
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts"), "videos"),
    **dict.fromkeys((".tgz", ".gz", ".bz2", ".xz", ".zst"), "compressed files"),
}
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SPLIT_FILE = re.compile(r"(.+)-\d+-of-\d+\.parquet")


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """Images that are files of their own, in a fixed order."""

    spec: str
    paths: tuple[str, ...]
    all_references: tuple[tuple[str, ...], ...] | None = None
    """What people wrote about each image; None = nothing."""

    def __len__(self) -> int:
        return len(self.paths)

    def picture(self, number: int) -> EncodedImage:
        """The image at a place of the order."""
        path = self.paths[number]
        written = self.all_references[number] if self.all_references else ()
        return EncodedImage(
            source=path, read=partial(read_file, path), reference=written[0] if written else ""
        )

    def pictures(self) -> Iterator[EncodedImage]:
        """Every image once, in order."""
        return map(self.picture, range(len(self)))

    def fingerprint(self) -> str:
        """The same for the same file names in the same order, wherever their folder lies."""
        return _digest(self.paths)


@dataclass(frozen=True, kw_only=True)
class ShardSource:
    """Images in shards. `walk(shard, start)` yields the images of one from number `start` on."""

    spec: str
    shards: tuple[str, ...]
    walk: Callable[[str, int], Iterator[EncodedImage]]

    def pictures(self) -> Iterator[EncodedImage]:
        """Every image once, in order."""
        return itertools.chain.from_iterable(self.walk(shard, 0) for shard in self.shards)

    def fingerprint(self) -> str:
        """The same for the same shard names in the same order, wherever their folder lies."""
        return _digest(self.shards)


Source = FileSource | ShardSource
_GIVEN: dict[str, Source] = {}


def give_source(source: Source) -> None:
    """Let `open_source` find images that a program holds, by their `spec`, in this process."""
    _GIVEN[source.spec] = source


class NamedImages(Protocol):
    """Settings that name images: those of training, or those of an evaluation."""

    @property
    def images(self) -> str: ...

    @property
    def image_root(self) -> str: ...

    @property
    def split(self) -> str: ...

    @property
    def column(self) -> str: ...


def open_named_images(settings: NamedImages, *, files_only: bool = False) -> Source:
    """The images that the settings name; split and root belong to a Karpathy JSON."""
    column = settings.column or None
    if settings.images.endswith(".json"):
        root = settings.image_root or None
        return open_source(settings.images, image_root=root, split=settings.split, column=column)
    return open_source(settings.images, column=column, files_only=files_only)


def open_source(
    spec: str,
    *,
    image_root: str | None = None,
    split: str = "train",
    column: str | None = None,
    files_only: bool = False,
) -> Source:
    """The images that `spec` names: a folder, a glob, tar shards, parquet, videos or a Karpathy JSON.

    Folders are searched with their subfolders; hidden files and files of other kinds are passed over.
    `image_root` and `split` belong to a Karpathy JSON: "train" includes its "restval", as is usual, and "+"
    joins several. Other sources have no splits. `column` belongs to parquet. `files_only` refuses shards.

    Raises:
        ValueError: nothing is there, it mixes several kinds, or a setting does not belong to its kind.
    """
    if spec.startswith(IN_PYTHON):
        return _given(spec)
    if spec.endswith(".json"):
        _refuse(spec, "column", column, "parquet files")
        paths, references = _read_karpathy(spec, split=split, image_root=image_root)
        return FileSource(spec=spec, paths=paths, all_references=references)
    _refuse(spec, "image_root", image_root, "a Karpathy JSON")
    paths = _find(spec)
    kind = _one_kind(spec, paths)
    if kind != "parquet files":
        _refuse(spec, "column", column, "parquet files")
    if kind == "images":
        return FileSource(spec=spec, paths=paths)
    if files_only:
        raise ValueError(
            f"{spec!r} holds {kind}; name an image, a folder or a glob of images (`sightloop train` reads "
            "shards too)"
        )
    for path in paths:
        # Libraries that read shards would wait for a pipe without end.
        if not os.path.isfile(path):
            raise ValueError(f"{path} is no regular file; leave it out of {spec!r}")
    source = ShardSource(spec=spec, shards=paths, walk=_walk_of(kind, paths, column))
    if next(source.pictures(), None) is None:
        raise ValueError(f"{spec!r} holds no image: {len(paths)} {kind}, all without one. Give {SUPPORTED}")
    return source


def files_of(spec: str, *, kind: str, wanted: str) -> tuple[str, ...]:
    """The files of one kind that a folder or glob names.

    Raises:
        ValueError: there are none, or files of other kinds.
    """
    paths = _find(spec)
    if (found := _one_kind(spec, paths)) != kind:
        raise ValueError(f"{spec!r} holds {found}, not {kind}; give {wanted}")
    return paths


def _given(spec: str) -> Source:
    if spec not in _GIVEN:
        name = spec.removeprefix(IN_PYTHON)
        raise ValueError(
            f"the images {spec!r} were given in Python and are not on disk; go on there: "
            f"sightloop.train(resume=RUN, {name}=...)"
        )
    return _GIVEN[spec]


def _walk_of(
    kind: str, paths: tuple[str, ...], column: str | None
) -> Callable[[str, int], Iterator[EncodedImage]]:
    if kind == "tar shards":
        return _tar_images
    if kind == "videos":
        require_library("av", extra="video", kind=kind)
        return _video_images
    require_library("pyarrow", extra="data", kind=kind)
    return partial(_parquet_images, column=_image_column(paths[0], column))


def require_library(library: str, *, extra: str, kind: str) -> None:
    """Refuse what takes a library that is missing.

    Raises:
        ValueError: it is missing; the extra that installs it is named.
    """
    if find_spec(library) is None:
        raise ValueError(
            f"{kind} are read with {library}, which is missing: pip install 'sightloop[{extra}]'"
        )


def _refuse(spec: str, name: str, value: str | None, owner: str) -> None:
    if value is not None:
        raise ValueError(f"{name} {value!r} has no effect on {spec!r}: it belongs to {owner}; leave it out")


def _find(spec: str) -> tuple[str, ...]:
    """Files of a known kind, sorted within each folder or pattern."""
    if not spec:
        raise ValueError(f"the source of images is empty. Give {SUPPORTED}")
    if "://" in spec:
        raise ValueError(f"{spec!r} is not on a local disk; download it first. Give {SUPPORTED}")
    path = Path(spec).expanduser()
    if path.is_dir():
        found = {str(path): sorted(_files_below(path))}
    elif path.is_file():
        found = {str(path): [str(path)]}
    else:
        found = {piece: sorted(glob.glob(piece, recursive=True)) for piece in expand_braces(str(path))}
    for piece, paths in found.items():
        if not any(_kind(file) for file in paths):
            what = repr(spec) if piece in (spec, str(path)) else f"{piece!r} of {spec!r}"
            if any(file.endswith(".arrow") for file in paths):
                raise ValueError(
                    f"{what} is in the form of `save_to_disk` of datasets; write it with `to_parquet` "
                    "and name that file"
                )
            raise ValueError(f"no images found in {what}. Give {SUPPORTED}")
    return tuple(dict.fromkeys(file for paths in found.values() for file in paths if _kind(file)))


def _files_below(folder: Path) -> Iterator[str]:
    # Datasets are often assembled from links to folders; a link back up must not make this endless.
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            yield from (os.path.join(here, name) for name in files if not name.startswith("."))
        seen.add(real)


def _kind(path: str) -> str | None:
    return _KINDS.get(Path(path).suffix.lower())


def _one_kind(spec: str, paths: tuple[str, ...]) -> str:
    kinds = sorted({kind for path in paths if (kind := _kind(path))})
    if len(kinds) > 1:
        raise ValueError(
            f"{spec!r} holds {' and '.join(kinds)}; give a glob that names one kind ('folder/**/*.jpg')"
        )
    if kinds == ["compressed files"]:
        raise ValueError(
            f"{paths[0]} is compressed, so its images cannot be reached one by one; decompress it"
        )
    splits = sorted({match[1] for path in paths if (match := _SPLIT_FILE.fullmatch(Path(path).name))})
    if Path(spec).expanduser().is_dir() and len(splits) > 1:
        raise ValueError(
            f"{spec!r} holds the splits {', '.join(splits)}; name one by a glob "
            f"('{spec}/**/{splits[-1]}-*.parquet')"
        )
    return kinds[0]


def expand_braces(pattern: str) -> list[str]:
    """The patterns that braces stand for: `{000..012}` numbers with leading zeros, `{a,b}` choices.

    >>> expand_braces("{train,val}-{08..10}.tar")[:4]
    ['train-08.tar', 'train-09.tar', 'train-10.tar', 'val-08.tar']
    """
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    inside = _RANGE.fullmatch(match[1])
    if inside is None:
        choices = match[1].split(",")
    else:
        first, last = int(inside[1]), int(inside[2])
        if first > last:
            raise ValueError(f"{pattern!r} counts from {first} to {last}; write the smaller number first")
        choices = [str(number).zfill(len(inside[1])) for number in range(first, last + 1)]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [head + choice + rest for choice in choices for rest in expand_braces(tail)]


def _digest(paths: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        digest.update(os.fsencode(os.path.basename(path)) + b"\0")
    return digest.hexdigest()
