"""Rows of images and prompts, rewards of any kind, several answers a row: GRPO (arXiv 2402.03300) and its
relatives for any model that reads images and writes text.

Readings where the papers leave a choice (option):

1. The distribution that draws is the one that is scored, ratios and divergence included (`draw`).
2. The divergence is k3 a token from the model before training: itself without its adapters, or a frozen copy
   of what learns where that is no adapters.
3. Rewards add up with their weights before they are compared in their group; `gdpo` standardizes each in its
   group first and the sum over the batch (arXiv 2601.05242).
4. DAPO's filter leaves rows out whose answers all earned the same; no others are drawn in their place.
5. "length" methods divide by `draw.max_tokens`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sightloop.algorithms.grpo import GRPO, chosen_method
from sightloop.algorithms.methods import METHODS
from sightloop.algorithms.turn_objectives import TurnObjective, TurnObjectives
from sightloop.data.batches import Batching, ImageStream
from sightloop.data.decode import Decoding
from sightloop.data.rows import open_rows
from sightloop.data.settings import RowSettings
from sightloop.data.sources import Source
from sightloop.evaluators.held_out_rows import HeldOutRows
from sightloop.late import late
from sightloop.models.named_models import captioner_family, load_captioner, model_config
from sightloop.models.precision import DTYPES
from sightloop.models.protocols import (
    Captioner,
    SupportsCheckpointing,
    SupportsReference,
    missing_members,
    require_members,
    sees_whole,
)
from sightloop.models.reference import Reference, frozen_copy
from sightloop.recipes.config_json import checked
from sightloop.recipes.reward_trial import captions_to_try, try_rewards
from sightloop.recipes.rows.config import ROWS_PRESETS, RowsConfig
from sightloop.rewards.combine import combine
from sightloop.rewards.custom import load_rewards, read_names
from sightloop.rewards.loading import Loading
from sightloop.rollouts.caption import CaptionCollector
from sightloop.training import distributed
from sightloop.training.experiment import Experiment
from sightloop.types import Judge, Policy, Reward, Sampling
from sightloop.world.bundled import WEIGHTS

Claim = Callable[[], object]
"""What a builder calls once all is loaded."""
DEFAULT_KL = 0.04
NUM_ROWS, NUM_HELD_OUT = 1024, 256
"""Questions that the embedded world asks in a run."""
_ROWS = "rows"
# Loaded where a configuration asks for it.
_write_rows = late("sightloop.world.rows:write_rows")


def build(config: RowsConfig, run_folder: Path, *, claim: Claim = distributed.barrier) -> Experiment:
    """Load the networks and the rows of a run and wire them up; `claim` makes the run's folder once all that
    may be missing was found and loaded.

    Raises:
        ValueError: a setting that cannot work, with the value and the fix.
    """
    config = checked(config, presets=ROWS_PRESETS.values())
    if config.batch % distributed.num_ranks():
        raise ValueError(
            f"batch is {config.batch}, for {distributed.num_ranks()} ranks; use a multiple of that number"
        )
    in_world = not config.data.rows
    require_row_models(config)
    config = settled_rows(config)
    if not in_world:
        train, held_out = sources_of(config)
        try_rewards(config.custom_rewards, lambda: captions_to_try(train))
    torch.manual_seed(config.schedule.seed)
    device = distributed.device(config.device)
    policy = load_row_policy(config, device)
    if config.gradient_checkpointing:
        saving: SupportsCheckpointing = require_members(
            policy, SupportsCheckpointing, what="gradient_checkpointing", instead="leave it out"
        )
        saving.enable_gradient_checkpointing()
    rewards, weights = row_rewards(config, device)
    claim()
    if in_world:
        config = world_rows(config, run_folder)
        train, held_out = sources_of(config)
        try_rewards(config.custom_rewards, lambda: captions_to_try(train))
    evaluator = HeldOutRows.of(
        held_out,
        rewards=rewards,
        weights=weights,
        decoding=decoding_of(config, policy),
        settings=config.held_out,
        max_tokens=config.draw.max_tokens,
    )
    return Experiment(
        policy=policy,
        trainable={"policy": policy.trainable_module()},
        batches=batches_of(config, train, policy),
        collect=CaptionCollector(
            judge=judge_of(config, rewards, weights),
            sampling=row_sampling(config),
            per_image=config.group,
            chunk=config.draw_batch,
            keep_features=config.keep_features,
        ),
        algorithm=_algorithm(config, policy),
        evaluators={} if evaluator is None else {"held_out": evaluator},
        schedule=config.schedule,
        updates=config.updates,
    )


def require_row_models(config: RowsConfig) -> None:
    """Look for every model that the run needs before the first one is loaded.

    Raises:
        ValueError: one is not named, does not exist or cannot be reached.
    """
    if config.data.rows and not config.policy:
        raise ValueError(
            "policy is empty, and the embedded world's model knows only its scenes; with rows of your own, "
            "name a model with --model"
        )
    captioner_family(row_model(config))
    for reward in read_names(config.custom_rewards):
        for model in reward.models:
            model_config(model)


def settled_rows(config: RowsConfig) -> RowsConfig:
    """The same with the learning rate of what its model trains, where none is given.

    Raises:
        ValueError: the model does not exist.
    """
    if config.schedule.learning_rate is not None:
        return config
    rate = captioner_family(row_model(config)).learning_rate
    return replace(config, schedule=replace(config.schedule, learning_rate=rate))


def row_model(config: RowsConfig) -> str:
    """The model a run starts from: the embedded world's if none is named."""
    return config.policy or str(WEIGHTS / "janus")


