"""Checkpoints that survive a crash: written under a temporary name, flushed to disk, then renamed."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sightloop.models.open import read_saved, read_tensors
from sightloop.storage.files import PARTIAL, flush_to_disk, object_or_empty, replace_text
from sightloop.storage.manifest import MANIFEST, damage_by_manifest, write_manifest
from sightloop.text_files import read_json, read_whole
from sightloop.training import distributed
from sightloop.training.randomness import random_state, seed_everything, set_random_state

DAMAGED = ".damaged"
"""Ending of the folder of a checkpoint that cannot be used, until its step is saved again."""
_FIX = "name another step, or resume: the run then goes on from the checkpoint before"
_KEPT, _TRAINABLE, _STATE = "kept.safetensors", "trainable.safetensors", "state.json"
_STEP = re.compile(r"step_(\d+)")
_STEP_DIGITS = 40


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint on disk."""

    step: int
    folder: Path


class Positioned(Protocol):
    """A stream that can say where it stands, in plain data that JSON can hold."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Saveable:
    """Everything that the rest of a run depends on, besides the random generators."""

    trainable: Mapping[str, nn.Module]
    optimizer: torch.optim.Optimizer
    batches: Positioned
    extra_state: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """What changes without an optimizer; put back in place."""
    each_has_moments: bool = False
    """The ranks have a part of the optimizer's state each, and write it themselves."""


@dataclass(frozen=True, kw_only=True)
class BeforeStep:
    """What a step changes before it updates the weights."""

    randomness: dict[str, Any]
    position: dict[str, Any]
    extra_state: Mapping[str, Tensor]


def before_step(what: Saveable) -> BeforeStep:
    """Enough to drop a step whose weights are not updated yet."""
    return BeforeStep(
        randomness=random_state(),
        position=copy.deepcopy(what.batches.state_dict()),
        extra_state={name: value.clone() for name, value in what.extra_state.items()},
    )


def put_back(before: BeforeStep, what: Saveable) -> None:
    """As if the step had not begun."""
    set_random_state(before.randomness)
    what.batches.load_state_dict(before.position)
    with torch.no_grad():
        for name, value in what.extra_state.items():
            value.copy_(before.extra_state[name])


def where_it_stands(what: Saveable) -> dict[str, Any]:
    """What differs from rank to rank."""
    return {"random": random_state(), "batches": what.batches.state_dict()}


def write_checkpoint(
    checkpoints: Path, step: int, what: Saveable, *, lines: Mapping[str, Sequence[int]] | None = None
) -> None:
    """Save everything that the rest of the run depends on. All ranks call it; rank 0 writes, also alone where
    the others noted where they stand and then parted.

    `lines` are checksums of the lines that belong to this checkpoint, by the name of the file in the run.
    """
    if what.each_has_moments:
        checkpoints.mkdir(parents=True, exist_ok=True)
        mine = _moments_of(checkpoints, step, distributed.rank())
        torch.save(what.optimizer.state_dict(), mine)
        flush_to_disk(mine)
        distributed.all_have_written(step)
    standings = distributed.standings(step, where_it_stands(what))
    random_states, positions = ([each[part] for each in standings] for part in ("random", "batches"))
    if distributed.rank() == 0:
        final = checkpoints / f"step_{step:06d}"
        partial = checkpoints / f"{final.name}{PARTIAL}"
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        save_file(_tensors(what.trainable), partial / _TRAINABLE)
        if what.extra_state:
            kept = {name: value.detach().cpu().contiguous() for name, value in what.extra_state.items()}
            save_file(kept, partial / _KEPT)
        if not what.each_has_moments:
            torch.save(what.optimizer.state_dict(), partial / "optimizer.pt")
        else:
            for rank in range(len(standings)):
                _take(_moments_of(checkpoints, step, rank), partial / f"optimizer_{rank}.pt")
        torch.save(random_states, partial / "random.pt")
        state = {"step": step, "batches": positions, "manifest": MANIFEST}
        (partial / _STATE).write_text(json.dumps(state), encoding="utf-8")
        for path in partial.iterdir():
            flush_to_disk(path)
        write_manifest(partial, lines=lines or {})
        if final.exists():
            _remove(final)
        os.replace(partial, final)
        flush_to_disk(checkpoints)
        if (damaged := checkpoints / f"{final.name}{DAMAGED}").exists():
            _remove(damaged)
    distributed.barrier()


