"""A folder that says what was written into it: sizes and sha256 of its files, written last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sightloop.storage.files import write_run_json
from sightloop.text_files import read_json

MANIFEST = "manifest.json"
_OWN = "sha256"
"""Of the manifest itself: of all else in it."""


def write_manifest(folder: Path, **more: Any) -> None:
    """Write down all files of the folder as they are now, and `more` beside them."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)}
        for path in sorted(folder.iterdir())
        if path.is_file()
    }
    content = {**more, "files": files}
    write_run_json(folder / MANIFEST, {**content, _OWN: _digest_of(content)})


def damage_by_manifest(folder: Path, *, only: Sequence[str] = ()) -> str:
    """What differs from the folder's manifest, as a sentence that names the file; "" if nothing does.

    With `only`, other files are not looked at.
    """
    try:
        content = read_json(folder / MANIFEST)
        is_whole = content.pop(_OWN, None) == _digest_of(content)
    except (ValueError, RecursionError) as error:
        return str(error)
    if not is_whole:
        return f"{folder / MANIFEST} is not what was written (another sha256)"
    for name, file in content["files"].items():
        size, digest = file["bytes"], file["sha256"]
        path = folder / name
        if only and name not in only:
            continue
        if not path.is_file():
            return f"{path} is missing"
        if (found := path.stat().st_size) != size:
            return f"{path} has {found} bytes, {size} were written"
        if _digest(path) != digest:
            return f"{path} is not what was written (another sha256)"
    return ""


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
