"""Runs that train captioners, whatever recipe: what is asked of any of them."""

from __future__ import annotations

from typing import Any, TypeGuard

from sightloop.evaluators.settings import HeldOutSettings
from sightloop.recipes.rows.config import RowsConfig
from sightloop.recipes.vlrm.config import CaptionSampling, RewardWeights, VlrmConfig
from sightloop.training.schedule import CriticSchedule
from sightloop.world.bundled import WEIGHTS


def trains_captioner(config: Any) -> TypeGuard[VlrmConfig | RowsConfig]:
    """Whether a run of this configuration trains a captioner."""
    return isinstance(config, VlrmConfig | RowsConfig)


def as_captions(config: VlrmConfig | RowsConfig) -> VlrmConfig:
    """The same model under the same sampling as a run that captions; rewards of its own recipe are none."""
    if isinstance(config, VlrmConfig):
        return config
    schedule, answer = config.schedule, config.draw
    return VlrmConfig(
        policy=config.policy or str(WEIGHTS / "janus"),
        algorithm="group",
        batch=max(2, config.batch),
        draw_batch=config.draw_batch,
        keep_features=config.keep_features,
        dtype=config.dtype,
        tf32=config.tf32,
        device=config.device,
        gradient_checkpointing=config.gradient_checkpointing,
        rewards=RewardWeights(similarity=0, reference=0, missing_end=0, bad_phrases=0, repeats=0),
        custom_rewards=config.custom_rewards,
        captioner=config.captioner,
        draw=CaptionSampling(
            temperature=answer.temperature,
            top_k=answer.top_k or 0,
            max_tokens=answer.max_tokens,
            per_image=config.group,
        ),
        held_out=HeldOutSettings(
            clip="",
            fit=config.data.fit,
            beams=1,
            no_repeat_ngram=0,
            min_tokens=1,
            max_tokens=answer.max_tokens,
        ),
        schedule=CriticSchedule(
            micro_batch=schedule.micro_batch,
            learning_rate=schedule.learning_rate,
            shard_optimizer=schedule.shard_optimizer,
        ),
    )
