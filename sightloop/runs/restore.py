"""From a run folder back to its captioner."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sightloop.recipes.catalog import RECIPES
from sightloop.recipes.config_json import config_of_run
from sightloop.recipes.vlrm.build import AnyCaptioner, base_model, load_policy
from sightloop.recipes.vlrm.config import VlrmConfig
from sightloop.training import checkpoint
from sightloop.training.run_files import is_run


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A captioner as a run left it."""

    policy: AnyCaptioner
    config: VlrmConfig
    base: str
    """The model the run started from."""
    step: int




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
    chosen = saved_step(run, step)
    policy = load_policy(config, device)
    checkpoint.load_trainable(chosen.folder, {"policy": policy.bridge()})
    return Restored(policy=policy, config=config, base=base_model(config), step=chosen.step)


def read_config(run: Path) -> VlrmConfig:
    """The configuration of a captioner's run.

    Raises:
        ValueError: the folder is no run, or not one of a captioner.
    """
    recipe, config = recipe_and_config(run)
    if not isinstance(config, VlrmConfig):
        raise ValueError(f"{run} is a run of {recipe}, whose model draws and answers; name a captioner's run")
    return config


def recipe_and_config(run: Path) -> tuple[str, Any]:
    """Name of a run's recipe, and its configuration.

    Raises:
        ValueError: the folder is no run, or its recipe or a setting of it is not known here.
    """
    path = run / "config.json"
    if not path.is_file():
        raise ValueError(f"{run} is not a run folder: it has no config.json")
    saved = json.loads(path.read_text(encoding="utf-8"))
    recipe = saved.get("recipe")
    if recipe not in RECIPES:
        raise ValueError(f"{run} is not a run folder: its config.json names none of {', '.join(RECIPES)}")
    return recipe, config_of_run(RECIPES[recipe].config, saved)


def saved_step(run: Path, step: str) -> checkpoint.Saved:
    """The checkpoint of a run that is called `best`, `last` or by its step.

    Raises:
        ValueError: there is none.
    """
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
