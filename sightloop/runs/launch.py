"""From a configuration to a trained run."""

from __future__ import annotations

import signal
from importlib import import_module
from pathlib import Path
from typing import Any

from sightloop import accelerator
from sightloop.recipes.catalog import RECIPES
from sightloop.recipes.config_json import config_to_json
from sightloop.planning.precision import precisions
from sightloop.process.signals import Ended
from sightloop.runs.trust import mark_as_own
from sightloop.training import distributed
from sightloop.training.heap import giving_back
from sightloop.training.loop import train
from sightloop.training.memory import OutOfMemoryError, phase
from sightloop.training.run_folder import given_back_if_it_fails, reserve
from sightloop.training.run_files import Run, run_environment


def launch(name: str, config: Any, folder: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Train recipe `name` in `folder`; every rank calls it.

    Raises:
        ValueError: a setting or file that cannot work, with the value and the fix; or out of memory.
    """
    distributed.start()
    try:
        if resume:
            return _drive(name, config, folder, resume=True)
        saved = config_to_json(config)
        kept = "; ".join(f"{name}: {value}" for name, value in precisions(config).items())
        around = {**run_environment(), "precision": kept}
        reserve(folder, recipe=name, config=saved, environment=around, overwrite=overwrite)
        mark_as_own(folder)
        with given_back_if_it_fails(folder):
            _drive(name, config, folder)
    except OutOfMemoryError as error:
        # The plan builds every network's shapes: loaded only where it is asked.
        advise = import_module("sightloop.planning.advice").out_of_memory_message
        raise ValueError(advise(error, config, folder, num_ranks=distributed.num_ranks())) from error
    finally:
        distributed.stop()


def _drive(name: str, config: Any, folder: Path, *, resume: bool = False) -> None:
    """Build everything before trackers hear of the run, then train."""
    open_run = Run.resume if resume else Run
    accelerator.multiply_in_tf32(config.tf32)
    with phase("models were loaded", 0):
        experiment = import_module(RECIPES[name].builder).build(config, folder)
    run = open_run(folder, config=config_to_json(config), schedule=config.schedule, track=config.track)
    run.stop_on_signals()
    if not experiment.evaluators:
        run.say(f"nothing is evaluated in this run; {RECIPES[name].to_evaluate}")
    try:
        train(giving_back(experiment), run)
    finally:
        run.close()
    if run.stop.by_interrupt:
        raise Ended(signal.SIGINT)
