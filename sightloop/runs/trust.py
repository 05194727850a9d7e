"""Whose code a saved configuration names: functions of others are listed, and run only after a yes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sightloop.recipes.catalog import read_run_config
from sightloop.recipes.choices import leaves_of, value_of
from sightloop.rewards.custom import OFFERED
from sightloop.rewards.user_functions import names_function
from sightloop.storage.files import write_run_json
from sightloop.text_files import read_json
from sightloop.training import distributed

YES = "--trust-rewards"
_CODE = ("custom_rewards", "judge.detector", "joint.detector")
"""Settings that may name a function, which is imported."""
_OWN = "folder"
"""The key of environment.json with the number of the run's folder on its disk, which a copy does not have."""


def functions_of(config: Any) -> list[str]:
    """The functions that a configuration names, as `module:function` or `file.py:function`."""
    settings = set(leaves_of(config)) & set(_CODE)
    named: list[str] = []
    for setting in sorted(settings):
        value = value_of(config, setting)
        for text in value if isinstance(value, tuple) else (value,):
            name = text.rpartition("=")[0] or text
            kind, _, rest = name.partition(":")
            offered = OFFERED.get(kind) if setting == "custom_rewards" else None
            if offered is not None:
                name = rest if offered.function else ""
            if names_function(name):
                named.append(name)
    return named


def mark_as_own(folder: Path) -> None:
    """Note that a run was started here, so that going on with it needs no yes."""
    if distributed.rank() == 0:
        file = folder / "environment.json"
        write_run_json(file, {**read_json(file), _OWN: os.stat(folder).st_ino})


def require_trust(option: str, name: str) -> None:
    """Look at the configuration that `--config` or `--resume` names, if it names one.

    Raises:
        ValueError: it would run functions, and it was not started here; they are listed.
    """
    run = Path(name) if option == "--resume" else None
    file = Path(name) if run is None else run / "config.json"
    if not name or name.startswith("-"):
        return
    functions = functions_of(read_run_config(file)[1])
    if functions and not (run is not None and _is_own(run)):
        raise ValueError(
            f"{file} names code that would be run: {', '.join(functions)}; if you know and trust it, "
            f"say so with {YES}"
        )


def _is_own(run: Path) -> bool:
    try:
        return read_json(run / "environment.json").get(_OWN) == os.stat(run).st_ino
    except (ValueError, OSError):
        return False
