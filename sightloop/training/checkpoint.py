"""Checkpoints that survive a crash: written under a temporary name, flushed to disk, then renamed."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sightloop.training import distributed

_PARTIAL = ".partial"


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint on disk."""

    step: int
    folder: Path


def write_checkpoint(
    checkpoints: Path,
    step: int,
    *,
    trainable: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    batches_state: dict[str, Any],
) -> None:
    """Save everything that the rest of the run depends on. All ranks call it; rank 0 writes."""
    random_states = distributed.gather(_random_state())
    positions = distributed.gather(batches_state)
    if distributed.rank() == 0:
        final = checkpoints / f"step_{step:06d}"
        partial = checkpoints / f"step_{step:06d}{_PARTIAL}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_tensors(trainable), partial / "trainable.safetensors")
        torch.save(optimizer.state_dict(), partial / "optimizer.pt")
        torch.save(random_states, partial / "random.pt")
        (partial / "state.json").write_text(json.dumps({"step": step, "batches": positions}), encoding="utf-8")
        for file in partial.iterdir():
            _flush(file)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        _flush(checkpoints)
    distributed.barrier()


def read_checkpoint(
    saved: Saved, *, trainable: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Load a checkpoint into the modules and the optimizer; returns where the batches stand.

    Raises:
        ValueError: it was written by another number of ranks, or its tensors do not fit the modules.
    """
    state = json.loads((saved.folder / "state.json").read_text(encoding="utf-8"))
    if len(state["batches"]) != distributed.num_ranks():
        raise ValueError(
            f"{saved.folder} was written by {len(state['batches'])} ranks and this run has {distributed.num_ranks()}; "
            "resume with the same number"
        )
    load_trainable(saved.folder, trainable)
    optimizer.load_state_dict(torch.load(saved.folder / "optimizer.pt", weights_only=True))
    random_states = torch.load(saved.folder / "random.pt", weights_only=True)
    _set_random_state(random_states[distributed.rank()])
    return state["batches"][distributed.rank()]


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
        raise ValueError(f"{folder} does not fit the model: {len(wrong)} tensors differ, the first is {wrong[0]!r}")
    with torch.no_grad():
        for key, parameter in known.items():
            if tensors[key].shape != parameter.shape:
                raise ValueError(
                    f"{key!r} in {folder} is {tuple(tensors[key].shape)}, the model wants {tuple(parameter.shape)}"
                )
            parameter.copy_(tensors[key])


def finished_checkpoints(checkpoints: Path) -> list[Saved]:
    """Complete checkpoints, oldest first."""
    if not checkpoints.is_dir():
        return []
    folders = [folder for folder in checkpoints.glob("step_*") if folder.suffix != _PARTIAL]
    return [Saved(step=int(folder.name.removeprefix("step_")), folder=folder) for folder in sorted(folders)]


def best_step(checkpoints: Path) -> int | None:
    """The step that `best` names."""
    file = checkpoints / "best"
    return int(file.read_text(encoding="utf-8")) if file.exists() else None


def name_best(checkpoints: Path, step: int) -> None:
    """Name the best step."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    temporary = checkpoints / "best.tmp"
    temporary.write_text(str(step), encoding="utf-8")
    os.replace(temporary, checkpoints / "best")


def prune(checkpoints: Path, *, keep: int) -> None:
    """Remove what is neither among the newest `keep` nor the best, and what a killed write left behind."""
    for partial in checkpoints.glob(f"*{_PARTIAL}"):
        shutil.rmtree(partial)
    best = best_step(checkpoints)
    for saved in finished_checkpoints(checkpoints)[:-keep]:
        if saved.step != best:
            shutil.rmtree(saved.folder)


def _tensors(trainable: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": parameter.detach().cpu().contiguous()
        for name, module in trainable.items()
        for key, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _random_state() -> dict[str, Any]:
    kind, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [str(kind), torch.from_numpy(np.array(keys, dtype=np.int64)), position, has_gauss, float(cached)],
        "python": [version, list(internal), gauss],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
