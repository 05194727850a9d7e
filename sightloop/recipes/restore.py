"""From a run folder back to its captioner."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from sightloop.recipes.config_json import config_from_json
from sightloop.recipes.vlrm import AnyCaptioner, base_model, load_policy
from sightloop.recipes.vlrm_config import VlrmConfig
from sightloop.training import checkpoint


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A captioner as a run left it."""

    policy: AnyCaptioner
    config: VlrmConfig
    base: str
    """The model the run started from."""
    step: int


def is_run(name: str | Path) -> bool:
    """Whether this is a run folder."""
    return (Path(name) / "metrics.jsonl").is_file()


def load_captioner(name: str, *, device: torch.device) -> AnyCaptioner:
    """The captioner of a run, of a model folder or hub name, or the embedded world's if `name` is empty."""
    if name and is_run(name):
        return restore(Path(name), "best", device=device).policy
    return load_policy(VlrmConfig(policy=name, dtype="float32"), device)


def restore(run: Path, step: str, *, device: torch.device) -> Restored:
    """The captioner of a run at its `best` or `last` checkpoint or at a step.

    Raises:
        ValueError: the folder is no run, or the run has no such checkpoint.
    """
    config = read_config(run)
    chosen = _choose(run, step)
    policy = load_policy(config, device)
    checkpoint.load_trainable(chosen.folder, {"policy": policy.bridge()})
    return Restored(policy=policy, config=config, base=base_model(config), step=chosen.step)


def read_config(run: Path) -> VlrmConfig:
    """The configuration of a run.

    Raises:
        ValueError: the folder is no run.
    """
    path = run / "config.json"
    if not path.is_file():
        raise ValueError(f"{run} is not a run folder: it has no config.json")
    return config_from_json(VlrmConfig, json.loads(path.read_text(encoding="utf-8"))["config"])


def _choose(run: Path, step: str) -> checkpoint.Saved:
    saved = {each.step: each for each in checkpoint.finished_checkpoints(run / "checkpoints")}
    if not saved:
        raise ValueError(f"{run} has no checkpoint yet")
    best = checkpoint.best_step(run / "checkpoints")
    if step == "last" or (step == "best" and best not in saved):
        return saved[max(saved)]
    wanted = best if step == "best" else int(step) if step.isdigit() else None
    if wanted not in saved:
        raise ValueError(
            f"{run} has no checkpoint {step!r}; there are: best, last, {', '.join(map(str, saved))}"
        )
    return saved[wanted]
