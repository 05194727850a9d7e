"""Which objects images hold, from a file: COCO's annotations, or a list of one's own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightloop.text_files import form_of, read_json, read_json_lines


@dataclass(frozen=True, kw_only=True)
class ObjectTruth:
    """Objects by image."""

    file: str
    by_path: Mapping[str, frozenset[str]]
    """By real path, or by name alone where `by_name`."""
    by_name: bool

    def of(self, sources: Sequence[str]) -> list[frozenset[str]]:
        """The objects of images.

        Raises:
            ValueError: the file says nothing about an image.
        """
        keys = [Path(each).name if self.by_name else os.path.realpath(each) for each in sources]
        missing = [source for source, key in zip(sources, keys, strict=True) if key not in self.by_path]
        if missing:
            raise ValueError(
                f"{self.file} says nothing about {len(missing)} images, the first is {missing[0]}; name "
                "every image, also where there is no object"
            )
        return [self.by_path[key] for key in keys]


def read_objects(file: str | Path, *, image_root: str | Path | None = None) -> ObjectTruth:
    """Objects from COCO's `instances_*.json`, from `{"image": path, "objects": [...]}` a line (.jsonl), or
    from a mapping of path to objects (.json).

    COCO's images are found by file name; other paths start at `image_root`, by default the file's folder.

    Raises:
        ValueError: the file is missing or of another form, or an image comes up twice.
    """
    path = Path(file)
    document = None if path.suffix == ".jsonl" else read_json(path, None)
    if isinstance(document, dict) and "annotations" in document:
        return ObjectTruth(file=str(path), by_path=_of_coco(document, str(path)), by_name=True)
    if document is None:
        pairs = _lines(path)
    elif isinstance(document, dict):
        pairs = list(document.items())
    else:
        raise ValueError(f"{path} is neither COCO's annotations nor a mapping from path to objects")
    root = path.parent if image_root is None else Path(image_root)
    found: dict[str, frozenset[str]] = {}
    for image, names in pairs:
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{path}: the objects of {image} are {names!r}; give a list of names")
        if not isinstance(image, str) or "\0" in image:
            raise ValueError(f"{path} names the image {image!r}; give a path")
        key = os.path.realpath(root / image)
        if key in found:
            raise ValueError(f"{path} names {image} a second time")
        found[key] = frozenset(names)
    return ObjectTruth(file=str(path), by_path=found, by_name=False)


def _of_coco(document: Mapping[str, Any], file: str) -> dict[str, frozenset[str]]:
    with form_of(file, "COCO's instances_*.json is needed"):
        names = {each["id"]: each["name"] for each in document["categories"]}
        found: dict[Any, set[str]] = {each["id"]: set() for each in document["images"]}
        for each in document["annotations"]:
            found[each["image_id"]].add(names[each["category_id"]])
        return {Path(each["file_name"]).name: frozenset(found[each["id"]]) for each in document["images"]}


def _lines(file: Path) -> list[tuple[Any, Any]]:
    pairs: list[tuple[Any, Any]] = []
    for place, record in read_json_lines(file):
        with form_of(place, 'write {"image": path, "objects": [names]}'):
            pairs.append((record["image"], record["objects"]))
    return pairs
