"""The whole training step: collect, credit, loss, update; before credit a critic, if there is one."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sightloop import accelerator
from sightloop.process.ranks import Dropped
from sightloop.process.stopping import Stop
from sightloop.training import distributed
from sightloop.training.alarms import Alarm
from sightloop.training.checkpoint import Saveable, before_step, put_back, where_it_stands
from sightloop.training.experiment import Experiment
from sightloop.training.gradients import GradientSum, PlainGradients
from sightloop.training.memory import DRAWING, UPDATING, phase
from sightloop.training.metrics import UpdateResult, rollout_metrics, update_metrics
from sightloop.training.micro_batches import by_length, trimmed
from sightloop.training.not_finite import NotFiniteError, problem_of, rows_not_finite
from sightloop.training.optimizer import SpreadAdam, clip_gradients, make_optimizer, set_learning_rate
from sightloop.training.randomness import untouched_randomness
from sightloop.training.run_files import Run
from sightloop.training.schedule import Schedule
from sightloop.types import Credit, LossOutput, Rollout

CriticGradients = Mapping[nn.Parameter, Tensor]


def train(experiment: Experiment[Any, Any], run: Run) -> None:
    """Run the schedule from wherever `run` stands, until its end or until the run is asked to stop.

    Raises:
        ValueError: a loss or gradient is not finite, or the batches end before the schedule does.
    """
    distributed.broadcast_parameters(experiment.trainable.values())
    optimizer = make_optimizer(experiment.trainable, experiment.schedule)
    saved = Saveable(
        trainable=experiment.trainable,
        optimizer=optimizer,
        batches=experiment.batches,
        extra_state=experiment.extra_state,
        each_has_moments=isinstance(optimizer, SpreadAdam),
    )
    first = run.restore(saved)
    run.say_how_to_stop(saved)
    with _Standing(run, saved, step=first - 1) as standing:
        _train(experiment, run, optimizer, standing)


class _Standing:
    """Where a run stands between two steps: saved by whatever ends the run before the weights are others."""

    def __init__(self, run: Run, saved: Saveable, *, step: int) -> None:
        self._run, self._saved = run, saved
        self.at(step)

    def at(self, step: int) -> None:
        """The step is done."""
        self.step, self._before = step, before_step(self._saved)
        distributed.note_standing(step, where_it_stands(self._saved))
        distributed.advise(self._how_to_go_on())
        self._run.stop.completed()

    def save(self) -> None:
        """A checkpoint of the step that is done."""
        self._run.save(self.step, self._saved)
        distributed.advise(self._how_to_go_on())

    def __enter__(self) -> _Standing:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, Dropped):
            distributed.part()
            self._save_if_sound()
            distributed.require_all()
            self._run.stop.say_why()
            self.say_how_to_resume()
            return True
        if isinstance(error, Exception):
            distributed.fail(str(error))
            # What else goes wrong now is less than what is told.
            with suppress(Exception):
                self._save_if_sound()
            if isinstance(error, NotFiniteError):
                # Not among the lines of that checkpoint.
                self._run.alarm(Alarm(step=self.step + 1, name="not_finite", message=str(error)))
            error.add_note(self._how_to_go_on())
        return False

    def say_how_to_resume(self) -> None:
        """The sentence of a run that was asked to stop."""
        done = f"stopped after step {self.step}" if self.step else "stopped before the first step"
        if self.step or not self._run.stop.by_interrupt:
            done = f"{done}; go on with: sightloop train --resume {self._run.folder}"
        self._run.say(done)

    def _how_to_go_on(self) -> str:
        """What is said after whatever ends the run now; "" if nothing was trained."""
        if not self.step:
            return ""
        resume = f"go on with: sightloop train --resume {self._run.folder}"
        if distributed.rank() > 0:
            # It speaks where rank 0, which knows what is saved, cannot.
            return resume
        kept, lost = self._run.saved_step, self.step - self._run.saved_step
        return f"step {kept} is saved{f', {lost} more are lost' if lost else ''}; {resume}"

    def _save_if_sound(self) -> None:
        parameters = [p for module in self._saved.trainable.values() for p in module.parameters()]
        is_sound = not self._run.stop.committed and all(bool(p.isfinite().all()) for p in parameters)
        if is_sound and self.step != self._run.saved_step:
            put_back(self._before, self._saved)
            self.save()


def _train(
    experiment: Experiment[Any, Any], run: Run, optimizer: torch.optim.Optimizer, standing: _Standing
) -> None:
    schedule = experiment.schedule
    if run.due(standing.step, schedule.eval_every):
        evaluate(experiment, run, standing.step)
    if distributed.any_rank(run.improved):
        # The evaluation of a run that was stopped in it; the checkpoint stays as its last step left it.
        set_learning_rate(optimizer, standing.step, schedule)
        standing.save()
    batches = iter(experiment.batches)
    for step in range(standing.step + 1, schedule.steps + 1):
        with run.stop.in_flight("step"):
            _step(experiment, run, optimizer, step, batches)
        standing.at(step)
        if run.due(step, schedule.eval_every):
            evaluate(experiment, run, step)
        stopping = distributed.any_rank(run.stop.requested)
        if stopping or run.due(step, schedule.save_every) or distributed.any_rank(run.improved):
            standing.save()
        if stopping and step < schedule.steps:
            return standing.say_how_to_resume()
    run.say(f"finished {schedule.steps} steps in {run.folder}")


def _step(
    experiment: Experiment[Any, Any],
    run: Run,
    optimizer: torch.optim.Optimizer,
    step: int,
    batches: Iterator[Any],
) -> None:
    schedule = experiment.schedule
    batch = _next_batch(batches, step)
    started = _now()
    run.working(f"step {step}, samples are drawn and judged")
    with phase(DRAWING, step):
        rollout = experiment.collect(experiment.policy, batch)
        collected = _now()
    run.stop.drop_if_asked()
    with phase("credit was computed", step):
        rollout, critic_gradients = valued(experiment, rollout)
        credit = experiment.algorithm.credit(experiment.policy, rollout)
        credited = _now()
    set_learning_rate(optimizer, step, schedule)
    run.working(f"step {step}, the weights are updated")
    with phase(UPDATING, step):
        measured = _updates(experiment, optimizer, step, rollout, credit, critic_gradients, run.stop)
    if measured.problem is not None:
        raise NotFiniteError(f"step {step}: {measured.problem}")
    seconds = {
        "collect": collected - started,
        "credit": credited - collected,
        "update": _now() - credited,
    }
    metrics = rollout_metrics(rollout, credit) | update_metrics(measured, seconds, num_images(rollout))
    # Also where nothing was updated: from here on the step is in the run's files.
    run.stop.commit(distributed.any_rank)
    run.log(step, "train", metrics | {"learning_rate": optimizer.param_groups[0]["lr"]})
    if run.due(step, schedule.sample_every):
        run.save_gallery(step, rollout, credit)


def evaluate(experiment: Experiment[Any, Any], run: Run, step: int) -> None:
    """Every evaluator's figures that the run folder lacks; training draws the same numbers without them.

    Raises:
        Dropped: the run is asked to stop; what is missing then is evaluated when it goes on.
    """
    with untouched_randomness(), phase("the policy was evaluated", step):
        for name in run.not_evaluated(step, experiment.evaluators):
            if distributed.any_rank(run.stop.requested):
                raise Dropped
            with run.stop.in_flight("evaluation"):
                run.working(f"step {step}, evaluation {name}")
                found = experiment.evaluators[name](experiment.policy)
            run.log_evaluation(step, name, found)


def valued(experiment: Experiment[Any, Any], rollout: Rollout) -> tuple[Rollout, CriticGradients]:
    """The rollout with the critic's values, and what the critic learns from it; nothing without a critic."""
    if experiment.critic is None:
        return rollout, {}
    found = experiment.critic(rollout)
    return replace(rollout, values=found.values), found.gradients


