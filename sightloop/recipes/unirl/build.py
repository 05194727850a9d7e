"""What both UniRL recipes share: policy, collector, sides, evaluation, and all of it wired up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sightloop.algorithms.turn_objectives import Orders, Side, Sides
from sightloop.algorithms.unmasking import FreshMasks, SomeRounds
from sightloop.late import late
from sightloop.models.families import found_in
from sightloop.models.janus.policy import Janus, JanusSettings
from sightloop.models.mixed_precision import keep_products_in
from sightloop.models.precision import DTYPES
from sightloop.models.reference import Reference, frozen_copy
from sightloop.models.show_o.policy import ShowO, ShowOSettings
from sightloop.models.weight_files import write_json
from sightloop.quizzes.asks import QuizSetup
from sightloop.quizzes.negative_questions import Traps
from sightloop.quizzes.vocabulary import Vocabulary
from sightloop.recipes.image_policies import Parts, load_image_policy, world_folder
from sightloop.recipes.unirl.config import (
    LikelihoodSettings,
    RelaxationSettings,
    UniConfig,
    asks_anyone,
    folder_of,
)
from sightloop.recipes.unirl.quizzes import naming_question, quiz_stream
from sightloop.recipes.unirl.rewards import Judges
from sightloop.rewards.combine import standardised_in_group
from sightloop.rollouts.quiz import Grader, MovingAverage, QuizCollector, itself
from sightloop.training import distributed
from sightloop.training.experiment import Experiment
from sightloop.training.run_files import is_run
from sightloop.training.turn_gradients import Comparison
from sightloop.types import Algorithm, ImagePolicy, Policy, Sampling

AnyImagePolicy = ShowO | Janus
_joint_evaluator = late("sightloop.evaluators.open_joint:joint_evaluator")
TEMPLATES = "prompts.json"
"""The file of a run that tells the strings around its prompts and questions."""


def require_inputs(config: UniConfig) -> None:
    """Look for the policy's folder and for every file of quizzes before anything is loaded.

    Raises:
        ValueError: one does not exist, or the folder holds no model.
    """
    if config.policy and not is_run(config.policy):
        found_in(Path(config.policy))
    quizzes, evaluation = config.quizzes, config.both_sides
    named = {"quizzes.file": quizzes.file, "quizzes.excluded": quizzes.excluded}
    named |= {"both_sides.file": evaluation.file, "both_sides.fixed": evaluation.fixed}
    for setting, name in named.items():
        if name and not Path(name).exists():
            raise ValueError(f"{setting} is {name!r}, which does not exist")


def load_policy(config: UniConfig, device: torch.device) -> AnyImagePolicy:
    """Show-o or Janus with what the configuration trains.

    Raises:
        ValueError: no such folder, another family, or settings that do not fit the family.
    """
    folder = Path(config.policy) if config.policy else world_folder(config.world_model)
    if is_run(folder):
        raise ValueError(f"{folder} is a run; write its model with `sightloop export` and name that folder")
    family, model = found_in(folder).family, config.model
    if family not in ("show-o", "janus"):
        raise ValueError(f"{folder} is {family}, which cannot draw from prompts; name a Show-o or Janus")
    kind = ShowOSettings if family == "show-o" else JanusSettings
    wanted, is_full = DTYPES[config.dtype], model.trained == "full"
    policy = load_image_policy(
        str(folder),
        device=device,
        # What learns is read as the file has it, not rounded first.
        dtype=torch.float32 if is_full else wanted,
        parts=Parts(
            magvit=folder_of(model.magvit),
            tokenizer=folder_of(model.tokenizer),
            tower=model.tower,
            prompts=model.prompts,
        ),
        settings=kind(trained=model.trained, lora_rank=model.lora_rank, lora_alpha=model.lora_alpha),
    )
    policy.trained_part().float()
    if is_full and wanted != torch.float32:
        policy.compute_in(wanted)
    if config.gradient_checkpointing:
        policy.enable_gradient_checkpointing()
    return policy


def reference_of(policy: AnyImagePolicy) -> Policy:
    """The policy before training: without its adapters, or a frozen copy of what is trained."""
    if policy.adapters is not None:
        return Reference(policy)
    before = frozen_copy(policy)
    if before.mixed.dtype is not None:
        keep_products_in(before.trained_part(), before.mixed.dtype)
    return before


def drawing_law(
    config: UniConfig, policy: ImagePolicy, relaxed: RelaxationSettings | None = None
) -> Sampling:
    """The law that draws in training.

    Raises:
        ValueError: a setting out of its range.
    """
    chosen = {"guidance": config.draw.guidance, "decode_steps": config.draw.steps}
    if config.draw.steps is not None and policy.drawing().decode_steps is None:
        raise ValueError(f"draw.steps is {config.draw.steps}; Janus draws code by code, leave it out")
    law = policy.drawing(
        **{name: value for name, value in chosen.items() if value is not None},
        temperature=config.draw.temperature,
    )
    if relaxed is None:
        return law
    law = replace(law, relaxation=relaxed.temperature, relaxed_hard=relaxed.hard)
    if law.decode_steps is None:
        if relaxed.codes not in (None, "all"):
            raise ValueError(f"relaxation.codes is {relaxed.codes!r}, but Janus has no rounds; leave it out")
        return law
    if relaxed.codes in (None, "one-round"):
        return replace(law, relaxed_round=law.decode_steps // 2 if relaxed.round is None else relaxed.round)
    return replace(law, relaxed_rounds=relaxed.number)


def grader_of(config: UniConfig, policy: AnyImagePolicy) -> tuple[Grader, dict[str, Tensor]]:
    """Who answers, and the tensors of it that a checkpoint must hold."""
    if config.answer.grader == "self":
        return itself, {}
    if config.answer.grader == "frozen":
        before = reference_of(policy)
        return lambda _: before, {}
    average = MovingAverage(policy, decay=config.answer.decay)
    return average, average.moving(policy)  # pyright: ignore[reportReturnType]


def collector_of(
    config: UniConfig,
    judges: Judges,
    vocabulary: Vocabulary,
    *,
    law: Sampling,
    grader: Grader,
    second_turn: str,
) -> QuizCollector:
    """Draws, asks and judges."""
    asked = asks_anyone(config)
    traps = Traps(nouns=[noun.name for noun in vocabulary.nouns], colours=vocabulary.colours)
    return QuizCollector(
        drawing=law,
        answering=answering_law(config) if asked else None,
        judge=judges.judge if asked else None,
        picture_judge=judges.picture,
        picture_weight=config.rewards.detector,
        picture_scale=standardised_in_group if config.judge.scale == "group" else None,
        per_prompt=config.group,
        grader=grader,
        second_turn="truth" if second_turn == "truth" else "answer",
        trap=traps if config.rewards.denials else None,
        naming=partial(naming_question, vocabulary=vocabulary) if config.rewards.naming else None,
        blank=config.judge.less_prior,
        encode_anew=config.answer.sees == "picture",
        show=True,
        chunk=config.draw.batch,
    )


def answering_law(config: UniConfig) -> Sampling:
    """The law that answers in training."""
    return Sampling(max_tokens=config.answer.max_tokens, temperature=config.answer.temperature)


def sides_of(
    config: UniConfig, likelihood: LikelihoodSettings, *, law: Sampling, policy: AnyImagePolicy
) -> Sides:
    """Weights of drawing and answering, the law of drawings, and orders of unmasking.

    Raises:
        ValueError: orders of unmasking for a model that draws from left to right.
    """
    orders: Orders | None = None
    weight = config.drawing_weight
    if likelihood.orders != "drawn" and weight > 0:
        if not isinstance(policy, ShowO):
            raise ValueError(
                f"likelihood.orders is {likelihood.orders!r}, but Janus draws from left to right; use 'drawn'"
            )
        if likelihood.orders == "some-rounds":
            orders = SomeRounds(number=likelihood.number)
        else:
            orders = FreshMasks(number=likelihood.number, gather=distributed.gather)
    guided = likelihood.guided and weight > 0
    return Sides(
        drawing=Side(weight=weight, under=replace(law, relaxation=None) if guided else None),
        answering=Side(weight=config.sides.answering),
        orders=orders,
    )


@dataclass(frozen=True, kw_only=True)
class Wired:
    """The parts that a recipe chooses."""

    policy: AnyImagePolicy
    collect: QuizCollector
    algorithm: Algorithm
    kept: dict[str, Tensor]
    updates: int = 1


def experiment_of(config: UniConfig, setup: QuizSetup, folder: Path, parts: Wired) -> Experiment:
    """All parts together with quizzes and evaluation."""
    if folder.is_dir() and distributed.rank() == 0:
        write_json(folder / TEMPLATES, parts.policy.templates)
    evaluator = _joint_evaluator(
        config.both_sides, setup, max_answer=config.answer.max_tokens, device=config.device, folder=folder
    )
    both = config.drawing_weight > 0 and config.sides.answering > 0
    compare = Comparison(balance=config.sides.balance, every=config.sides.compare_every) if both else None
    return Experiment(
        policy=parts.policy,
        trainable={"policy": parts.policy.trained_part()},
        batches=quiz_stream(config, setup),
        collect=parts.collect,
        algorithm=parts.algorithm,
        evaluators={} if evaluator is None else {"both_sides": evaluator},
        schedule=config.schedule,
        updates=parts.updates,
        kept=parts.kept,
        compare=compare,
    )
