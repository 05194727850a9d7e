"""From a configuration to a trained run."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from sightloop import accelerator
from sightloop.late import late
from sightloop.planning.precision import precisions
from sightloop.process.long_work import speaks_itself
from sightloop.process.signals import Ended
from sightloop.recipes.catalog import RECIPES
from sightloop.recipes.config_json import config_to_json
from sightloop.recipes.inputs import IDENTITY, about_inputs
from sightloop.runs.identity import require_same_inputs, write_identity
from sightloop.runs.trust import mark_as_own
from sightloop.storage.environment import run_environment
from sightloop.storage.owner import owned
from sightloop.terminal import say
from sightloop.training import distributed
from sightloop.training.experiment import Experiment
from sightloop.training.heap import giving_back
from sightloop.training.loop import train
from sightloop.training.memory import OutOfMemoryError, phase
from sightloop.training.run_files import Run
from sightloop.training.run_folder import given_back_if_it_fails, require_room, reserve
from sightloop.training.tracking import require_trackers

# Looks at nothing before a run has ended.
_write_report = late("sightloop.report.page:write_report")
_STATES = 3
"""Of a trained number: itself and Adam's two moments, four bytes each."""


def launch(
    name: str,
    config: Any,
    folder: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> bool:
    """Train recipe `name` in `folder`; every rank calls it. `changes` are settings of `config` that a resumed
    run did not have before. Whether a signal asked for the end, so that nothing long should follow.

    Raises:
        ValueError: a setting or file that cannot work, with the value and the fix; or out of memory.
    """
    distributed.start()
    try:
        with ExitStack() as held:
            if resume:
                stopped = _resume(name, config, folder, changes=changes or {}, held=held)
            else:
                stopped = _start(name, config, folder, overwrite=overwrite, held=held)
    except OutOfMemoryError as error:
        # The plan builds every network's shapes: loaded only where it is asked.
        advise = import_module("sightloop.planning.advice").out_of_memory_message
        raise ValueError(advise(error, config, folder, num_ranks=distributed.num_ranks())) from error
    distributed.stop()
    return stopped


def _start(name: str, config: Any, folder: Path, *, overwrite: bool, held: ExitStack) -> bool:
    """What is cheap to look at first, then what is loaded, then the folder, then the first step."""
    require_room(folder, overwrite=overwrite)
    require_trackers(config.track)
    claimed = False

    def claim() -> None:
        nonlocal claimed, config
        config = RECIPES[name].settled(config)
        kept = "; ".join(f"{name}: {value}" for name, value in precisions(config).items())
        around = {**run_environment(ranks=distributed.num_ranks()), "precision": kept}
        saved = config_to_json(config)
        reserve(folder, recipe=name, config=saved, environment=around, overwrite=overwrite)
        mark_as_own(folder)
        _own(folder, held)
        held.enter_context(given_back_if_it_fails(folder))
        claimed = True

    experiment = _built(name, config, folder, claim=claim)
    if not claimed:
        claim()
    _require_disk(experiment, folder)
    if distributed.rank() == 0:
        write_identity(config, folder)
    return _drive(name, config, folder, experiment=experiment, run=Run)


def _resume(name: str, config: Any, folder: Path, *, changes: Mapping[str, Any], held: ExitStack) -> bool:
    _own(folder, held)
    require_same_inputs(config, folder)
    experiment = _built(name, config, folder)
    given = about_inputs()
    if distributed.rank() == 0 and (
        given.relocated or given.allow_changed or not (folder / IDENTITY).exists()
    ):
        write_identity(config, folder)
    return _drive(name, config, folder, experiment=experiment, run=partial(Run.resume, changes=changes))


def _own(folder: Path, held: ExitStack) -> None:
    if distributed.rank() == 0:
        held.enter_context(owned(folder))


def _built(name: str, config: Any, folder: Path, **how: Any) -> Experiment[Any, Any]:
    accelerator.multiply_in_tf32(config.tf32)
    begun = time.monotonic()
    with phase("models were loaded", 0):
        experiment = import_module(RECIPES[name].builder).build(config, folder, **how)
    if distributed.rank() == 0:
        say(f"loaded the models of {folder}, {time.monotonic() - begun:.0f} s", is_error=True)
    return experiment


def _require_disk(experiment: Experiment[Any, Any], folder: Path) -> None:
    """Refuse a run whose checkpoints would not fit: those that are kept, the best, and one being written."""
    numbers = sum(
        parameter.numel()
        for module in experiment.trainable.values()
        for parameter in module.parameters()
        if parameter.requires_grad
    )
    kept = sum(tensor.numel() * tensor.element_size() for tensor in experiment.extra_state.values())
    count = experiment.schedule.keep_checkpoints + 2
    needed = (numbers * 4 * _STATES + kept) * count
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"the disk of {folder} has {free / 2**30:.1f} GiB left; {count} checkpoints take "
            f"{needed / 2**30:.1f} GiB: make room, name another place with --run, or keep fewer with "
            "--keep-checkpoints"
        )


def _drive(name: str, config: Any, folder: Path, *, experiment: Experiment[Any, Any], run: Any) -> bool:
    """Everything is built before trackers hear of the run; then it trains."""
    opened: Run = run(folder, config=config_to_json(config), schedule=config.schedule, track=config.track)
    opened.stop_on_signals()
    if not experiment.evaluators:
        opened.say(f"nothing is evaluated in this run; {RECIPES[name].to_evaluate}")
    try:
        with speaks_itself():
            train(giving_back(experiment), opened)
        if not opened.stop.requested:
            opened.trackers.publish(_write_report)
    finally:
        opened.close()
    if opened.stop.by_interrupt:
        raise Ended(signal.SIGINT)
    return opened.stop.requested
