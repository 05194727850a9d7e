"""The place of a run on disk: an older run is replaced last, and a start that fails leaves nothing behind."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sightloop.terminal import say
from sightloop.training import distributed
from sightloop.training.checkpoint import finished_checkpoints

PARTIAL = ".partial"
CONFIG_FORMAT = 3
"""Of config.json: what its settings are called and mean. The first release wrote none, which counts as 1."""
_REPLACES = "replaces"
"""The key of environment.json that names the older run until it is removed."""
_WRITTEN_BY_RUNS = re.compile(
    r"""
    (config|environment|prompts)\.json | (metrics|alarms)\.jsonl | report\.html(\.tmp)? | before_after\.png
    | samples/step_\d+\.json | evaluations/\w+_step_\d+\.json | images/[0-9a-f]+\.png
    | checkpoints/(best | step_\d+/[\w-]+\.(safetensors|pt|json))
    | pictures/.* | wandb/.* | tensorboard/.* | ([^/]+/)*[^/]+\.partial(/.*)?
    """,
    re.VERBOSE,
)


class NoRunError(ValueError):
    """A folder that is to be replaced holds something else than a run."""


def reserve(
    folder: Path, *, recipe: str, config: dict[str, Any], environment: dict[str, Any], overwrite: bool
) -> None:
    """Make the folder of a new run; an older run is moved aside first. Only rank 0 touches the disk.

    The new run has copies of the older one's images.

    Raises:
        ValueError: the folder holds something and `overwrite` is off, or something that is no run.
    """
    if distributed.rank() == 0:
        aside = _make_room(folder, overwrite)
        place = _real(folder)
        with _given_back(place, aside):
            place.mkdir(parents=True, exist_ok=True)
            replaced = {} if aside is None else {_REPLACES: aside.name}
            write_run_json(place / "environment.json", {**environment, **replaced})
            write_run_json(
                place / "config.json", {"recipe": recipe, "format": CONFIG_FORMAT, "config": config}
            )
            if aside is not None and (aside / "pictures").is_dir():
                shutil.copytree(aside / "pictures", place / "pictures")
    distributed.barrier()


@contextmanager
def given_back_if_it_fails(folder: Path) -> Iterator[None]:
    """Leave nothing behind of a start that fails, and put the older run back.

    A run that has trained a step is no failed start: it stays, and so does the older one beside it.
    """
    if distributed.rank() != 0:
        yield
        return
    place = _real(folder)
    with _given_back(place, _replaced(place)):
        yield


def remove_replaced(folder: Path) -> None:
    """Remove the older run that this one replaces, if there still is one: a checkpoint is whole."""
    place = _real(folder)
    aside = _replaced(place)
    if aside is not None:
        known = _read_object(place / "environment.json")
        write_run_json(
            place / "environment.json", {key: value for key, value in known.items() if key != _REPLACES}
        )
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _given_back(place: Path, aside: Path | None) -> Iterator[None]:
    succeeded = False
    try:
        yield
        succeeded = True
    finally:
        if not succeeded:
            _give_back(place, aside)


def _give_back(place: Path, aside: Path | None) -> None:
    if not _has_trained(place):
        shutil.rmtree(place, ignore_errors=True)
        if aside is not None:
            os.replace(aside, place)
    elif aside is not None:
        say(f"the older run is kept as {aside}", is_error=True)


def _replaced(place: Path) -> Path | None:
    """The older run that a run has moved aside and not yet removed."""
    name = _read_object(place / "environment.json").get(_REPLACES)
    # Nothing else is ever removed, whatever the file says.
    if not isinstance(name, str) or not re.fullmatch(rf"{re.escape(place.name)}\.old-[\d-]+", name):
        return None
    aside = place.with_name(name)
    return aside if aside.is_dir() else None


def _has_trained(place: Path) -> bool:
    if finished_checkpoints(place / "checkpoints"):
        return True
    metrics = place / "metrics.jsonl"
    return metrics.is_file() and '"kind": "train"' in metrics.read_text(encoding="utf-8")


def _make_room(folder: Path, overwrite: bool) -> Path | None:
    """Where the older run went; None if there was none."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder with --run")
    if not folder.exists():
        return None
    place = _real(folder)
    if overwrite and (older := _replaced(place)) is not None and not _has_trained(place):
        # A start that was killed is undone first.
        _give_back(place, older)
    for leftover in place.glob(f"*{PARTIAL}"):
        if leftover.is_file():
            leftover.unlink()
    if not any(place.iterdir()):
        return None
    if not overwrite:
        raise ValueError(
            f"{folder} is not empty; go on with --resume {folder}, replace it with --overwrite, or choose "
            "another --run"
        )
    if stranger := _no_run(place):
        raise NoRunError(f"{folder} is not empty and not a run; --overwrite only replaces runs ({stranger})")
    aside = place.with_name(f"{place.name}.old-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    os.replace(place, aside)
    return aside


def _no_run(place: Path) -> str:
    """Why this folder is not one that only a run has written to; "" if it is."""
    saved = _read_object(place / "config.json")
    if not isinstance(saved.get("recipe"), str) or "config" not in saved:
        return "it has no config.json that names a recipe"
    for here, folders, files in os.walk(place):
        inside = Path(here).relative_to(place)
        # A link to a folder is listed among the folders and not entered.
        links = [name for name in folders if (Path(here) / name).is_symlink()]
        for name in [*files, *links]:
            path = (inside / name).as_posix()
            if not _WRITTEN_BY_RUNS.fullmatch(path):
                return f"{path} was not written by a run; move it elsewhere"
    return ""


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object; empty where it is missing or holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _real(folder: Path) -> Path:
    # A link to the folder stays where it is while the folder behind it changes.
    return Path(os.path.realpath(folder))


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f"{path.name}{PARTIAL}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


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