def _moments_of(checkpoints: Path, step: int, rank: int) -> Path:
    """Where a rank writes its part of the optimizer's state, for rank 0 to take into the checkpoint."""
    return checkpoints / f"step_{step:06d}.optimizer_{rank}{PARTIAL}"


def _take(written: Path, to: Path) -> None:
    if not written.exists():
        raise ValueError(
            f"{written} is missing: with --shard-optimizer every rank writes its part there; name a folder "
            "that all computers see with --run"
        )
    os.replace(written, to)


def newest_intact(checkpoints: Path) -> tuple[Saved | None, list[str]]:
    """The newest checkpoint that is as it was written, and what is wrong with those after it.

    Raises:
        ValueError: there are checkpoints, and all are damaged.
    """
    problems: list[str] = []
    for saved in reversed(finished_checkpoints(checkpoints)):
        problem = damage_of(saved)
        if not problem:
            return saved, problems
        problems.append(problem)
    if problems:
        raise ValueError(
            f"no checkpoint in {checkpoints} can be used: {'; '.join(problems)}; start the run again in "
            f"another folder with --config {checkpoints.parent / 'config.json'}"
        )
    return None, []


def damage_of(saved: Saved, *, weights_only: bool = False) -> str:
    """What is wrong with a checkpoint, as a sentence that names the file; "" if nothing is.

    `weights_only` looks at what a model is restored from, not at what training goes on from.
    """
    folder = saved.folder
    try:
        if (folder / MANIFEST).exists():
            return damage_by_manifest(folder, only=(_TRAINABLE,) if weights_only else ())
        state = read_json(folder / _STATE)
        if "manifest" in state:
            return f"{folder / MANIFEST} is missing"
        # The last release wrote no manifest.
        if not isinstance(state.get("batches"), list):
            return f"{folder / _STATE} is not what was written"
        read_tensors(folder / _TRAINABLE)
        for name in () if weights_only else ("optimizer.pt", "random.pt"):
            read_saved(folder / name, fix=_FIX)
            with zipfile.ZipFile(folder / name) as archive:
                if archive.testzip() is not None:
                    return f"{folder / name} is not what was written (another checksum)"
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        return str(error).removesuffix(f"; {_FIX}")
    return ""


def set_damaged_aside(checkpoints: Path, *, after: int) -> None:
    """Give the checkpoints after a step another name: they are damaged, and will be written again."""
    for saved in finished_checkpoints(checkpoints):
        if saved.step > after:
            aside = saved.folder.with_name(f"{saved.folder.name}{DAMAGED}")
            if aside.exists():
                _remove(aside)
            os.replace(saved.folder, aside)


def lines_belonging_to(saved: Saved) -> dict[str, list[int]] | None:
    """Checksums of the lines that belong to a checkpoint, by file; None = the last release noted none."""
    return object_or_empty(saved.folder / MANIFEST).get("lines")


