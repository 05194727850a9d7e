"""Pre-training of the tiny Show-o: it learns to draw from prompts, and better to answer about images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from experiments.world.acceptance import example_report
from experiments.world.examples import (
    RIGHT,
    WRONG_SHARES,
    TrainingPhase,
    answer_examples,
    by_category,
    drawing_examples,
)
from experiments.world.fitting import Stage, fit
from experiments.world.tokenizer_stage import codes_of
from experiments.world.unified_models import (
    MAX_TEXT,
    NUM_CODES,
    NUM_IMAGE_TOKENS,
    new_show_o,
    show_o_tokenizer,
)
from sightloop.models.show_o.layout import IGNORED
from sightloop.models.show_o.losses import (
    Masking,
    Rows,
    caption_example,
    drawing_example,
    losses_of,
    text_example,
    without_conditions,
)
from sightloop.models.show_o.magvit2 import Magvit2
from sightloop.models.show_o.policy import ShowO, ShowOSettings
from sightloop.types import Tokens
from sightloop.world.held_out_scenes import held_out_quizzes, held_out_scenes

NUM_DRAWINGS, NUM_ANSWERS, NUM_TEXTS = 72, 10, 4
"""Rows of a step."""
NO_CONDITION = 0.1
_BLURRED_CELLS = 0.02
"""Share of cells that are misread in answer examples, as an image tokenizer and a poor drawing do."""


def show_o_policy(magvit: Magvit2) -> ShowO:
    """An untrained tiny Show-o, all of it trained."""
    settings = ShowOSettings(num_image_tokens=NUM_IMAGE_TOKENS, max_text_tokens=MAX_TEXT, trained="full")
    return ShowO(new_show_o(), show_o_tokenizer(), magvit, settings=settings)


STRETCHES = (
    TrainingPhase(name="show_o_right", steps=1400, answers=4, peak_lr=2e-3, wrong=RIGHT),
    TrainingPhase(
        name="show_o_wrong_1",
        steps=400,
        answers=14,
        peak_lr=1e-3,
        wrong=by_category(0.1, 0.25, 0.4, 0.35, 0.4, 0.35),
    ),
    TrainingPhase(
        name="show_o_wrong_2",
        steps=200,
        answers=10,
        peak_lr=1.2e-3,
        wrong=by_category(0.15, 0.35, 0.45, 0.5, 0.5, 0.5),
    ),
    TrainingPhase(
        name="show_o_wrong_3",
        steps=160,
        answers=10,
        peak_lr=1.2e-3,
        wrong=by_category(0.2, 0.4, 0.5, 0.5, 0.5, 0.5),
    ),
    TrainingPhase(
        name="show_o_wrong_4",
        steps=350,
        answers=12,
        peak_lr=2e-3,
        wrong=by_category(0.25, 0.45, 0.45, 0.55, 0.45, 0.4),
        weights=by_category(1, 1, 1.5, 3, 2, 2),
    ),
    TrainingPhase(
        name="show_o_wrong_5",
        steps=160,
        answers=3,
        peak_lr=2e-3,
        wrong=by_category(0.3, 0.5, 0.5, 0.6, 0.55, 0.5),
        weights=by_category(1, 1, 1.5, 2, 2, 2),
    ),
    # Guidance sharpens: what is to be drawn wrong about half the time must be shown wrong more often where
    # there are several ways to be wrong.
    TrainingPhase(
        name="show_o_wrong_6",
        steps=300,
        answers=1,
        peak_lr=1.5e-3,
        wrong=by_category(0.75, 0.75, 0.45, 0.55, 0.5, 0.45),
        weights=by_category(1, 1.5, 2, 2, 2, 2),
    ),
    TrainingPhase(
        name="show_o_wrong_7",
        steps=150,
        answers=1,
        peak_lr=1.2e-3,
        wrong=by_category(0.75, 0.75, 0.25, 0.55, 0.5, 0.45),
        weights=by_category(1, 1.5, 3, 2, 2, 2),
    ),
    TrainingPhase(
        name="show_o_wrong_8",
        steps=100,
        answers=1,
        peak_lr=1.8e-3,
        wrong=by_category(0.75, 0.75, 0.25, 0.55, 0.5, 0.45),
        weights=by_category(1, 1.5, 3, 2, 2, 2),
    ),
)
"""What follows the first examples."""
_FIRST = TrainingPhase(name="show_o", steps=1400, answers=NUM_ANSWERS, peak_lr=2e-3, wrong=WRONG_SHARES)


def train_show_o(
    magvit: Magvit2, work: Path, steps: int = _FIRST.steps, further: Sequence[TrainingPhase] = STRETCHES
) -> ShowO:
    """Masked prediction of drawings, answers about images, and a little plain text."""
    torch.manual_seed(8)
    policy = show_o_policy(magvit)
    for phase in (replace(_FIRST, steps=steps), *further):
        train_phase(policy, phase, work)
    return policy


def train_phase(policy: ShowO, phase: TrainingPhase, work: Path) -> None:
    """One training phase."""
    quizzes = held_out_quizzes(20)
    codes = codes_of(held_out_scenes(quizzes))
    shown = Tokens(ids=codes, mask=torch.ones_like(codes, dtype=torch.bool))

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        losses = losses_of(
            policy.body,
            max_text=MAX_TEXT,
            drawing=_drawings(policy, rng, phase),
            text=_texts(policy, rng),
            answer=_answers(policy, rng, phase.answers),
        )
        return losses.total()

    def report() -> str:
        return example_report(policy, quizzes, shown)

    stage = Stage(name=phase.name, steps=phase.steps, peak_lr=phase.peak_lr, work=work)
    parameters = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
    fit(stage, nn.ModuleDict({"model": policy.model}), parameters, loss_at=loss_at, report=report)


def _drawings(policy: ShowO, rng: np.random.Generator, phase: TrainingPhase) -> Rows:
    examples = drawing_examples(rng, NUM_DRAWINGS, phase.wrong, phase.weights)
    texts = policy.text_ids([example.quiz.prompt for example in examples])
    texts = without_conditions(texts, torch.rand(len(texts)), probability=NO_CONDITION)
    hidden = Masking.drawn(len(texts), NUM_IMAGE_TOKENS).hidden()
    codes = codes_of([example.scene for example in examples])
    return drawing_example(texts, codes, hidden, policy.vocabulary, max_text=MAX_TEXT)


def _answers(policy: ShowO, rng: np.random.Generator, size: int) -> Rows:
    examples = answer_examples(rng, size)
    codes = misread(codes_of([example.scene for example in examples]), _BLURRED_CELLS)
    # Without the begin token, which examples add.
    asked = [policy.asking.whole(example.quiz.question) for example in examples]
    questions = policy.text_ids(asked)
    answers = policy.text_ids([example.answer for example in examples])
    texts = [[*question, *answer] for question, answer in zip(questions, answers, strict=True)]
    rows = caption_example(codes, texts, policy.vocabulary, max_text=MAX_TEXT)
    start = rows.labels.shape[1] - MAX_TEXT
    for labels, question in zip(rows.labels, questions, strict=True):
        # Begin token and question are given, not asked for.
        labels[: start + 1 + len(question)] = IGNORED
    return rows


def _texts(policy: ShowO, rng: np.random.Generator) -> Rows:
    quizzes = [example.quiz for example in answer_examples(rng, NUM_TEXTS)]
    texts = [quiz.prompt if rng.random() < 0.5 else quiz.answer for quiz in quizzes]
    return text_example(
        policy.text_ids(texts), policy.vocabulary, max_text=MAX_TEXT, num_image=NUM_IMAGE_TOKENS
    )


def misread(codes: Int[Tensor, "B N"], share: float) -> Int[Tensor, "B N"]:
    """The codes with a share of them replaced by any."""
    other = torch.randint(0, NUM_CODES, codes.shape)
    return torch.where(torch.rand(codes.shape) < share, other, codes)
