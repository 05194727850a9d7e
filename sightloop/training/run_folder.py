"""The place of a run on disk: an older run is replaced last, and a start that fails leaves nothing behind."""

from __future__ import annotations

import glob
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sightloop.storage.files import PARTIAL, object_or_empty, write_run_json
from sightloop.storage.owner import require_unowned
from sightloop.terminal import say
from sightloop.text_files import read_whole
from sightloop.training import distributed
from sightloop.training.checkpoint import finished_checkpoints

CONFIG_FORMAT = 3
"""Of config.json: what its settings are called and mean. The first release wrote none, which counts as 1."""
_REPLACES = "replaces"
"""The key of environment.json that names the older run until it is removed."""
_WRITTEN_BY_RUNS = re.compile(
    r"""
    run\.lock | (config|environment|identity|prompts)\.json(\.partial)? | (metrics|alarms)\.jsonl(\.partial)?
    | report\.html(\.tmp)? | before_after\.png
    | (samples/step_\d+ | evaluations/\w+_step_\d+)\.json(\.partial)? | images/[0-9a-f]+\.png(\.partial)?
    | checkpoints/best(\.partial)?
    | checkpoints/step_\d+(\.old)?(\.partial|\.damaged)?/[\w-]+\.(safetensors|pt|json)(\.partial)?
    | pictures/([\w-]+/)?(\d+\.png | scenes\.jsonl) | wandb/.* | tensorboard/events\.out\.tfevents\..*
    """,
    re.VERBOSE,
)


class NoRunError(ValueError):
    """A folder that is to be replaced holds something else than a run."""


def require_room(folder: Path, *, overwrite: bool) -> None:
    """Look whether a new run may have this folder; nothing is changed. Only rank 0 looks.

    Raises:
        ValueError: the folder holds something and `overwrite` is off, or something that is no run, or a run
            that goes on just now; or it cannot be written.
    """
    if distributed.rank() != 0:
        return
    recover(folder)
    place = _real(folder)
    for parent in (place, *place.parents):
        if parent.exists():
            if not parent.is_dir():
                raise ValueError(f"{parent} is a file; name a folder with --run")
            if not os.access(parent, os.W_OK | os.X_OK):
                raise ValueError(f"{parent} cannot be written to; name another folder with --run")
            break
    if not _holds_something(place):
        return
    if not overwrite:
        raise ValueError(
            f"{folder} is not empty; go on with --resume {folder}, replace it with --overwrite, or choose "
            "another --run"
        )
    if stranger := _no_run(place):
        raise NoRunError(f"{folder} is not empty and not a run; --overwrite only replaces runs ({stranger})")
    require_unowned(place)


def reserve(
    folder: Path, *, recipe: str, config: dict[str, Any], environment: dict[str, Any], overwrite: bool
) -> None:
    """Make the folder of a new run; an older run is moved aside. Only rank 0 touches the disk.

    The folder is made under a temporary name and renamed once its files are on disk. The new run has copies
    of the older one's images.

    Raises:
        ValueError: as `require_room`.
    """
    if distributed.rank() == 0:
        if overwrite:
            _undo_killed_start(_real(folder))
        require_room(folder, overwrite=overwrite)
        place = _real(folder)
        starting, aside = _beside(place), None
        if _holds_something(place):
            aside = place.with_name(f"{place.name}.old-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
        elif place.is_dir():
            # An empty folder may be a mounted one, which cannot be replaced.
            starting = place
        try:
            replaced = {} if aside is None else {_REPLACES: aside.name}
            write_run_json(starting / "environment.json", {**environment, **replaced})
            about = {"recipe": recipe, "format": CONFIG_FORMAT, "config": config}
            write_run_json(starting / "config.json", about)
            if aside is not None and (place / "pictures").is_dir():
                shutil.copytree(place / "pictures", starting / "pictures")
            if aside is not None:
                os.replace(place, aside)
            if starting != place:
                os.replace(starting, place)
        finally:
            if aside is not None and aside.exists() and not place.exists():
                os.replace(aside, place)
            if starting != place:
                shutil.rmtree(starting, ignore_errors=True)
    distributed.barrier()


def recover(folder: Path) -> None:
    """Put a run back in its place, if a process was killed just while another took it. Only rank 0 does."""
    place = _real(folder)
    if distributed.rank() != 0 or place.exists():
        return
    for starting in sorted(place.parent.glob(f".{glob.escape(place.name)}.starting-*")):
        older = _replaced(place, by=starting)
        if older is not None:
            os.replace(older, place)
            shutil.rmtree(starting, ignore_errors=True)
            say(f"a start was killed while it replaced {folder}; the older run is back there", is_error=True)
            return


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
        # What names it goes last: a process that is killed meanwhile leaves nothing that nobody names.
        shutil.rmtree(aside, ignore_errors=True)
        known = object_or_empty(place / "environment.json")
        write_run_json(
            place / "environment.json", {key: value for key, value in known.items() if key != _REPLACES}
        )


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
        failed = _beside(place)
        with suppress(FileNotFoundError):
            os.replace(place, failed)
        if aside is not None:
            os.replace(aside, place)
        shutil.rmtree(failed, ignore_errors=True)
    elif aside is not None:
        say(f"the older run is kept as {aside}", is_error=True)


def _beside(place: Path) -> Path:
    """Where a run is that is not in its place yet, or not any more."""
    return place.with_name(f".{place.name}.starting-{os.getpid()}")


def _replaced(place: Path, *, by: Path | None = None) -> Path | None:
    """The older run that a run, in its place or by it, has moved aside and not yet removed."""
    name = object_or_empty((by or place) / "environment.json").get(_REPLACES)
    # Nothing else is ever removed, whatever the file says.
    if not isinstance(name, str) or not re.fullmatch(rf"{re.escape(place.name)}\.old-[\d-]+", name):
        return None
    aside = place.with_name(name)
    return aside if aside.is_dir() else None


def _has_trained(place: Path) -> bool:
    if finished_checkpoints(place / "checkpoints"):
        return True
    metrics = place / "metrics.jsonl"
    return metrics.is_file() and b'"kind": "train"' in read_whole(metrics)


def _undo_killed_start(place: Path) -> None:
    """Put an older run back that a start had moved aside, which was killed before it trained."""
    older = _replaced(place)
    if older is not None and not _has_trained(place):
        require_unowned(place)
        _give_back(place, older)


def _holds_something(place: Path) -> bool:
    return place.is_dir() and any(not _is_leftover(path) for path in place.iterdir())


def _is_leftover(path: Path) -> bool:
    """Whether a killed process left this half written."""
    return path.suffix == PARTIAL and path.is_file()


def _no_run(place: Path) -> str:
    """Why this folder is not one that only a run has written to; "" if it is."""
    saved = object_or_empty(place / "config.json")
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


def _real(folder: Path) -> Path:
    # A link to the folder stays where it is while the folder behind it changes.
    return Path(os.path.realpath(folder))