def _updates(
    experiment: Experiment[Any, Any],
    optimizer: torch.optim.Optimizer,
    step: int,
    rollout: Rollout,
    credit: Credit,
    critic_gradients: CriticGradients,
    stop: Stop,
) -> UpdateResult:
    """All updates from one rollout: what the last one measured, with what the first one saw of gradients."""
    relaxed = any(turn.tokens.one_hot is not None for turn in rollout.turns)
    if experiment.updates > 1 and (relaxed or critic_gradients):
        raise ValueError(
            f"updates is {experiment.updates}, but relaxed drawings and a critic's gradients serve one; use 1"
        )
    seen: list[UpdateResult] = []
    for number in range(experiment.updates):
        gradients = experiment.gradients(_parameters(optimizer), step, number)
        seen.append(
            update(
                experiment,
                optimizer,
                rollout,
                credit,
                gradients=gradients,
                critic_gradients=critic_gradients,
                stop=stop,
            )
        )
        if seen[-1].problem is not None:
            break
    return replace(seen[-1], gradient_metrics=seen[0].gradient_metrics)


def update(
    experiment: Experiment[Any, Any],
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    credit: Credit,
    *,
    gradients: GradientSum | None = None,
    critic_gradients: CriticGradients | None = None,
    stop: Stop | None = None,
) -> UpdateResult:
    """One optimizer step from a judged batch, in micro-batches of any size with the same gradient.

    If a loss or gradient is not finite on any rank, nothing is updated and `problem` names the samples. If no
    token of any rank weighs anything, nothing is updated either: a step with zero gradients would still move
    the weights by the optimizer's momentum.

    Raises:
        ValueError: a relaxed rollout, which allows one backward pass, does not fit in one micro-batch.
    """
    schedule = experiment.schedule
    _require_one_pass(rollout, schedule)
    optimizer.zero_grad(set_to_none=True)
    if not distributed.any_rank(bool(credit.loss_weights.any())):
        return UpdateResult(losses={}, gradient_norms={}, skipped=True)
    gradients = gradients or PlainGradients(_parameters(optimizer))
    totals: dict[str, Tensor] = {}
    seen: list[tuple[Tensor, Tensor]] = []
    for rows in by_length(credit.loss_weights, schedule.micro_batch):
        output, loss_weights = _backward(experiment, rollout.rows(rows), credit.rows(rows), gradients)
        seen.append((rows, output.per_token.isfinite().all(1)))
        for name, value in output.metrics.items():
            total = (value * loss_weights).sum()
            totals[name] = total if name not in totals else totals[name] + total
    for parameter, gradient in (critic_gradients or {}).items():
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    figures = gradients.join()
    norms = clip_gradients(optimizer, schedule.gradient_clip, schedule.gradient_clip_at)
    rows, finite = (torch.cat(parts) for parts in zip(*seen, strict=True))
    lossy = rows[~finite.cpu()].sort().values
    problem = None
    if distributed.any_rank(len(lossy) > 0):
        problem = problem_of("loss", rollout, lossy)
    elif not all(map(math.isfinite, norms.values())):
        problem = problem_of(
            "gradient", rollout, _rows_of_bad_gradients(experiment, optimizer, rollout, credit)
        )
    else:
        if stop is not None:
            stop.commit(distributed.any_rank)
        optimizer.step()
    return UpdateResult(losses=totals, gradient_norms=norms, gradient_metrics=figures, problem=problem)


