"""What the command `demo` does: a run of the embedded world by its preset, and images before and after."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from sightloop.evaluators.image_sheets import drawn_by_run, write_sheet
from sightloop.recipes.catalog import RECIPES
from sightloop.runs.launch import launch
from sightloop.runs.restore import saved_step

Demo = Literal["unirl", "vlrm"]
_RECIPES = {"unirl": "unirl-grpo", "vlrm": "vlrm"}
_SHORT: dict[str, Any] = {"steps": 50, "eval_every": 25}
"""Half of Show-o's preset, which would take longer than a demonstration should."""
_MINUTES = {("vlrm", "show-o"): 6, ("unirl", "show-o"): 5, ("unirl", "janus"): 3}
"""CPU minutes that were measured."""
_MAX_THREADS = 8
"""More wait for each other in operations so small."""


def demo_config(
    demo: Demo,
    world_model: Literal["show-o", "janus"] = "show-o",
    *,
    steps: int | None = None,
    seed: int = 0,
) -> Any:
    """The settings of a demonstration: a preset of the embedded world, of so many steps."""
    config = RECIPES[_RECIPES[demo]].presets["shapes-janus" if world_model == "janus" else "shapes"]
    schedule = replace(config.schedule, **(_SHORT if (demo, world_model) == ("unirl", "show-o") else {}))
    if steps is not None:
        schedule = replace(schedule, steps=steps, eval_every=min(schedule.eval_every, steps))
    return replace(config, schedule=replace(schedule, seed=seed))


def minutes(demo: Demo, world_model: Literal["show-o", "janus"], steps: int) -> int:
    """About how long so many steps take on one core, evaluations among them."""
    whole = demo_config(demo, world_model).schedule.steps
    return max(1, round(_MINUTES[demo, world_model] * steps / whole))


def train_demo(demo: Demo, config: Any, folder: Path) -> bool:
    """Train it in `folder`, on as many cores as help a model so small; whether a signal asked for the end.

    Raises:
        ValueError: the folder holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder} is there already, and a demonstration replaces nothing; name another --run"
        )
    torch.set_num_threads(min(torch.get_num_threads(), _MAX_THREADS))
    return launch(_RECIPES[demo], config, folder, overwrite=False)


def before_after_sheet(folder: Path) -> Path:
    """Write a sheet of the same prompts and seeds, drawn before training and by the best step.

    Raises:
        ValueError: the run was not evaluated at both, or kept no images.
    """
    best, sheet = saved_step(folder, "best").step, folder / "before_after.png"
    sides = {"before": drawn_by_run(folder, 0), f"after {best} steps": drawn_by_run(folder, best)}
    write_sheet(sheet, sides)
    return sheet
