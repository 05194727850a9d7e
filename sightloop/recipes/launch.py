"""From a configuration to a trained run."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from sightloop.recipes.catalog import RECIPES
from sightloop.recipes.config_json import config_to_json
from sightloop.training import distributed
from sightloop.training.loop import train
from sightloop.training.runlog import Run


def launch(name: str, config: Any, folder: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Train recipe `name` in `folder`; every rank calls it.

    Raises:
        ValueError: a setting or file that cannot work, with the value and the fix.
    """
    distributed.start()
    try:
        saved = config_to_json(config)
        if resume:
            run = Run.resume(folder, config=saved, schedule=config.schedule, track=config.track)
        else:
            run = Run.create(
                folder,
                recipe=name,
                config=saved,
                schedule=config.schedule,
                overwrite=overwrite,
                track=config.track,
            )
        experiment = import_module(RECIPES[name].builder).build(config, folder)
        run.stop_on_signals()
        try:
            train(experiment, run)
        finally:
            run.close()
    finally:
        distributed.stop()
