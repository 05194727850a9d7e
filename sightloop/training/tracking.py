"""Optional trackers that get the same figures as metrics.jsonl."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

Tracker = Literal["wandb", "tensorboard", "trackio"]
Log = Callable[[dict[str, float], int], None]


def start_trackers(names: Sequence[Tracker], folder: Path, config: dict[str, Any]) -> list[Log]:
    """One logging function a tracker.

    Raises:
        ValueError: a tracker is not installed.
    """
    return [_START[name](folder, config) for name in names]


def _module(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"--track {name} needs a package that is missing: pip install 'sightloop[track]'") from error


def _wandb(folder: Path, config: dict[str, Any]) -> Log:
    wandb = _module("wandb", "wandb")
    # The same id lets a resumed run continue its curves.
    run = wandb.init(project="sightloop", name=folder.name, id=folder.name, dir=folder, config=config, resume="allow")
    return lambda metrics, step: run.log(metrics, step=step)


def _trackio(folder: Path, config: dict[str, Any]) -> Log:
    trackio = _module("trackio", "trackio")
    trackio.init(project="sightloop", name=folder.name, config=config, resume="allow")
    return lambda metrics, step: trackio.log(metrics, step=step)


def _tensorboard(folder: Path, config: dict[str, Any]) -> Log:
    writer = _module("tensorboard", "torch.utils.tensorboard").SummaryWriter(folder / "tensorboard")
    writer.add_text("config", str(config))

    def log(metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return log


_START: dict[Tracker, Callable[[Path, dict[str, Any]], Log]] = {
    "wandb": _wandb,
    "tensorboard": _tensorboard,
    "trackio": _trackio,
}
