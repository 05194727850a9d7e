"""`sightloop.train`: from settings, or a configuration, to a trained run."""

from __future__ import annotations

import itertools
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sightloop.api.settings import configured, give_again
from sightloop.api.training_run import TrainingRun
from sightloop.process import ranks
from sightloop.process.boundary import ended_in_one_sentence
from sightloop.recipes.inputs import settings_of_run
from sightloop.runs.changes import changed_settings
from sightloop.runs.launch import launch
from sightloop.runs.trust import require_trust
from sightloop.training import distributed
from sightloop.training.run_folder import recover


def train(
    recipe: str | Any = "vlrm",
    *,
    run: str | os.PathLike[str] | None = None,
    preset: str = "",
    rewards: Any = None,
    overwrite: bool = False,
    resume: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> TrainingRun:
    """Train, and hand back the run.

    `recipe` is "vlrm", "grpo", "unirl-grpo" or "unirl-sft", or a whole configuration (`VlrmConfig`,
    `RowsConfig`, `GrpoConfig`, `SftConfig`). Settings are keywords, called as on the command line (`steps`,
    `learning_rate`, `policy` or `model`, `judge`, `images`, `rows`, `batch`; `held_out__clip` for
    `--held-out.clip`), groups of them mappings or dataclasses. `images`, `rows` and `held_out` take a folder,
    a glob, a list (of PIL images; of rows as mappings), a `datasets.Dataset`, map-style or streaming. Without
    a policy, the embedded world's tiny one learns on its own images.

    `rewards` are all rewards of the run by name, each a weight, a function, or both as (function, weight):
    `{"similarity": 1, "short": my_function, "clip:FOLDER": 0.5}`; or a list of functions as for TRL. Without
    it the recipe's own.

    `run` is the run's folder, by default the first free one of runs/vlrm, runs/vlrm-2 and so on. `resume`
    goes on with a run, longer with more `steps`; what it took from a program is given again, as `images` and
    `rewards`.
    Functions in files that a run of somebody else names run only with `trust_rewards=True`.
    Under torchrun every process calls this; there an error ends all of them, with one sentence.

    Raises:
        ValueError: a setting, file or model that cannot work, with the value and the fix.
    """
    several = ranks.num_processes() > 1
    with ended_in_one_sentence(["train"]) if several else nullcontext():
        distributed.connect()
        return _trained(
            recipe, run=run, preset=preset, rewards=rewards, overwrite=overwrite, resume=resume, **settings
        )


def _trained(
    recipe: Any,
    *,
    run: Any,
    preset: str,
    rewards: Any,
    overwrite: bool,
    resume: Any,
    **settings: Any,
) -> TrainingRun:
    if resume is not None:
        if run is not None or preset or overwrite:
            raise ValueError("run, preset and overwrite have no effect with resume; leave them out")
        folder = Path(resume)
        recover(folder)
        if not settings.pop("trust_rewards", False):
            # What the run names may be anybody's code.
            require_trust("--resume", str(folder))
        name, before = settings_of_run(folder)
        rest = give_again(before, rewards=rewards, settings=settings)
        config = configured(before, settings=rest)[1]
        changes = changed_settings(before, config, run=folder)
        return TrainingRun(folder, stopped=launch(name, config, folder, resume=True, changes=changes))
    name, config = configured(recipe, preset=preset, rewards=rewards, settings=settings)
    folder = _free_folder(name) if run is None else Path(run)
    return TrainingRun(folder, stopped=launch(name, config, folder, overwrite=overwrite))


def _free_folder(recipe: str) -> Path:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("several processes train one run; name its folder: run='runs/NAME'")
    names = itertools.chain([recipe], (f"{recipe}-{number}" for number in itertools.count(2)))
    return next(folder for name in names if not (folder := Path("runs") / name).exists())