def _require_one_pass(rollout: Rollout, schedule: Schedule) -> None:
    codes = [turn.tokens.one_hot for turn in rollout.turns]
    if len(rollout) > schedule.micro_batch and any(c is not None and c.requires_grad for c in codes):
        raise ValueError(
            f"a rollout with relaxation allows one backward pass: raise micro_batch from "
            f"{schedule.micro_batch} to {len(rollout)}, the samples of a step on a rank, or draw without it"
        )


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _backward(
    experiment: Experiment[Any, Any], rollout: Rollout, credit: Credit, gradients: GradientSum
) -> tuple[LossOutput, Tensor]:
    part, its_credit = trimmed(rollout, credit)
    output = experiment.algorithm.loss(experiment.policy, part, its_credit)
    gradients.backward(output.per_token * its_credit.loss_weights, part)
    return replace(output, per_token=output.per_token.detach()), its_credit.loss_weights


def _rows_of_bad_gradients(
    experiment: Experiment[Any, Any], optimizer: torch.optim.Optimizer, rollout: Rollout, credit: Credit
) -> Tensor:
    if any(turn.tokens.one_hot is not None for turn in rollout.turns):
        return torch.arange(len(rollout))
    parameters = _parameters(optimizer)

    def each() -> Iterator[tuple[Tensor, list[Tensor]]]:
        for rows in by_length(credit.loss_weights, experiment.schedule.micro_batch):
            optimizer.zero_grad(set_to_none=True)
            part = rollout.rows(rows)
            _backward(experiment, part, credit.rows(rows), PlainGradients(parameters))
            of_critic = valued(experiment, part)[1].values()
            yield rows, [*(p.grad for p in parameters if p.grad is not None), *of_critic]

    return rows_not_finite(each())


def _next_batch(batches: Iterator[Any], step: int) -> Any:
    for batch in batches:
        return batch
    raise ValueError(f"the batches ended before step {step}; a run needs an endless stream, or fewer steps")


def _now() -> float:
    # Without this a phase would be charged for what an earlier one left running on the device.
    accelerator.synchronize()
    return time.perf_counter()


def num_images(rollout: Rollout) -> int:
    """Prompts of this rank; several samples of one prompt count once."""
    return len(rollout.group.unique())