def load_row_policy(config: RowsConfig, device: torch.device) -> Captioner:
    """The model that the configuration names, as its family opens it.

    Raises:
        ValueError: as for `load_captioner`.
    """
    return load_captioner(
        row_model(config), dtype=DTYPES[config.dtype], device=device, choices=config.captioner
    )


def world_rows(config: RowsConfig, run_folder: Path) -> RowsConfig:
    """The configuration with questions about scenes, which are drawn into the run unless they are there."""
    folders = {name: run_folder / _ROWS / name for name in ("train", "held_out")}
    if distributed.rank() == 0:
        numbers = {"train": NUM_ROWS, "held_out": config.held_out.limit or NUM_HELD_OUT}
        for name, folder in folders.items():
            _write_rows(folder, number=numbers[name], seed=config.schedule.seed)
    distributed.barrier()
    named = {name: str(folder / "rows.jsonl") for name, folder in folders.items()}
    return replace(
        config,
        data=replace(config.data, rows=named["train"]),
        held_out=replace(config.held_out, rows=config.held_out.rows or named["held_out"]),
    )


def sources_of(config: RowsConfig) -> tuple[Source, Source | None]:
    """The rows of training, and those that are held out if there are some."""
    held_out = config.held_out
    named: RowSettings = replace(config.data, rows=held_out.rows, split=held_out.split)
    return open_rows(config.data), open_rows(named) if held_out.rows else None


def row_rewards(config: RowsConfig, device: torch.device) -> tuple[dict[str, Reward], dict[str, float]]:
    """All rewards of the run and their weights."""
    how = Loading(dtype=DTYPES[config.dtype], device=device)
    return load_rewards(config.custom_rewards, how=how)


def judge_of(config: RowsConfig, rewards: dict[str, Reward], weights: dict[str, float]) -> Judge:
    """All of them added up, as the method wants."""
    separate = METHODS[config.algorithm].separate_rewards
    return combine(rewards, weights, scale="group" if separate else "raw")


def row_sampling(config: RowsConfig) -> Sampling:
    """The distribution that draws answers in training."""
    draw = config.draw
    return Sampling(max_tokens=draw.max_tokens, temperature=draw.temperature, top_k=draw.top_k)


def _algorithm(config: RowsConfig, policy: Captioner) -> GRPO:
    """The method by name, with what the configuration changes."""
    by_length = METHODS[config.algorithm].average_over == "length"
    answering = TurnObjective(
        under=row_sampling(config), max_length=config.draw.max_tokens if by_length else None
    )
    plain = GRPO(
        kl_weight=0.0,
        objectives=TurnObjectives(
            drawing=TurnObjective(weight=0.0),
            answering=answering,
            average_over="length" if by_length else "sample",
        ),
        reduce=distributed.sum_over_ranks,
        gather=distributed.gather,
    )
    found = chosen_method(plain, config, usual_kl=DEFAULT_KL, reference=lambda: _reference(policy))
    # What drew is what is scored, so its log-probabilities are known.
    return replace(found, old="recorded") if found.old == "rescored" else found


def _reference(policy: Any) -> Policy:
    """The model before training."""
    if missing_members(policy, SupportsReference):
        return frozen_copy(policy)
    return Reference(policy)


def decoding_of(config: RowsConfig, policy: Captioner) -> Decoding:
    """How images become what the model sees."""
    size, whole = policy.image_size, sees_whole(policy)
    return Decoding(size=size, fit=config.data.fit, max_pixels=config.data.max_pixels, whole=whole)


def batches_of(config: RowsConfig, source: Source, policy: Captioner) -> ImageStream:
    """The endless stream of rows."""
    batching = Batching(
        batch_size=config.batch,
        seed=config.schedule.seed,
        rank=distributed.rank(),
        num_ranks=distributed.num_ranks(),
        workers=config.data.workers,
        max_broken_fraction=config.data.max_broken_fraction,
    )
    return ImageStream(source, decoding_of(config, policy), batching)
