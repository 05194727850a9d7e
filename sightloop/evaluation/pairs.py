"""Captions and the images they belong to, from files: jsonl, json and csv, and the forms of others.

Those are COCO's results (`image_id`, `caption`) and references (`annotations`), Karpathy's JSON, and
CLIPScore's candidates and references (names without an ending). They name images by number or by a part of
their name.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

from sightloop.text_files import form_of, parse_json, read_json, read_lines, read_text_file

_SHOWN = 3
_NUMBERED = re.compile(r"(?:COCO_\w+_)?(\d{1,18})")


@dataclass(frozen=True, kw_only=True)
class CaptionSet:
    """Distinct image files, captions, and which image each caption belongs to."""

    images: list[Path]
    captions: list[str]
    target: list[int]
    """For each caption the place of its image in `images`."""
    by_number: bool = False
    """The file names images by number or by a part of their name, as COCO's do; `image_key` compares them."""

    @property
    def sources(self) -> list[str]:
        """The image of each caption as a path."""
        return [str(self.images[place]) for place in self.target]


def caption_set(
    pairs: Iterable[tuple[str | Path, str]], *, several: bool = False, must_exist: bool = True
) -> CaptionSet:
    """Pairs of image and caption, checked: every image exists (if it must) and has one caption.

    `several` allows more captions an image, as for the captions that people wrote.

    Raises:
        ValueError: no pairs, images that are missing, or images that come up twice.
    """
    listed = [(Path(image), caption) for image, caption in pairs]
    if not listed:
        raise ValueError("no captions; give at least one pair of image and caption")
    files = {image: Path(os.path.realpath(image)) for image, _ in listed}
    missing = [image for image, file in files.items() if not file.is_file()]
    if missing and must_exist:
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
    file: str | Path,
    *,
    image_root: str | Path | None = None,
    several: bool = False,
    must_exist: bool = True,
) -> CaptionSet:
    """Captions of a file, checked as `caption_set` does.

    `.jsonl` has an object `{"image": path, "caption": text}` a line; `.json` a list of such objects, a
    mapping from path to caption, or is an evaluation of a run folder; `.csv` has the columns image and
    caption. Relative paths start at `image_root`, by default the folder of the file, below which images are
    looked for that a file of another's names by number or without an ending; without `must_exist` these need
    not be there.

    Raises:
        ValueError: the file is missing or of another form (naming the entry), or as for `caption_set`.
    """
    path = Path(file)
    if path.suffix not in _READERS:
        raise ValueError(f"{path} ends in {path.suffix!r}; use one of {', '.join(_READERS)}")
    root = path.parent if image_root is None else Path(image_root)
    others = _of_others(path) if path.suffix == ".json" else None
    if others is not None:
        place = _finder(root)
        pairs = [(place(image), caption) for image, caption in others]
    else:
        pairs = [(root / image, caption) for image, caption in _READERS[path.suffix](path)]
    with form_of(str(path)):
        found = caption_set(pairs, several=several, must_exist=must_exist or others is None)
    return replace(found, by_number=others is not None)


def image_key(image: str | Path) -> str:
    """What two files call the same image by, wherever it is: its number in COCO, else its name without an
    ending.

    >>> image_key("val2014/COCO_val2014_000000391895.jpg"), image_key("391895"), image_key("photos/cat.png")
    ('391895', '391895', 'cat')
    """
    stem = Path(image).stem
    numbered = _NUMBERED.fullmatch(stem)
    return str(int(numbered[1])) if numbered else stem


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


def _of_others(file: Path) -> list[tuple[str, str]] | None:
    """The pairs of a file in a form that others gave it; None if it is not one of these."""
    document = read_json(file, None)
    with form_of(str(file)):
        if isinstance(document, list):
            if not document or not isinstance(document[0], dict) or "image_id" not in document[0]:
                return None
            return [(str(each["image_id"]), _text(each["caption"])) for each in document]
        if not isinstance(document, dict):
            return None
        if "annotations" in document and "images" in document:
            names = {each["id"]: str(each["file_name"]) for each in document["images"]}
            return [(names[each["image_id"]], _text(each["caption"])) for each in document["annotations"]]
        images = document.get("images")
        if isinstance(images, list) and images and "sentences" in images[0]:
            return [
                (os.path.join(each.get("filepath", ""), each["filename"]), _text(sentence["raw"]))
                for each in images
                for sentence in each["sentences"]
            ]
        is_short = all(not Path(name).suffix for name in document)
        if (
            not document
            or "samples" in document
            or not (is_short or any(isinstance(texts, list) for texts in document.values()))
        ):
            return None
        listed = {name: texts if isinstance(texts, list) else [texts] for name, texts in document.items()}
        return [(name, _text(text)) for name, texts in listed.items() for text in texts]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a caption is {value!r}; captions are texts")
    return value


def _finder(root: Path) -> Callable[[str], Path]:
    """Finds an image by its path below `root`, else by its key."""
    known: dict[str, Path] = {}

    def place(name: str) -> Path:
        if (root / name).is_file():
            return root / name
        if not known:
            known[""] = root
            for here, _, files in os.walk(root):
                known.update((image_key(file), Path(here) / file) for file in files if not _is_text(file))
        return known.get(image_key(name), root / name)

    return place


def _is_text(file: str) -> bool:
    return Path(file).suffix in {*_READERS, ".txt", ".md"} or file.startswith(".")


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
