"""Optional trackers that get the same figures as metrics.jsonl."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Tracker = Literal["wandb", "tensorboard", "trackio"]


@dataclass(frozen=True, kw_only=True)
class Log:
    """Where figures go: `write(figures, step)`, and `close` once the run ends."""

    write: Callable[[dict[str, float], int], object]
    close: Callable[[], object]


def start_trackers(names: Sequence[Tracker], folder: Path, config: dict[str, Any]) -> list[Log]:
    """One log a tracker. A resumed run goes on with the curves of its folder.

    Raises:
        ValueError: a tracker is not installed.
    """
    return [_START[name](folder, config) for name in names]


def require_trackers(names: Sequence[Tracker]) -> None:
    """Look whether the trackers can be imported, without opening them.

    Raises:
        ValueError: one is not installed.
    """
    for name in names:
        _module(name, _MODULES[name])


def _module(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"--track {name}: {error}; pip install 'sightloop[track]'") from error


def _wandb(folder: Path, config: dict[str, Any]) -> Log:
    wandb = _module("wandb", _MODULES["wandb"])
    # Folders of one name are common, so the id holds the whole path.
    code = hashlib.sha1(str(folder.resolve()).encode()).hexdigest()[:8]
    run = wandb.init(
        project="sightloop",
        name=folder.name,
        id=f"{folder.name}-{code}",
        dir=folder,
        config=config,
        resume="allow",
    )
    # wandb's own step cannot go back, as a resume after a crash does.
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return Log(write=lambda metrics, step: run.log({**metrics, "step": step}), close=run.finish)


def _trackio(folder: Path, config: dict[str, Any]) -> Log:
    trackio = _module("trackio", _MODULES["trackio"])
    trackio.init(project="sightloop", name=folder.name, config=config, resume="allow")
    return Log(write=lambda metrics, step: trackio.log(metrics, step=step), close=trackio.finish)


def _tensorboard(folder: Path, config: dict[str, Any]) -> Log:
    writer = _module("tensorboard", _MODULES["tensorboard"]).SummaryWriter(folder / "tensorboard")
    writer.add_text("config", str(config))

    def write(metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return Log(write=write, close=writer.close)


_MODULES: dict[Tracker, str] = {
    "wandb": "wandb",
    "tensorboard": "torch.utils.tensorboard",
    "trackio": "trackio",
}
_START: dict[Tracker, Callable[[Path, dict[str, Any]], Log]] = {
    "wandb": _wandb,
    "tensorboard": _tensorboard,
    "trackio": _trackio,
}
