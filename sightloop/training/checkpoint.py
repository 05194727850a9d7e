"""Checkpoints that survive a crash: written under a temporary name, flushed to disk, then renamed."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sightloop.models.open import read_saved
from sightloop.training import distributed
from sightloop.training.randomness import random_state, set_random_state

_PARTIAL = ".partial"
_FIX = "remove this checkpoint's folder; --resume then goes on from the one before it"
_KEPT = "kept.safetensors"


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


def write_checkpoint(checkpoints: Path, step: int, what: Saveable) -> None:
    """Save everything that the rest of the run depends on. All ranks call it; rank 0 writes."""
    random_states = distributed.gather(random_state())
    positions = distributed.gather(what.batches.state_dict())
    if distributed.rank() == 0:
        final = checkpoints / f"step_{step:06d}"
        partial = checkpoints / f"{final.name}{_PARTIAL}"
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        save_file(_tensors(what.trainable), partial / "trainable.safetensors")
        if what.extra_state:
            kept = {name: value.detach().cpu().contiguous() for name, value in what.extra_state.items()}
            save_file(kept, partial / _KEPT)
        torch.save(what.optimizer.state_dict(), partial / "optimizer.pt")
        torch.save(random_states, partial / "random.pt")
        state = {"step": step, "batches": positions}
        (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
        for path in [*partial.iterdir(), partial]:
            flush_to_disk(path)
        if final.exists():
            _remove(final)
        os.replace(partial, final)
        flush_to_disk(checkpoints)
    distributed.barrier()


def read_checkpoint(saved: Saved, into: Saveable) -> None:
    """Load a checkpoint into modules, optimizer, stream and random generators.

    Raises:
        ValueError: it was written by another number of ranks, or its tensors do not fit the modules.
    """
    state = json.loads((saved.folder / "state.json").read_text(encoding="utf-8"))
    if len(state["batches"]) != distributed.num_ranks():
        raise ValueError(
            f"{saved.folder} was written by {len(state['batches'])} ranks and this run has "
            f"{distributed.num_ranks()}; resume with the same number"
        )
    load_trainable(saved.folder, into.trainable)
    _put_back(saved.folder, into.extra_state)
    optimizer = into.optimizer
    options = [{name: group[name] for name in group if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(read_saved(saved.folder / "optimizer.pt", fix=_FIX))
    # Rates come from the schedule, which may have been changed on purpose; only the moments are restored.
    for group, kept in zip(optimizer.param_groups, options, strict=True):
        group.update(kept)
    random_states = read_saved(saved.folder / "random.pt", fix=_FIX)
    set_random_state(random_states[distributed.rank()])
    into.batches.load_state_dict(state["batches"][distributed.rank()])


def _put_back(folder: Path, kept: Mapping[str, Tensor]) -> None:
    tensors = load_file(folder / _KEPT) if (folder / _KEPT).exists() else {}
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
    tensors = load_file(folder / "trainable.safetensors")
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
    """Complete checkpoints, oldest first."""
    if not checkpoints.is_dir():
        return []
    folders = [folder for folder in checkpoints.glob("step_*") if folder.suffix != _PARTIAL]
    saved = [Saved(step=int(folder.name.removeprefix("step_")), folder=folder) for folder in folders]
    return sorted(saved, key=lambda one: one.step)


def best_step(checkpoints: Path) -> int | None:
    """The step that `best` names."""
    file = checkpoints / "best"
    return int(file.read_text(encoding="utf-8")) if file.exists() else None


def name_best(checkpoints: Path, step: int | None) -> None:
    """Name the best step; None = there is none."""
    if step is None:
        (checkpoints / "best").unlink(missing_ok=True)
    elif step != best_step(checkpoints):
        temporary = checkpoints / f"best{_PARTIAL}"
        temporary.write_text(str(step), encoding="utf-8")
        os.replace(temporary, checkpoints / "best")


def prune(checkpoints: Path, *, keep: int) -> None:
    """Remove what is neither among the newest `keep` nor the best, and what a killed write left behind."""
    for partial in checkpoints.glob(f"*{_PARTIAL}"):
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
    best = best_step(checkpoints)
    for saved in finished_checkpoints(checkpoints)[:-keep]:
        if saved.step != best:
            _remove(saved.folder)


def _remove(folder: Path) -> None:
    # Renamed first: what is half removed must not look like a checkpoint.
    doomed = folder.with_name(f"{folder.name}.old{_PARTIAL}")
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def _tensors(trainable: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": parameter.detach().cpu().contiguous()
        for name, module in trainable.items()
        for key, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def flush_to_disk(path: Path) -> None:
    """Make a file or a folder's names survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
