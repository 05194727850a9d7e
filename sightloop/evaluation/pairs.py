"""Captions and the images they belong to, from files: jsonl, json and csv."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from sightloop.text_files import form_of, parse_json, read_json, read_lines, read_text_file

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class CaptionSet:
    """Distinct image files, captions, and which image each caption belongs to."""

    images: list[Path]
    captions: list[str]
    target: list[int]
    """For each caption the place of its image in `images`."""

    @property
    def sources(self) -> list[str]:
        """The image of each caption as a path."""
        return [str(self.images[place]) for place in self.target]


def caption_set(pairs: Iterable[tuple[str | Path, str]], *, several: bool = False) -> CaptionSet:
    """Pairs of image and caption, checked: every image exists and has one caption.

    `several` allows more captions an image, as for the captions that people wrote.

    Raises:
        ValueError: no pairs, images that are missing, or images that come up twice.
    """
    listed = [(Path(image), caption) for image, caption in pairs]
    if not listed:
        raise ValueError("no captions; give at least one pair of image and caption")
    files = {image: image.resolve() for image, _ in listed}
    missing = [image for image, file in files.items() if not file.is_file()]
    if missing:
        raise ValueError(
            f"{_examples(missing)} missing; paths in a captions file start at its folder or image_root"
        )
    counts = Counter(files[image] for image, _ in listed)
    repeated = [file for file, count in counts.items() if count > 1]
    if repeated and not several:
        raise ValueError(f"{_examples(repeated)} captioned twice; leave one caption an image")
    place = {file: row for row, file in enumerate(counts)}
    first = {files[image]: image for image, _ in reversed(listed)}
    return CaptionSet(
        images=[first[file] for file in counts],
        captions=[caption for _, caption in listed],
        target=[place[files[image]] for image, _ in listed],
    )


def read_captions(
    file: str | Path, *, image_root: str | Path | None = None, several: bool = False
) -> CaptionSet:
    """Captions of a file, checked as `caption_set` does.

    `.jsonl` has an object `{"image": path, "caption": text}` a line; `.json` a list of such objects, a
    mapping from path to caption, or is an evaluation of a run folder; `.csv` has the columns image and
    caption. Relative paths start at `image_root`, by default the folder of the file.

    Raises:
        ValueError: the file is missing or of another form (naming the entry), or as for `caption_set`.
    """
    path = Path(file)
    if path.suffix not in _READERS:
        raise ValueError(f"{path} ends in {path.suffix!r}; use one of {', '.join(_READERS)}")
    root = path.parent if image_root is None else Path(image_root)
    pairs = [(root / image, caption) for image, caption in _READERS[path.suffix](path)]
    with form_of(str(path)):
        return caption_set(pairs, several=several)


def refuse_empty(given: CaptionSet, *, allowed: bool = False) -> None:
    """Refuse captions without a word, which are more often a mistake of the file than what a captioner said.

    Raises:
        ValueError: a caption is empty and that is not `allowed`, or all of them are.
    """
    empty = [source for source, text in zip(given.sources, given.captions, strict=True) if not text.strip()]
    if len(empty) == len(given.captions):
        raise ValueError(f"all {len(empty)} captions are empty; there is nothing to measure")
    if empty and not allowed:
        raise ValueError(
            f"{len(empty)} of {len(given.captions)} captions are empty, the first is that of {empty[0]}; use "
            "--allow-empty if the captioner really said nothing"
        )


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    for line in read_lines(file):
        yield _pair(parse_json(line.text, line.place, None), line.place)


def _document(file: Path) -> Iterator[tuple[str, str]]:
    document = read_json(file, None)
    with form_of(str(file)):
        if isinstance(document, dict) and isinstance(document.get("samples"), list):
            document = [{**sample, "image": sample.get("source")} for sample in document["samples"]]
    if isinstance(document, dict):
        document = [{"image": image, "caption": caption} for image, caption in document.items()]
    if not isinstance(document, list):
        raise ValueError(f"{file}: neither a list of objects nor a mapping from path to caption")
    for number, record in enumerate(document, 1):
        yield _pair(record, f"{file} entry {number}")


def _table(file: Path) -> Iterator[tuple[str, str]]:
    rows = csv.DictReader(StringIO(read_text_file(file), newline=""))
    try:
        for number, record in enumerate(rows, 2):
            yield _pair(record, f"{file} row {number}")
    except csv.Error as error:
        raise ValueError(f"{file} line {rows.line_num} is no CSV: {error}") from error


_READERS = {".jsonl": _lines, ".json": _document, ".csv": _table}


def _pair(record: Any, place: str) -> tuple[str, str]:
    if not isinstance(record, dict):
        raise ValueError(f'{place} is {record!r}; write {{"image": path, "caption": text}}')
    image, caption = record.get("image"), record.get("caption")
    if not isinstance(image, str) or not image:
        raise ValueError(f"{place} has no image: {record!r}")
    # An empty caption is what a captioner said; a missing one is a mistake in the file.
    if not isinstance(caption, str):
        raise ValueError(f"{place} has no caption: {record!r}")
    return image, caption


def _examples(files: Sequence[Path]) -> str:
    shown = ", ".join(map(str, files[:_SHOWN]))
    more = len(files) - _SHOWN
    rest = f" and {more} more" if more > 0 else ""
    return f"{shown}{rest} {'are' if len(files) > 1 else 'is'}"