def read_checkpoint(saved: Saved, into: Saveable) -> None:
    """Load a checkpoint into modules, optimizer, stream and random generators, on any number of ranks.

    Raises:
        ValueError: its tensors do not fit the modules.
    """
    batches = read_json(saved.folder / _STATE)["batches"]
    load_trainable(saved.folder, into.trainable)
    _put_back(saved.folder, into.extra_state)
    optimizer = into.optimizer
    options = [{name: group[name] for name in group if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(_optimizer_state(saved.folder))
    # Rates come from the schedule, which may have been changed on purpose; only the moments are restored.
    for group, kept in zip(optimizer.param_groups, options, strict=True):
        group.update(kept)
    random_states, rank = read_saved(saved.folder / "random.pt", fix=_FIX), distributed.rank()
    if rank < len(random_states):
        set_random_state(random_states[rank])
    else:
        seed_everything(saved.step * len(random_states) + rank)
    # Streams stand at the same place on all ranks, however many there are.
    into.batches.load_state_dict(batches[min(rank, len(batches) - 1)])


def _optimizer_state(folder: Path) -> dict[str, Any]:
    """The optimizer's state, whole, from the parts that ranks wrote."""
    files = sorted(folder.glob("optimizer_*.pt"))
    if not files:
        return read_saved(folder / "optimizer.pt", fix=_FIX)
    # Each rank keeps what it owns; the pages of the rest are never read.
    parts = [read_saved(file, mapped=True, fix=_FIX) for file in files]
    return {**parts[0], "state": {place: one for part in parts for place, one in part["state"].items()}}


def _put_back(folder: Path, kept: Mapping[str, Tensor]) -> None:
    tensors = read_tensors(folder / _KEPT) if (folder / _KEPT).exists() else {}
    if wrong := sorted(tensors.keys() ^ kept.keys()):
        raise ValueError(
            f"{folder} keeps other things than this run: {len(wrong)} tensors are in only one of them, as "
            f"{wrong[0]!r}"
        )
    with torch.no_grad():
        for name, value in kept.items():
            if tensors[name].shape != value.shape:
                raise ValueError(
                    f"{name!r} is {tuple(tensors[name].shape)} in {folder}; this run has {tuple(value.shape)}"
                )
            value.copy_(tensors[name])


def load_trainable(folder: Path, trainable: Mapping[str, nn.Module]) -> None:
    """Load the trained tensors of a checkpoint folder.

    Raises:
        ValueError: tensors are missing, unknown or of another shape.
    """
    tensors = read_tensors(folder / _TRAINABLE)
    known = {
        f"{name}.{key}": parameter
        for name, module in trainable.items()
        for key, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    wanted = {key for key in tensors if key.split(".", 1)[0] in trainable}
    if wrong := sorted(wanted ^ known.keys()):
        raise ValueError(
            f"{folder} does not fit the model: {len(wrong)} tensors are in only one of them, as {wrong[0]!r}"
        )
    with torch.no_grad():
        for key, parameter in known.items():
            if tensors[key].shape != parameter.shape:
                raise ValueError(
                    f"{key!r} is {tuple(tensors[key].shape)} in {folder}; "
                    f"the model has {tuple(parameter.shape)}"
                )
            parameter.copy_(tensors[key])


def finished_checkpoints(checkpoints: Path) -> list[Saved]:
    """Complete checkpoints, oldest first; other files and folders are passed over."""
    if not checkpoints.is_dir():
        return []
    saved = [
        Saved(step=int(match[1]), folder=folder)
        for folder in checkpoints.iterdir()
        if (match := _STEP.fullmatch(folder.name)) and folder.is_dir()
    ]
    return sorted(saved, key=lambda one: one.step)


def best_step(checkpoints: Path) -> int | None:
    """The step that `best` names; None = there is no such file, or it names none."""
    file = checkpoints / "best"
    if not file.is_file() or file.stat().st_size > _STEP_DIGITS:
        return None
    named = read_whole(file).strip()
    return int(named) if re.fullmatch(rb"[0-9]+", named) else None


def name_best(checkpoints: Path, step: int | None) -> None:
    """Name the best step; None = there is none."""
    if step is None:
        (checkpoints / "best").unlink(missing_ok=True)
    elif step != best_step(checkpoints):
        replace_text(checkpoints / "best", str(step))


def prune(checkpoints: Path, *, keep: int) -> None:
    """Remove what is neither among the newest `keep` nor the best, and what a killed write left behind."""
    for partial in checkpoints.glob(f"*{PARTIAL}"):
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
    best = best_step(checkpoints)
    for saved in finished_checkpoints(checkpoints)[:-keep]:
        if saved.step != best:
            _remove(saved.folder)


def _remove(folder: Path) -> None:
    # Renamed first: what is half removed must not look like a checkpoint.
    doomed = folder.with_name(f"{folder.name}.old{PARTIAL}")
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def _tensors(trainable: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": parameter.detach().cpu().contiguous()
        for name, module in trainable.items()
        for key, parameter in module.named_parameters()
        if parameter.requires_grad
    }
