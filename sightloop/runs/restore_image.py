"""From a run folder back to its policy that draws and answers; such policies by any name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from sightloop.runs.restore import recipe_and_config, saved_step
from sightloop.training.run_files import is_run
from sightloop.recipes.image_policies import Parts, WorldModel
from sightloop.recipes.image_policies import open_policy as open_model
from sightloop.recipes.unirl.build import AnyImagePolicy, load_policy
from sightloop.recipes.unirl.config import UniConfig
from sightloop.training import checkpoint, distributed

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class RestoredImagePolicy:
    """A policy that draws and answers, as a run left it."""

    policy: AnyImagePolicy
    config: UniConfig
    step: int

    @property
    def start(self) -> str:
        """The model that the run started from."""
        return start_of(self.config)


def start_of(config: UniConfig) -> str:
    """The model that a run of this configuration starts from."""
    return config.policy or f"{config.world_model} of the embedded world"


def restore_image_policy(
    run: Path, step: str, *, device: torch.device, dtype: Precision = "float32"
) -> RestoredImagePolicy:
    """The policy of a run at its `best` or `last` checkpoint or at a step; frozen weights are in `dtype`.

    Raises:
        ValueError: the folder is no run, one of another kind of model, or the run has no such checkpoint.
    """
    config = image_config(run)
    chosen = saved_step(run, step)
    policy = load_policy(_in(config, dtype), device)
    checkpoint.load_trainable(chosen.folder, {"policy": policy.trained_part()})
    return RestoredImagePolicy(policy=policy, config=config, step=chosen.step)


def image_config(run: Path) -> UniConfig:
    """The configuration of a run whose policy draws and answers.

    Raises:
        ValueError: the folder is no run, or one of another kind of model.
    """
    recipe, config = recipe_and_config(run)
    if not isinstance(config, UniConfig):
        raise ValueError(f"{run} is a run of {recipe}, whose model cannot draw; name a run of unirl-grpo")
    return config


def before_training(run: Path, *, device: torch.device, dtype: Precision = "float32") -> AnyImagePolicy:
    """The policy that a run started from.

    Raises:
        ValueError: as for `restore_image_policy`.
    """
    return load_policy(_in(image_config(run), dtype), device)


def open_policy(
    name: str, *, world_model: WorldModel, parts: Parts, dtype: Precision, device: str
) -> AnyImagePolicy:
    """The policy of a run (its best step), of a model's folder, or the embedded world's if `name` is empty.

    Raises:
        ValueError: none of these, or parts that are named for a run, which has its own.
    """
    if not name or not is_run(name):
        return open_model(name, world_model=world_model, parts=parts, dtype=dtype, device=device)
    if parts != Parts():
        raise ValueError(
            f"{name} is a run, which knows its parts; leave --magvit, --tokenizer, --tower, --prompts out"
        )
    return restore_image_policy(Path(name), "best", device=distributed.device(device), dtype=dtype).policy


def _in(config: UniConfig, dtype: Precision) -> UniConfig:
    # Training offers two precisions; drawing with what was trained works in three.
    changes: dict[str, Any] = {"dtype": dtype}
    return replace(config, **changes)
