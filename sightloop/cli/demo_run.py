"""What the command `demo` does: a run of the embedded world by its preset, and images before and after."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from sightloop.evaluators.image_sheets import drawn_by_run, write_sheet
from sightloop.recipes.catalog import RECIPES
from sightloop.runs.launch import launch
from sightloop.runs.restore import saved_step
from sightloop.training.run_folder import NoRunError

Demo = Literal["unirl", "vlrm"]
_RECIPES = {"unirl": "unirl-grpo", "vlrm": "vlrm"}
_SHORT: dict[str, Any] = {"steps": 50, "eval_every": 25}
"""Half of Show-o's preset, which would take longer than a demonstration should."""


def demo_config(demo: Demo, world_model: Literal["show-o", "janus"] = "show-o") -> Any:
    """The settings of a demonstration: a preset of the embedded world."""
    presets = RECIPES[_RECIPES[demo]].presets
    if demo == "vlrm":
        return presets["shapes"]
    if world_model == "janus":
        return presets["shapes-janus"]
    config = presets["shapes"]
    return replace(config, schedule=replace(config.schedule, **_SHORT))


def train_demo(demo: Demo, config: Any, folder: Path) -> bool:
    """Train it in `folder`, in place of an older run there; whether a signal asked for the end.

    Raises:
        ValueError: the folder holds something that is no run.
    """
    try:
        return launch(_RECIPES[demo], config, folder, overwrite=True)
    except NoRunError as error:
        raise ValueError(f"{folder} is not empty and not a run; name another folder with --run") from error


def before_after_sheet(folder: Path) -> Path:
    """Write a sheet of the same prompts and seeds, drawn before training and by the best step.

    Raises:
        ValueError: the run was not evaluated at both, or kept no images.
    """
    best, sheet = saved_step(folder, "best").step, folder / "before_after.png"
    sides = {"before": drawn_by_run(folder, 0), f"after {best} steps": drawn_by_run(folder, best)}
    write_sheet(sheet, sides)
    return sheet
