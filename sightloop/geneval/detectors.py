"""What sees the objects of an image: the interface of detectors, and detections that were written to a file.

A detections file has one JSON object a line, so that any detector can write it:
`{"file": "00000/samples/0000.png", "size": [width, height], "detections": [...]}`, each detection being
`{"class": name, "box": [left, top, right, bottom], "score": 0 to 1, "color": name, "mask": runs}`.
`color`, `mask` and `size` may be left out; `runs` are COCO's `{"size": [height, width], "counts": ...}`, as
numbers or as pycocotools' text. A first line `{"protocol": {...}}` says which detector wrote the file, and
with `floor` the score below which nothing was written.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool
from PIL import Image

from sightloop.geneval.rules import Detection
from sightloop.image_files import PIL_MAX_PIXELS
from sightloop.image_files import open_image as open_image
from sightloop.text_files import form_of, read_json_lines, read_whole

_SHOWN = 150
_RENAMED = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}


@dataclass(frozen=True, kw_only=True)
class DetectorImage:
    """An image to look at."""

    file: str
    """Its path inside the folder of images, with forward slashes."""
    image: Image.Image
    """Upright 8-bit RGB."""
    names: tuple[str, ...] = ()
    """The classes that matter; only detectors of free vocabulary look at them."""


class Detector(Protocol):
    """Finds objects in images."""

    protocol: dict[str, str]
    """What its detections depend on, for the record; `detector` is its name."""
    vocabulary: frozenset[str] | None
    """The classes it knows; None = any."""

    def detect(self, pictures: Sequence[DetectorImage]) -> list[list[Detection]]:
        """The objects of each image, in any order, all that the rules might keep."""
        ...


class DetectionsFile:
    """Detections that another program, or an earlier evaluation, wrote."""

    def __init__(self, path: str | Path) -> None:
        header, self._records = read_detections(path)
        digest = hashlib.sha256(read_whole(path)).hexdigest()[:12]
        self.protocol = dict(header) if header else {"detector": "file", "detections": digest}
        self.vocabulary: frozenset[str] | None = None
        self.path = Path(path)

    def detect(self, pictures: Sequence[DetectorImage]) -> list[list[Detection]]:
        """The written detections.

        Raises:
            ValueError: an image is not in the file, or had another size.
        """
        return [self._of(picture) for picture in pictures]

    def all_of(self, file: str) -> list[Detection]:
        """What is written of an image, by its path inside the folder.

        Raises:
            ValueError: an entry has another form.
        """
        return [detection_of(entry, f"{self.path}, {file}") for entry in self._records[file]["detections"]]

    def _of(self, image: DetectorImage) -> list[Detection]:
        record = self._records.get(image.file)
        if record is None:
            raise ValueError(
                f"{self.path} says nothing about {image.file}; give every image a line, also where "
                "nothing was found"
            )
        size = record.get("size")
        if size is not None and tuple(size) != image.image.size:
            raise ValueError(
                f"{self.path} was made for an image {image.file} of {size[0]} x {size[1]} pixels; it has "
                f"{image.image.width} x {image.image.height}"
            )
        found = self.all_of(image.file)
        for seen in found:
            if seen.name != (wanted := in_geneval_words(seen.name, image.names)):
                raise ValueError(
                    f"{self.path}, {image.file}: GenEval's name of COCO's {seen.name!r} is "
                    f"{wanted!r}; rename it"
                )
        return found


def read_detections(path: str | Path) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """The protocol line, {} if there is none, and the other lines by `file`.

    Raises:
        ValueError: the file is missing, a line has another form, or an image comes up twice.
    """
    header: dict[str, str] = {}
    records: dict[str, dict[str, Any]] = {}
    for place, record in read_json_lines(path, fix="it should hold detections, one image a line"):
        if not records and not header and "protocol" in record:
            with form_of(place):
                header = {str(name): str(value) for name, value in record["protocol"].items()}
                float(header.get("floor", 0))
            continue
        file = record.get("file")
        if not isinstance(file, str) or not isinstance(record.get("detections"), list):
            raise ValueError(f'{place} needs "file" and a list of "detections"')
        size = record.get("size")
        if size is not None and not (isinstance(size, list) and [type(side) for side in size] == [int, int]):
            raise ValueError(f'{place} has "size" {size!r}; write [width, height]')
        if file in records:
            raise ValueError(f"{place} names {file} a second time")
        records[file] = record
    return header, records


def detections_line(
    image: DetectorImage, detections: Sequence[Detection], *, extra: Mapping[str, Any] | None = None
) -> str:
    """One line of a detections file, without masks; `extra` goes along."""
    listed = [
        {"class": seen.name, "box": list(seen.box), "score": seen.score}
        | ({} if seen.color is None else {"color": seen.color})
        for seen in detections
    ]
    record = {"file": image.file, "size": list(image.image.size), **(extra or {}), "detections": listed}
    return json.dumps(record)


def mask_of_runs(runs: Mapping[str, Any]) -> Bool[np.ndarray, "H W"]:
    """A mask from COCO's run lengths: down the columns, the first run is outside.

    >>> mask_of_runs({"size": [2, 2], "counts": [1, 2, 1]}).tolist()
    [[False, True], [True, False]]

    Raises:
        ValueError: the runs do not fill the size.
    """
    height, width = runs["size"]
    counts = runs["counts"]
    if not 0 < height * width <= PIL_MAX_PIXELS:
        raise ValueError(f"a mask of {height} x {width}, of at most {PIL_MAX_PIXELS} pixels")
    lengths = _unpacked(counts) if isinstance(counts, str) else [int(length) for length in counts]
    if sum(lengths) != height * width or min(lengths, default=0) < 0:
        raise ValueError(f"runs of {sum(lengths)} pixels in a mask of {height} x {width}")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(width, height).T


def _unpacked(text: str) -> list[int]:
    """Run lengths from pycocotools' text: 5 bits a character; the fourth and later ones are changes."""
    lengths: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value, shift = 0, 0
    return lengths


def detection_of(entry: Any, place: str) -> Detection:
    """An object from its form in a file; `place` is where it is from.

    Raises:
        ValueError: the entry has another form.
    """
    try:
        name, score = entry["class"], float(entry["score"])
        left, top, right, bottom = (float(value) for value in entry["box"])
        mask, color = _mask(entry.get("mask")), entry.get("color")
        if not isinstance(name, str) or not isinstance(color, str | None):
            raise TypeError("class and color are texts")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(
            f'{place}: {_shown(entry)} is no detection with "class", "box", "score": {error}'
        ) from error
    if not 0 <= score <= 1 or not all(map(math.isfinite, (left, top, right, bottom))):
        raise ValueError(
            f"{place}: {_shown(entry)} has a score outside of 0 to 1, or a box that is not finite"
        )
    return Detection(name=name, box=(left, top, right, bottom), score=score, color=color, mask=mask)


def in_geneval_words(name: str, names: Sequence[str]) -> str:
    """A class of COCO as GenEval calls it, unless a prompt with the classes `names` speaks of COCO's own."""
    return name if name in names else _RENAMED.get(name, name)


def _shown(entry: Any) -> str:
    """An entry as error messages show it: masks are long."""
    text = repr(entry)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _mask(given: Any) -> Bool[np.ndarray, "H W"] | None:
    if not isinstance(given, np.ndarray):
        return mask_of_runs(given) if given else None
    if given.dtype != bool:
        raise ValueError(f"a mask of {given.dtype}; give True inside and False outside")
    return given
