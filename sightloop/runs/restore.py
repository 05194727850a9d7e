"""From a run folder back to its policy, of whatever family; policies by any name that a user gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from sightloop.models.families import Family, Parts, WorldModel, draws
from sightloop.models.named_models import captioner_family, generator_family
from sightloop.models.open import local_folder
from sightloop.models.precision import DTYPES
from sightloop.models.protocols import Captioner, ImageGenerator
from sightloop.recipes.captioner_runs import as_captions, trains_captioner
from sightloop.recipes.image_policies import load_image_policy, world_folder
from sightloop.recipes.inputs import settings_of_run
from sightloop.recipes.rows.config import RowsConfig
from sightloop.recipes.unirl import build as unirl
from sightloop.recipes.unirl.config import UniConfig
from sightloop.recipes.vlrm import build as vlrm
from sightloop.recipes.vlrm.config import VlrmConfig
from sightloop.runs.identity import require_same_policy
from sightloop.terminal import say
from sightloop.training import checkpoint, distributed
from sightloop.training.run_files import is_run

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A policy as a run left it."""

    policy: Any
    """A `Captioner` or an `ImageGenerator`."""
    config: Any
    step: int

    @property
    def base(self) -> str:
        """The model that the run started from."""
        return start_of(self.config)


def start_of(config: VlrmConfig | RowsConfig | UniConfig) -> str:
    """The model that a run of this configuration starts from."""
    if not isinstance(config, UniConfig):
        return vlrm.base_model(as_captions(config))
    return config.policy or f"{config.world_model} of the embedded world"


def start_folder(config: UniConfig) -> Path:
    """The folder that a run of this configuration starts from."""
    return local_folder(config.policy) if config.policy else world_folder(config.world_model)


def restore(run: Path, step: str, *, device: torch.device, dtype: Precision | None = None) -> Restored:
    """The policy of a run at its `best` or `last` checkpoint or at a step.

    Frozen weights are in `dtype`; None = as in training.

    Raises:
        ValueError: the folder is no run, or the run has no such checkpoint.
    """
    config = settings_of_run(run)[1]
    saved_step(run, step)
    policy = _start(config, run, device, dtype)
    while True:
        chosen = saved_step(run, step)
        try:
            checkpoint.load_trainable(chosen.folder, {"policy": policy.trainable_module()})
            return Restored(policy=policy, config=config, step=chosen.step)
        except (ValueError, OSError):
            # A run that goes on removes older checkpoints; the next look finds a newer one.
            if chosen.folder.is_dir():
                raise


def before_training(
    run: Path, *, device: torch.device, dtype: Precision | None = None
) -> Captioner | ImageGenerator:
    """The policy that a run started from.

    Raises:
        ValueError: the folder is no run.
    """
    return _start(settings_of_run(run)[1], run, device, dtype)


def open_policy(
    name: str, *, device: torch.device, world_model: WorldModel = "show-o"
) -> Captioner | ImageGenerator:
    """The policy of a run (its best step), of a model's folder or hub name, or the embedded world's
    `world_model` if `name` is empty; in float32.

    Raises:
        ValueError: no such model, or one that cannot be driven.
    """
    if name and is_run(name):
        is_image = isinstance(settings_of_run(Path(name))[1], UniConfig)
        return restore(Path(name), "best", device=device, dtype="float32" if is_image else None).policy
    if name and not draws(Path(name)):
        return open_captioner(name, device=device)
    return load_image_policy(name, device=device, world_model=world_model)


def open_captioner(
    name: str, *, device: torch.device, dtype: Literal["float32", "bfloat16"] | None = None
) -> Captioner:
    """The captioner of a run, of a model folder or hub name, or the embedded world's if `name` is empty.

    Frozen weights are in `dtype`; None = a run's own, else float32.

    Raises:
        ValueError: none of these, or a run of another kind of model.
    """
    if not name or not is_run(name):
        return vlrm.load_trained_captioner(VlrmConfig(policy=name, dtype=dtype or "float32"), device)
    read_config(Path(name))
    return restore(Path(name), "best", device=device, dtype=dtype).policy


def open_generator(
    name: str, *, world_model: WorldModel, parts: Parts, dtype: Precision, device: str
) -> ImageGenerator:
    """The image generator of a run, of a model's folder, or the embedded world's if `name` is empty.

    Raises:
        ValueError: none of these, or parts that are named for a run, which has its own.
    """
    where = distributed.device(device)
    if not name or not is_run(name):
        return load_image_policy(
            name, device=where, dtype=DTYPES[dtype], world_model=world_model, parts=parts
        )
    if parts != Parts():
        raise ValueError(
            f"{name} is a run, which knows its parts; leave --magvit, --tokenizer, --tower and strings of "
            "prompts out"
        )
    image_config(Path(name))
    return restore(Path(name), "best", device=where, dtype=dtype).policy


def read_config(run: Path) -> VlrmConfig:
    """The configuration of a captioner's run, of another recipe as that of one that captions.

    Raises:
        ValueError: the folder is no run, or not one of a captioner.
    """
    recipe, config = settings_of_run(run)
    if not trains_captioner(config):
        raise ValueError(f"{run} is a run of {recipe}, whose model draws and answers; name a captioner's run")
    return as_captions(config)


def image_config(run: Path) -> UniConfig:
    """The configuration of an image generator's run.

    Raises:
        ValueError: the folder is no run, or one of another kind of model.
    """
    recipe, config = settings_of_run(run)
    if not isinstance(config, UniConfig):
        raise ValueError(f"{run} is a run of {recipe}, whose model cannot draw; name a run of unirl-grpo")
    return config


def saved_step(run: Path, step: str) -> checkpoint.Saved:
    """The checkpoint of a run that is called `best`, `last` or by its step.

    Of damaged ones, the last is passed over with a line that names it.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    saved = {each.step: each for each in checkpoint.finished_checkpoints(run / "checkpoints")}
    if not saved:
        raise ValueError(f"{run} has no checkpoint yet")
    best = checkpoint.best_step(run / "checkpoints")
    named = max(saved) if step == "last" or (step == "best" and best not in saved) else best
    wanted = int(step) if step.isdigit() else named if step in ("best", "last") else None
    if wanted not in saved:
        raise ValueError(
            f"{run} has no checkpoint {step!r}; there are: best, last, {', '.join(map(str, saved))}"
        )
    problem = checkpoint.damage_of(saved[wanted], weights_only=True)
    others = [each for each in saved if each != wanted and each < wanted]
    if not problem:
        return saved[wanted]
    if step != "last" or not others:
        raise ValueError(f"{problem}; name another checkpoint, there are: {', '.join(map(str, saved))}")
    say(f"{problem}; the checkpoint before it is used, of step {max(others)}", is_error=True)
    return saved_step(run, str(max(others)))


def family_of(config: VlrmConfig | RowsConfig | UniConfig) -> Family:
    """The row of the model that a run of this configuration starts from."""
    if not isinstance(config, UniConfig):
        return captioner_family(start_of(config))
    return generator_family(start_folder(config))


def _start(config: Any, run: Path, device: torch.device, dtype: Precision | None) -> Any:
    require_same_policy(config, run)
    # Training offers two precisions; drawing with what was trained works in three.
    changes: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    if trains_captioner(config):
        return vlrm.load_trained_captioner(replace(as_captions(config), **changes), device)
    return unirl.load_policy(replace(config, **changes), device)
