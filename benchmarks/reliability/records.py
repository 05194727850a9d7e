"""Where these measurements are kept: one file of data each, with the day and the commit that they are of."""

from __future__ import annotations

import datetime
import json
import subprocess
from pathlib import Path
from typing import Any

import sightloop

FIGURES = Path(__file__).parent / "figures"


def recorded(name: str) -> dict[str, dict[str, Any]]:
    """The rows of a measurement by their names."""
    file = FIGURES / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def record(name: str, rows: dict[str, dict[str, Any]]) -> None:
    """Keep rows by their names; those that were not measured again stay as they are."""
    made = {"date": str(datetime.date.today()), "commit": measured_commit()}
    kept = recorded(name) | {key: {**row, **made} for key, row in rows.items()}
    FIGURES.mkdir(exist_ok=True)
    (FIGURES / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def measured_commit() -> str:
    """The newest that changed the library."""
    package = Path(sightloop.__file__).parent
    asked = ["git", "-C", str(package), "log", "-1", "--format=%h", "--", "."]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
