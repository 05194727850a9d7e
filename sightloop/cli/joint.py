"""`sightloop evaluate joint` from options to what it prints: one model, or two on the same prompts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image

from sightloop.cli.evaluation_options import JointOptions
from sightloop.cli.geneval import weights_digest
from sightloop.evaluation.intervals import bootstrap_interval
from sightloop.evaluation.protocol import protocol_hash
from sightloop.evaluators.image_sheets import RecordingCheck, SheetImage, drawn_in, write_sheet
from sightloop.evaluators.joint import JointEvaluator, imbalance_of, joint_table
from sightloop.evaluators.joint_changes import categories_table, changes_of, changes_table
from sightloop.evaluators.open_joint import joint_evaluator
from sightloop.models.atomic_files import atomic_write
from sightloop.models.families import Parts
from sightloop.models.named_models import generator_family
from sightloop.models.protocols import ImageGenerator
from sightloop.recipes.unirl.config import UniConfig
from sightloop.recipes.unirl.quizzes import quiz_setup
from sightloop.runs.restore import before_training, image_config, open_generator, start_of
from sightloop.training import distributed
from sightloop.training.run_files import is_run
from sightloop.types import Evaluation

NOTHING = "none"


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A model under the name that tables use, loaded when its turn comes."""

    name: str
    load: Callable[[], ImageGenerator]


@dataclass(frozen=True, kw_only=True)
class MeasuredModel:
    """A model's evaluation, and its drawings if they are wanted."""

    name: str
    weights: str
    """Digest of its weights."""
    evaluation: Evaluation
    drawn: list[SheetImage]


def evaluate_joint(options: JointOptions) -> str:
    """Evaluate one model or two, write what is asked for; what to tell the user.

    Raises:
        ValueError: options that do not go together, a model that cannot be used, or nothing that judges.
    """
    models = models_of(options)
    for name in (options.policy, options.against):
        if name and name != NOTHING and not is_run(name):
            generator_family(Path(name))
    evaluator = evaluator_of(options)
    found = [_measured(each, evaluator, keep=options.pictures is not None) for each in models]
    record = _record(found, evaluator)
    lines = [text for one in found for text in (one.name, _lines_of(one.evaluation, evaluator), "")]
    lines += [categories_table({one.name: one.evaluation for one in found}), ""]
    if len(found) == 2:
        before, after = (one.evaluation for one in found)
        changes = changes_of(before, after, fixed_prompts=_fixed_prompts(evaluator))
        record["changes"] = {name: _plain(change) for name, change in changes.items()}
        lines += [f"{found[1].name}, against {found[0].name}", changes_table(changes), ""]
    lines += [f"{name}: {value}" for name, value in record["protocol"].items()]
    if options.output is not None and distributed.rank() == 0:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(options.output) as partial:
            partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        lines.append(f"wrote {options.output}")
    if options.pictures is not None and distributed.rank() == 0:
        sheet = options.pictures / "sheet.png"
        write_sheet(sheet, {one.name: one.drawn for one in found})
        lines.append(f"wrote {sheet}")
    return "\n".join(lines)


def evaluator_of(options: JointOptions) -> JointEvaluator:
    """The evaluation: by the words that the run was trained on, or the options'.

    Raises:
        ValueError: a setting out of its range, or nothing judges the drawings.
    """
    settings = options.evaluation
    if settings.per_category < 1:
        raise ValueError(f"per_category is {settings.per_category}; use at least 1, usually 48")
    runs = [name for name in (options.policy, options.against) if name and is_run(name)]
    trained = UniConfig(policy=options.policy, world_model=options.world_model)
    if runs:
        trained = image_config(Path(runs[0]))
    setup = quiz_setup(
        settings,
        policy=trained.policy,
        world_model=trained.world_model,
        vocabulary=trained.quizzes.vocabulary if options.vocabulary == "auto" else options.vocabulary,
    )
    evaluator = None
    if setup.in_world or settings.detector:
        given = options.max_tokens
        max_answer = trained.answer.max_tokens if given is None else given
        evaluator = joint_evaluator(settings, setup, max_answer=max_answer, device=options.device)
    if evaluator is None:
        raise ValueError(
            "nothing judges the drawings; name a Mask2Former with --detector, or use --vocabulary shapes for "
            "models of the embedded world"
        )
    return evaluator


