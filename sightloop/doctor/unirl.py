"""The judges, rewards and samples of the UniRL recipes, for the doctor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sightloop.doctor.calibration import MeasuringJudge
from sightloop.doctor.findings import Finding, loaded
from sightloop.doctor.models import ModelToExamine
from sightloop.doctor.run import Opened, as_model
from sightloop.evaluators.image_checks import ImageCheck, open_check
from sightloop.quizzes.grammar import Quiz
from sightloop.recipes.unirl.build import answerer_of, collector_of, image_sampling, load_policy
from sightloop.recipes.unirl.config import SftConfig, UniConfig
from sightloop.recipes.unirl.quizzes import quiz_stream, setup_of
from sightloop.recipes.unirl.rewards import rewards_of
from sightloop.rewards.custom import read_names
from sightloop.training import distributed
from sightloop.types import Images
from sightloop.world.quizzes import sample_quiz, scene_for
from sightloop.world.scenes import render

_PROMPTS, _PER_PROMPT, _SCENES = 8, 4, 24
"""Samples of the calibration, and drawn scenes that the checker must judge right."""
_RIGHT = 0.95


def judges_of(config: UniConfig) -> list[ModelToExamine]:
    """Every judge of images and texts that the user named."""
    named = read_names(config.custom_rewards)
    return [model for one in named if (model := as_model(one)) is not None]


def policy_of(config: UniConfig) -> list[Finding]:
    """Whether the model that the run would train can be opened."""
    policy = load_policy(config, distributed.device(config.device))
    return [loaded(f"policy: {config.policy or config.world_model}", policy)]


def opened(config: UniConfig, folder: Path) -> Opened:
    """Policy and rewards, and a few dozen drawings of the first quizzes."""
    del folder
    torch.manual_seed(config.schedule.seed)
    setup = replace(setup_of(config), asks=[])
    judges = rewards_of(config, in_world=setup.in_world)
    policy = load_policy(config, distributed.device(config.device))
    sampling, answerer = image_sampling(config, policy), answerer_of(config, policy)[0]
    second = "truth" if isinstance(config, SftConfig) else "answer"

    def sample(judge: MeasuringJudge) -> Tensor:
        measuring = replace(judges, judge=judge)
        few = replace(config, batch=_PROMPTS, group=_PER_PROMPT, draw_batch=None)
        collect = collector_of(
            few, measuring, setup.vocabulary, sampling=sampling, answerer=answerer, second_turn=second
        )
        return collect(policy, next(iter(quiz_stream(few, setup)))).group.cpu()

    return Opened(
        rewards=judges.answers,
        weights=judges.weights,
        sample=sample,
        evaluators=_checkers(config, in_world=setup.in_world),
        in_world=setup.in_world,
    )


def _checkers(config: UniConfig, *, in_world: bool) -> list[Finding]:
    """The embedded world's checker on scenes that fulfill their quizzes, and on blank images."""
    settings = config.joint
    check = open_check(settings.detector, settings.colors, in_world=in_world, device=config.device)
    if check is None:
        return []
    if settings.detector:
        says = f"{settings.detector} loads; the bundled images hold none of COCO's things to test it on"
        return [Finding(part="evaluators", name="drawings", mark="info", says=says)]
    return [checked_finding(check)]


def checked_finding(check: ImageCheck) -> Finding:
    """Whether it tells scenes that show what their quiz asks for from blank images."""
    rng = np.random.default_rng(0)
    quizzes: list[Quiz] = [sample_quiz(rng) for _ in range(_SCENES)]
    scenes = [scene_for(quiz, rng) for quiz in quizzes]
    pixels = torch.from_numpy(np.stack([render(scene, rng) for scene in scenes])).permute(0, 3, 1, 2)
    right = check.right(Images(pixels=pixels), quizzes)
    share = sum(right) / len(right)
    # A blank image shows nothing that anyone asks for.
    fooled = any(check.right(Images(pixels=torch.full_like(pixels, 127)), quizzes))
    healthy = share >= _RIGHT and not fooled
    return Finding(
        part="evaluators",
        name="drawings",
        mark="pass" if healthy else "fail",
        says=f"{share:.0%} of {_SCENES} scenes that show what is asked for are judged right, blank ones "
        + ("too" if fooled else "are not"),
        fix="" if healthy else "the checker does not read the world's images: reinstall, and report it",
        figures={"right": share},
    )
