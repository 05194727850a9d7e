"""The judges, rewards and samples of the recipe of rows, for the doctor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sightloop.doctor.calibration import MeasuringJudge
from sightloop.doctor.findings import Finding, loaded
from sightloop.doctor.models import ModelToExamine
from sightloop.doctor.run import Opened, as_model
from sightloop.recipes.rows import build as rows
from sightloop.recipes.rows.config import RowsConfig
from sightloop.rewards.custom import read_names
from sightloop.rollouts.caption import CaptionCollector
from sightloop.training import distributed

_ROWS, _EACH = 8, 4
"""Samples of the calibration."""


def judges_of(config: RowsConfig) -> list[ModelToExamine]:
    """Every judge that the run would train on."""
    return [model for one in read_names(config.custom_rewards) if (model := as_model(one)) is not None]


def policy_of(config: RowsConfig) -> list[Finding]:
    """Whether the model that the run would train can be opened."""
    policy = rows.load_row_policy(config, distributed.device(config.device))
    return [loaded(f"policy: {rows.row_model(config)}", policy)]


def opened(config: RowsConfig, folder: Path) -> Opened:
    """Model and rewards, and a few dozen answers to the first rows."""
    rows.require_row_models(config)
    in_world = not config.data.rows
    config = rows.world_rows(config, folder) if in_world else config
    torch.manual_seed(config.schedule.seed)
    device = distributed.device(config.device)
    policy = rows.load_row_policy(config, device)
    rewards, weights = rows.row_rewards(config, device)

    def sample(judge: MeasuringJudge) -> Tensor:
        source, _ = rows.sources_of(config)
        batches = rows.batches_of(replace(config, batch=_ROWS), source, policy)
        collect = CaptionCollector(judge=judge, sampling=rows.row_sampling(config), per_image=_EACH)
        return collect(policy, next(iter(batches))).group.cpu()

    return Opened(rewards=rewards, weights=weights, sample=sample, captioner=policy, in_world=in_world)