def models_of(options: JointOptions) -> list[NamedModel]:
    """The models in the order of tables, the one that is compared with first.

    Raises:
        ValueError: a model is compared with itself.
    """

    def named(name: str) -> NamedModel:
        parts = Parts() if name and is_run(name) else options.parts
        label = Path(name).name if name else f"the embedded world's {options.world_model}"
        return NamedModel(
            name=label,
            load=lambda: open_generator(
                name,
                world_model=options.world_model,
                parts=parts,
                dtype=options.dtype,
                device=options.device,
            ),
        )

    policy, against = named(options.policy), options.against
    if against == NOTHING or (against is None and not (options.policy and is_run(options.policy))):
        return [policy]
    if against is None:
        run, device = Path(options.policy), distributed.device(options.device)
        start = NamedModel(
            name=f"{Path(start_of(image_config(run))).name}, before",
            load=lambda: cast("Any", before_training(run, device=device, dtype=options.dtype)),
        )
        return [start, policy]
    if against == options.policy:
        raise ValueError(f"{against!r} would be compared with itself; name another model with --against")
    other = named(against)
    if other.name == policy.name:
        other, policy = replace(other, name=against), replace(policy, name=options.policy)
    return [other, policy]


@torch.no_grad()
def _measured(model: NamedModel, evaluator: JointEvaluator, *, keep: bool) -> MeasuredModel:
    album = RecordingCheck(evaluator.check)
    with torch.random.fork_rng():
        # Adapters that were never trained change nothing, but are random: the same in every process.
        torch.manual_seed(0)
        policy: Any = model.load()
    evaluation = replace(evaluator, check=album if keep else evaluator.check)(policy)
    drawn = drawn_in(evaluation.samples, _rows_of_all(album.pictures)) if keep else []
    return MeasuredModel(name=model.name, weights=weights_digest(policy), evaluation=evaluation, drawn=drawn)


def _rows_of_all(mine: list[Image.Image]) -> list[Image.Image]:
    """The images of all ranks in order, where rank r has every R-th from r on."""
    everyones = distributed.gather(mine)
    return [everyones[row % len(everyones)][row // len(everyones)] for row in range(sum(map(len, everyones)))]


def _fixed_prompts(evaluator: JointEvaluator) -> list[str]:
    return [] if evaluator.fixed is None else [quiz.prompt for quiz in evaluator.fixed.quizzes]


def _lines_of(evaluation: Evaluation, evaluator: JointEvaluator) -> str:
    lines = [joint_table(imbalance_of(evaluation))]
    values = evaluation.per_sample.get("answered_fixed")
    if values:
        found = bootstrap_interval(values, groups=_fixed_prompts(evaluator))
        figure = f"{found.value:>6.3f}   [{found.low:.3f}, {found.high:.3f}]"
        lines.append(f"{'answered right about pictures not its own':<44}{figure}")
    return "\n".join(lines)


def _record(found: list[MeasuredModel], evaluator: JointEvaluator) -> dict[str, Any]:
    """Everything, with one protocol for all models: what differs between them is told of each."""
    protocols = [dict(one.evaluation.protocol) for one in found]
    for protocol in protocols:
        protocol.pop("hash", None)
    shared = {
        name: value
        for name, value in protocols[0].items()
        if all(protocol.get(name) == value for protocol in protocols)
    }
    for one, protocol in zip(found, protocols, strict=True):
        own = {name: value for name, value in protocol.items() if name not in shared}
        shared |= {f"{name} of {one.name}": value for name, value in own.items()}
    protocol = shared | {"hash": protocol_hash(shared)}
    protocol |= {f"weights of {one.name}": one.weights for one in found}
    return {
        "protocol": protocol,
        "models": {
            one.name: {
                "metrics": one.evaluation.metrics,
                "shares": _plain(imbalance_of(one.evaluation)),
                "per_sample": one.evaluation.per_sample,
                "samples": one.evaluation.samples,
            }
            for one in found
        },
        "fixed_prompts": _fixed_prompts(evaluator),
    }


def _plain(value: Any) -> Any:
    """Dataclasses as JSON; an interval that is not known has no ends."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
