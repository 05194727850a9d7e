"""What both UniRL recipes share: policy, collector, sides, evaluation, and all of it wired up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, assert_never, cast

import torch
from torch import Tensor

from sightloop.algorithms.turn_objectives import TurnObjective, TurnObjectives, Unmasking
from sightloop.algorithms.unmasking import FreshMasks, SomeRounds
from sightloop.late import late
from sightloop.models.families import Learning, Parts
from sightloop.models.kinds import DETECTOR, is_detector
from sightloop.models.mixed_precision import keep_products_in
from sightloop.models.named_models import generator_family, model_config
from sightloop.models.open import is_language_model, refuse_as
from sightloop.models.precision import DTYPES
from sightloop.models.protocols import (
    ImageGenerator,
    RecomputesLayers,
    SupportsMixedPrecision,
    SupportsReference,
    missing_members,
    require_members,
)
from sightloop.models.reference import Reference, frozen_copy
from sightloop.models.weight_files import write_json
from sightloop.quizzes.asks import QuizSetup
from sightloop.quizzes.grammar import identification_question
from sightloop.quizzes.negative_questions import NegativeQuestions
from sightloop.quizzes.vocabulary import Vocabulary
from sightloop.recipes.image_policies import load_image_policy
from sightloop.recipes.reward_trial import answers_to_try, try_rewards
from sightloop.recipes.unirl.choices import asks_anyone
from sightloop.recipes.unirl.config import (
    LikelihoodSettings,
    RelaxationSettings,
    UniConfig,
    folder_of,
)
from sightloop.recipes.unirl.quizzes import quiz_stream
from sightloop.recipes.unirl.rewards import Judges, reward_scale
from sightloop.rewards.combine import standardized_in_group
from sightloop.rewards.user_functions import names_function
from sightloop.rollouts.quiz import Answerer, MovingAverage, QuizCollector, SecondTurn, always, itself
from sightloop.training import distributed
from sightloop.training.experiment import Experiment
from sightloop.training.gradients import PlainGradients
from sightloop.training.turn_gradients import Comparison
from sightloop.types import Algorithm, Policy, Sampling

Claim = Callable[[], object]
"""What a builder calls once all is loaded."""
_joint_evaluator = late("sightloop.evaluators.open_joint:joint_evaluator")
_read_names = late("sightloop.rewards.custom:read_names")
_CHECKER = "shapes"
"""The embedded world's own detector, which is no model."""
TEMPLATES = "prompts.json"
"""The file of a run that tells the strings around its prompts and questions."""


def require_inputs(config: UniConfig) -> None:
    """Look for every model and every file of quizzes before anything is loaded.

    Raises:
        ValueError: one does not exist, or is a model of another kind.
    """
    if config.policy:
        generator_family(Path(config.policy))
    judge, joint = config.judge, config.joint
    detected, evaluated = config.rewards.detector > 0, joint.per_category > 0
    needed: list[tuple[str, bool, str, Callable[[Any], bool]]] = [
        (judge.text_model, config.rewards.text_judge > 0, "a language model", is_language_model),
        (judge.detector, detected, DETECTOR, is_detector),
        (judge.colors, detected and bool(judge.detector), "a CLIP", _is_clip),
        (joint.detector, evaluated, DETECTOR, is_detector),
        (joint.colors, evaluated and bool(joint.detector), "a CLIP", _is_clip),
        *(
            (name, True, "", lambda _: True)
            for one in _read_names(config.custom_rewards)
            for name in one.models
        ),
    ]
    for name, is_used, wanted, fits in needed:
        if not name or not is_used or name == _CHECKER or names_function(name):
            continue
        if not fits(found := model_config(name)):
            refuse_as(found, wanted, name)
    quizzes, evaluation = config.quizzes, config.joint
    named = {"quizzes.file": quizzes.file, "quizzes.excluded": quizzes.excluded}
    named |= {"joint.quiz_file": evaluation.quiz_file, "joint.fixed": evaluation.fixed}
    for setting, name in named.items():
        if name and not Path(name).exists():
            raise ValueError(f"{setting} is {name!r}, which does not exist")


