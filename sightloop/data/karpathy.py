"""Karpathy's JSON of a caption data set (`dataset_coco.json`): images of a split and their sentences."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from sightloop.image_files import path_inside
from sightloop.text_files import read_json

_WHERE = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
_LOOKED_AT = 1000


def read_karpathy(
    spec: str, *, split: str, image_root: str | None
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Paths and references of the images of a split, in the order of the file.

    The references of an image are its sentences. "train" includes "restval" where there is one: together
    they are the usual training set. "+" joins several splits. `image_root` is the folder of `train2014` and
    `val2014`; None = that of the JSON.

    Raises:
        ValueError: the file or its images are not there, it is no such JSON, or it has no such split.
    """
    entries = _entries(spec)
    held = Counter(str(entry["split"]) for entry in entries)
    known = ", ".join(f"{name} ({number})" for name, number in sorted(held.items()))
    wanted = split.split("+")
    if missing := [name for name in wanted if name not in held]:
        raise ValueError(f"{spec!r} has no split {missing[0]!r}; it has {known}")
    if "train" in wanted:
        wanted.append("restval")
    chosen = [entry for entry in entries if entry["split"] in wanted]
    root = Path(spec).expanduser().parent if image_root is None else Path(image_root).expanduser()
    paths = _paths(chosen, root)
    return paths, tuple(_references(entry) for entry in chosen)


def _entries(spec: str) -> list[dict[str, Any]]:
    path = Path(spec).expanduser()
    if not path.is_file():
        raise ValueError(f"{spec!r} does not exist; Karpathy's splits are at {_WHERE}")
    try:
        entries = read_json(path)["images"]
        complete = bool(entries) and all(
            isinstance(entry["sentences"], list)
            and isinstance(entry["split"], str)
            and all(isinstance(entry.get(name, ""), str) for name in ("filepath", "filename"))
            and entry["filename"]
            and all(isinstance(sentence, dict) and "raw" in sentence for sentence in entry["sentences"])
            for entry in entries
        )
    except (LookupError, TypeError, AttributeError):
        complete = False
    if not complete:
        raise ValueError(
            f"{spec!r} is no Karpathy JSON (a list `images` with `filename`, `split` and `sentences` each); "
            f"those are at {_WHERE}"
        )
    return entries


def _paths(entries: list[dict[str, Any]], root: Path) -> tuple[str, ...]:
    """With the folder that each entry names (COCO), or all in one (Flickr, or COCO put together)."""
    foldered = tuple(
        str(path_inside(root, os.path.join(entry.get("filepath", ""), entry["filename"])))
        for entry in entries
    )
    flat = tuple(str(path_inside(root, entry["filename"])) for entry in entries)
    for paths in (foldered, flat):
        # One of them may be missing, as it may anywhere.
        if any(Path(path).is_file() for path in paths[:_LOOKED_AT]):
            return paths
    raise ValueError(
        f"neither {foldered[0]} nor {flat[0]} exists, nor any of the next; name the folder of the images "
        "with --image-root, in training with --data.image-root or --held-out.image-root"
    )


def _references(entry: dict[str, Any]) -> tuple[str, ...]:
    return tuple(" ".join(str(sentence["raw"]).split()) for sentence in entry["sentences"])
