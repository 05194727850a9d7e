"""Pre-training of the tiny Janus: drawing code by code from prompts, and, better, seeing and answering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.janus.modeling_janus import JanusVQVAE

from experiments.world.acceptance import example_report
from experiments.world.examples import (
    RIGHT,
    WRONG_SHARES,
    TrainingPhase,
    answer_examples,
    by_category,
    drawing_examples,
)
from experiments.world.fitting import CornerHeads, Stage, fit
from experiments.world.tokenizer_stage import StillGenerator, codes_of, values_of
from experiments.world.unified_models import NUM_IMAGE_TOKENS, UNIFIED_WIDTH, janus_processor, new_janus
from sightloop.models.janus.policy import Janus, JanusSettings
from sightloop.types import Images, Prompt
from sightloop.world.held_out_scenes import held_out_quizzes, held_out_scenes, images_of, stack_images
from sightloop.world.scenes import render

NUM_DRAWINGS, NUM_ANSWERS = 64, 16
"""Rows of a step."""
NO_CONDITION = 0.15
_OUT_OF_THE_QUESTION, _DEPTH, _DEPTH_WEIGHT = -9.0, -16.0, 5e-4
"""Log-probability below which a code is never meant, where such codes are held, and how strongly."""
_DEPTH_FROM = 0.5
"""Share of the steps after which they are held: before, the pull hides what prompts mean."""
STRETCHES = (
    TrainingPhase(name="janus_drawing", steps=600, answers=0, peak_lr=3e-3, wrong=WRONG_SHARES),
    TrainingPhase(
        name="janus_right",
        steps=1400,
        answers=3,
        peak_lr=2e-3,
        wrong=RIGHT,
        weights=by_category(1, 1, 1.5, 2.5, 2, 2.5),
    ),
    TrainingPhase(
        name="janus_wrong_1",
        steps=300,
        answers=4,
        peak_lr=1e-3,
        wrong=by_category(0.1, 0.25, 0.45, 0.4, 0.45, 0.45),
    ),
    TrainingPhase(
        name="janus_wrong_2",
        steps=200,
        answers=3,
        peak_lr=1.2e-3,
        wrong=by_category(0.1, 0.25, 0.45, 0.5, 0.5, 0.45),
    ),
)
"""What follows the first examples."""
_PLAIN = 0.4
"""Share of images in answer examples without jitter and noise, as the model draws them."""


@dataclass(frozen=True, kw_only=True)
class _Learner:
    """The policy, and the heads that keep its tower looking while it has no words yet."""

    policy: Janus
    heads: CornerHeads


def janus_policy(vq: JanusVQVAE) -> Janus:
    """An untrained tiny Janus with this image tokenizer; its tower learns too."""
    model: Any = new_janus()
    model.model.vqmodel.load_state_dict(vq.state_dict())
    settings = JanusSettings(trained="full", embeddings=True)
    policy = Janus(model, janus_processor(), settings=settings)
    model.requires_grad_(True)
    model.model.vqmodel.requires_grad_(False)
    return policy


def train_janus(
    vq: JanusVQVAE, work: Path, steps: int = 1600, further: Sequence[TrainingPhase] = STRETCHES
) -> Janus:
    """Codes of drawings from left to right, answers about images, and what is in each corner."""
    torch.manual_seed(9)
    learner = _Learner(policy=janus_policy(vq), heads=CornerHeads(UNIFIED_WIDTH * NUM_IMAGE_TOKENS))
    policy = learner.policy
    quizzes = held_out_quizzes(20)
    pictures = images_of(held_out_scenes(quizzes))

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        seeing, answering = _answer_losses(learner, rng)
        fading = max(0.1, 1 - 2 * step / stage.steps)
        hold = _DEPTH_WEIGHT * max(0.0, step / stage.steps - _DEPTH_FROM) / (1 - _DEPTH_FROM)
        return _drawing_loss(policy, rng, hold) + answering + 0.3 * fading * seeing

    def report() -> str:
        return example_report(policy, quizzes, pictures)

    stage = Stage(name="janus", steps=steps, peak_lr=2e-3, work=work)
    parts = nn.ModuleDict({"model": policy.model, "heads": learner.heads})
    trained = [parameter for parameter in parts.parameters() if parameter.requires_grad]
    fit(stage, parts, trained, loss_at=loss_at, report=report)
    for phase in further:
        go_on(learner, phase, work)
    return policy


def go_on(learner: _Learner, phase: TrainingPhase, work: Path) -> None:
    """A further training phase, with as many answers to learn as it says."""
    policy = learner.policy
    quizzes = held_out_quizzes(20)
    pictures = images_of(held_out_scenes(quizzes))

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        loss = _drawing_loss(policy, rng, _DEPTH_WEIGHT, phase)
        return loss + _answer_losses(learner, rng, phase.answers)[1] if phase.answers else loss

    def report() -> str:
        return example_report(policy, quizzes, pictures)

    stage = Stage(name=phase.name, steps=phase.steps, peak_lr=phase.peak_lr, work=work)
    trained = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
    fit(stage, nn.ModuleDict({"model": policy.model}), trained, loss_at=loss_at, report=report)


def _drawing_loss(
    policy: Janus, rng: np.random.Generator, hold: float, phase: TrainingPhase | None = None
) -> Tensor:
    examples = (
        drawing_examples(rng, NUM_DRAWINGS)
        if phase is None
        else drawing_examples(rng, NUM_DRAWINGS, phase.wrong, phase.weights)
    )
    rows = [policy.prompts.drawing_row(example.quiz.prompt) for example in examples]
    rows = [policy.prompts.blank(row) if rng.random() < NO_CONDITION else row for row in rows]
    codes = codes_of([example.scene for example in examples])
    body = policy.drawings.body
    ids, mask = body.padded(rows)
    mask = None if mask is None else F.pad(mask, (0, NUM_IMAGE_TOKENS - 1), value=True)
    hidden = body.run(torch.cat([body.words(ids), body.codes(codes[:, :-1])], 1), mask)
    log_probs = body.code_logits(hidden[:, ids.shape[1] - 1 :]).log_softmax(-1)
    told = F.nll_loss(log_probs.flatten(0, 1), codes.flatten())
    # Guidance multiplies differences of log-probabilities. Far down these are noise, and multiplied noise is
    # drawn; so what is out of the question is held at one depth, with a condition and without.
    depth = (log_probs - _DEPTH).square() * (log_probs.detach() < _OUT_OF_THE_QUESTION)
    return told + hold * depth.sum(-1).mean()


def _answer_losses(
    learner: _Learner, rng: np.random.Generator, size: int = NUM_ANSWERS
) -> tuple[Tensor, Tensor]:
    policy, still = learner.policy, StillGenerator()
    examples = answer_examples(rng, size)
    scenes = [example.scene for example in examples]
    pixels = stack_images([render(scene, still if rng.random() < _PLAIN else rng) for scene in scenes])
    features = policy.image_codec.features(values_of(pixels))
    seeing = learner.heads(features.flatten(1), scenes)[0]
    # The policy's own tower runs without gradient; features that are given pass theirs on.
    images = Images(pixels=pixels, features={policy.image_codec.key: features})
    prompt = Prompt(texts=[example.quiz.question for example in examples], images=images)
    answers = policy.encode([example.answer for example in examples])
    hidden = policy.answers.hidden(prompt, answers.ids)[answers.mask]
    logits = policy.model.lm_head(hidden)
    return seeing, F.cross_entropy(logits, answers.ids[answers.mask])