def _models_of(rewards: tuple[str, ...]) -> list[str]:
    return [name for one in _read_names(rewards) for name in one.models] if rewards else []


def _is_clip(config: Any) -> bool:
    return config.model_type == "clip"


def try_quiz_rewards(config: UniConfig, setup: QuizSetup) -> None:
    """Ask the user's own rewards about two quizzes of the run.

    Raises:
        ValueError: as `try_rewards`, or a file of quizzes with a broken line.
    """
    try_rewards(config.custom_rewards, lambda: answers_to_try(next(quiz_stream(config, setup)).quizzes))


def load_policy(config: UniConfig, device: torch.device) -> ImageGenerator:
    """The image generator that the configuration names, with what it trains.

    Raises:
        ValueError: as for `load_generator`, or layers that cannot be recomputed.
    """
    model, wanted = config.model, DTYPES[config.dtype]
    is_full = model.trained == "full"
    policy = load_image_policy(
        config.policy,
        device=device,
        # What learns is read as the file has it, not rounded first.
        dtype=torch.float32 if is_full else wanted,
        world_model=config.world_model,
        parts=Parts(
            magvit=folder_of(model.magvit),
            tokenizer=folder_of(model.tokenizer),
            tower=model.tower,
            prompts=model.prompts,
        ),
        learning=Learning(trained=model.trained, lora_rank=model.lora_rank, lora_alpha=model.lora_alpha),
    )
    policy.trainable_module().float()
    if is_full and wanted != torch.float32:
        mixed: SupportsMixedPrecision = require_members(
            policy,
            SupportsMixedPrecision,
            what=f"full training in {config.dtype}",
            instead="use --dtype float32",
        )
        mixed.compute_in(wanted)
    if config.gradient_checkpointing:
        saving: RecomputesLayers = require_members(
            policy, RecomputesLayers, what="gradient_checkpointing", instead="leave it out"
        )
        saving.enable_gradient_checkpointing()
    return policy


def reference_of(policy: ImageGenerator) -> Policy:
    """The policy before training: without its adapters, or a frozen copy of what is trained."""
    if policy.adapters is not None:
        return Reference(require_members(policy, SupportsReference, what="the frozen initial policy"))
    before = frozen_copy(cast("Any", policy))
    if not missing_members(before, SupportsMixedPrecision) and before.mixed.dtype is not None:
        keep_products_in(before.trainable_module(), before.mixed.dtype)
    return before


def image_sampling(
    config: UniConfig, policy: ImageGenerator, relaxed: RelaxationSettings | None = None
) -> Sampling:
    """The distribution that draws in training.

    Raises:
        ValueError: a setting out of its range.
    """
    chosen = {"guidance": config.draw.guidance, "decode_steps": config.draw.steps}
    if config.draw.steps is not None and policy.default_sampling().decode_steps is None:
        raise ValueError(
            f"draw.rounds is {config.draw.steps}; {type(policy).__name__} draws code by code, leave it out"
        )
    sampling = policy.default_sampling(
        **{name: value for name, value in chosen.items() if value is not None},
        temperature=config.draw.temperature,
    )
    if relaxed is None:
        return sampling
    sampling = replace(sampling, relaxation=relaxed.temperature, relaxed_hard=relaxed.hard)
    if sampling.decode_steps is None:
        if relaxed.codes not in (None, "all"):
            raise ValueError(
                f"relaxation.codes is {relaxed.codes!r}, but {type(policy).__name__} has no rounds; leave it "
                "out"
            )
        return sampling
    if relaxed.codes in (None, "one-round"):
        return replace(
            sampling, relaxed_round=sampling.decode_steps // 2 if relaxed.round is None else relaxed.round
        )
    return replace(sampling, relaxed_rounds=relaxed.number)


def answerer_of(config: UniConfig, policy: ImageGenerator) -> tuple[Answerer, dict[str, Tensor]]:
    """Who answers, and the tensors of it that a checkpoint must hold."""
    match config.answer.answerer:
        case "self":
            return itself, {}
        case "frozen":
            return always(reference_of(policy)), {}
        case "average":
            moving: Any = policy
            average = MovingAverage(moving, decay=config.answer.decay)
            return average, average.moving(moving)  # pyright: ignore[reportReturnType]
        case _:
            assert_never(config.answer.answerer)


