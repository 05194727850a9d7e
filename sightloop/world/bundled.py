"""Where the bundled models are, and which folders are the embedded world's; loads nothing."""

from __future__ import annotations

import os
from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
MANIFEST = "scenes.jsonl"
"""What a folder of its images says about them."""


def is_bundled(name: str | Path) -> bool:
    """Whether this names a model that comes with the library."""
    return Path(os.path.realpath(name)).is_relative_to(os.path.realpath(WEIGHTS))


def is_world_folder(name: str) -> bool:
    """Whether this names a folder of the embedded world's scenes."""
    return bool(name) and (Path(name) / MANIFEST).is_file()
