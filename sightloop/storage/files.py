"""Files that survive a power failure: flushed to disk under another name, then renamed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sightloop.text_files import read_json

PARTIAL = ".partial"


def flush_to_disk(path: Path) -> None:
    """Make a file or a folder's names survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f"{path.name}{PARTIAL}")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    flush_to_disk(path.parent)


def write_run_json(path: Path, data: Any) -> None:
    """The same as JSON, with null for what JSON has no number for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(json_values(data), indent=1, allow_nan=False) + "\n")


def json_values(data: Any) -> Any:
    """The same with null for what JSON has no number for."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: json_values(value) for key, value in data.items()}
    return [json_values(value) for value in data] if isinstance(data, list | tuple) else data


def object_or_empty(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object; empty where it is missing or holds something else."""
    try:
        return read_json(path)
    except ValueError:
        return {}