def collector_of(
    config: UniConfig,
    judges: Judges,
    vocabulary: Vocabulary,
    *,
    sampling: Sampling,
    answerer: Answerer,
    second_turn: SecondTurn,
) -> QuizCollector:
    """Draws, asks and judges."""
    asked = asks_anyone(config)
    negatives = NegativeQuestions(nouns=[noun.name for noun in vocabulary.nouns], colors=vocabulary.colors)
    return QuizCollector(
        drawing=sampling,
        answering=answer_sampling(config) if asked else None,
        judge=judges.judge if asked else None,
        image_judge=judges.image,
        image_weight=config.rewards.detector,
        image_scale=standardized_in_group if reward_scale(config) == "group" else None,
        per_prompt=config.group,
        answerer=answerer,
        second_turn=second_turn,
        negative=negatives if config.rewards.negative_questions else None,
        object_identification=partial(identification_question, vocabulary=vocabulary)
        if config.rewards.object_identification
        else None,
        blind=config.judge.subtract_blind_baseline,
        encode_anew=config.answer.input == "reencoded",
        show=True,
        chunk=config.draw_batch,
    )


def answer_sampling(config: UniConfig) -> Sampling:
    """The distribution that answers in training."""
    return Sampling(max_tokens=config.answer.max_tokens, temperature=config.answer.temperature)


def objectives_of(
    config: UniConfig, likelihood: LikelihoodSettings, *, sampling: Sampling, policy: ImageGenerator
) -> TurnObjectives:
    """Weights of drawing and answering, the distribution of drawings, and orders of unmasking.

    Raises:
        ValueError: orders of unmasking for a model that draws from left to right.
    """
    weight = config.drawing_weight
    unmasking = _orders_of(likelihood, policy) if weight > 0 else None
    guided = likelihood.guided and weight > 0
    return TurnObjectives(
        drawing=TurnObjective(weight=weight, under=replace(sampling, relaxation=None) if guided else None),
        answering=TurnObjective(weight=config.objectives.answering),
        unmasking=unmasking,
    )


def _orders_of(likelihood: LikelihoodSettings, policy: ImageGenerator) -> Unmasking | None:
    if likelihood.unmasking == "trajectory":
        return None
    if policy.default_sampling().decode_steps is None:
        raise ValueError(
            f"likelihood.unmasking is {likelihood.unmasking!r}, but {type(policy).__name__} draws from left "
            "to right; use 'trajectory'"
        )
    match likelihood.unmasking:
        case "subsampled":
            return SomeRounds(number=likelihood.number)
        case "remasked":
            return FreshMasks(number=likelihood.number, gather=distributed.gather)
        case _:
            assert_never(likelihood.unmasking)


@dataclass(frozen=True, kw_only=True)
class Wired:
    """The parts that a recipe chooses."""

    policy: ImageGenerator
    collect: QuizCollector
    algorithm: Algorithm
    extra_state: dict[str, Tensor]
    updates: int = 1


def experiment_of(
    config: UniConfig, setup: QuizSetup, folder: Path, parts: Wired, *, claim: Claim
) -> Experiment:
    """All parts together with quizzes and evaluation."""
    evaluator = _joint_evaluator(
        config.joint, setup, max_answer=config.answer.max_tokens, device=config.device, folder=folder
    )
    batches = quiz_stream(config, setup)
    claim()
    if folder.is_dir() and distributed.rank() == 0:
        write_json(folder / TEMPLATES, dict(parts.policy.templates))
    both = config.drawing_weight > 0 and config.objectives.answering > 0
    compared = Comparison(balance=config.objectives.balance, every=config.objectives.per_turn_every)
    return Experiment(
        policy=parts.policy,
        trainable={"policy": parts.policy.trainable_module()},
        batches=batches,
        collect=parts.collect,
        algorithm=parts.algorithm,
        evaluators={} if evaluator is None else {"joint": evaluator},
        schedule=config.schedule,
        updates=parts.updates,
        extra_state=parts.extra_state,
        gradients=compared if both else PlainGradients,
    )
