"""The judges, rewards and samples of the VLRM recipe, for the doctor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sightloop.data.batches import Batching, ImageStream
from sightloop.data.decode import Decoding
from sightloop.data.sources import open_named_images
from sightloop.doctor.calibration import MeasuringJudge
from sightloop.doctor.findings import Finding, loaded
from sightloop.doctor.models import ModelToExamine
from sightloop.doctor.run import Opened, as_model
from sightloop.models.protocols import sees_whole
from sightloop.recipes.vlrm import build as vlrm
from sightloop.recipes.vlrm.config import VlrmConfig
from sightloop.rewards.custom import read_names
from sightloop.rollouts.caption import CaptionCollector
from sightloop.training import distributed
from sightloop.world.bundled import WEIGHTS
from sightloop.world.image_folder import write_images

_IMAGES, _PER_IMAGE = 8, 4
"""Samples of the calibration."""


def judges_of(config: VlrmConfig) -> list[ModelToExamine]:
    """Every judge that the run would train on or evaluate with."""
    world, weights, judge = not config.data.images, config.rewards, config.judge
    held_out = config.held_out.clip or (str(WEIGHTS / "clip") if world else "")
    found: list[ModelToExamine] = []
    if weights.similarity:
        found.append(_judge("similarity", judge.model or str(WEIGHTS / "judge"), "itm"))
    if weights.retrieval:
        found.append(_judge("retrieval", judge.retrieval_clip or str(WEIGHTS / "clip_retrieval"), "clip"))
    if held_out and (world or config.held_out.images):
        found.append(_judge("held_out.clip", held_out, "clip"))
    custom = read_names(config.custom_rewards, taken=vars(weights))
    return [*found, *(model for one in custom if (model := as_model(one)) is not None)]


def _judge(name: str, model: str, kind: str) -> ModelToExamine:
    return ModelToExamine(name=name, model=model, kind="itm" if kind == "itm" else "clip")


def policy_of(config: VlrmConfig) -> list[Finding]:
    """Whether the captioner that the run would train can be opened."""
    policy = vlrm.load_trained_captioner(config, distributed.device(config.device))
    return [loaded(f"policy: {vlrm.base_model(config)}", policy)]


def opened(config: VlrmConfig, folder: Path) -> Opened:
    """Captioner and rewards, and a few dozen captions of the first images."""
    world = not config.data.images
    vlrm.require_images(config)
    if world:
        images = write_images(folder / "train", number=_IMAGES, seed=config.schedule.seed)
        judge = replace(
            config.judge,
            model=config.judge.model or str(WEIGHTS / "judge"),
            retrieval_clip=config.judge.retrieval_clip or str(WEIGHTS / "clip_retrieval"),
        )
        config = replace(config, data=replace(config.data, images=str(images)), judge=judge)
    vlrm.require_models(config)
    torch.manual_seed(config.schedule.seed)
    device = distributed.device(config.device)
    policy = vlrm.load_trained_captioner(config, device)
    rewards, weights = vlrm.weighted_rewards(config, policy, device)

    def sample(judge: MeasuringJudge) -> Tensor:
        decoding = Decoding(
            size=policy.image_size,
            fit=config.data.fit,
            max_pixels=config.data.max_pixels,
            whole=sees_whole(policy),
        )
        batching = Batching(batch_size=_IMAGES, seed=config.schedule.seed)
        batches = ImageStream(open_named_images(config.data), decoding, batching)
        collect = CaptionCollector(
            judge=judge,
            sampling=vlrm.drawing(config),
            prompt=config.draw.prompt,
            per_image=_PER_IMAGE,
        )
        return collect(policy, next(iter(batches))).group.cpu()

    return Opened(rewards=rewards, weights=weights, sample=sample, captioner=policy, in_world=world)
