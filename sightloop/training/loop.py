"""The whole training step: collect, credit, loss, update."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from sightloop.training import distributed
from sightloop.training.metrics import Measured, rollout_metrics, update_metrics
from sightloop.training.optimizer import clip_gradients, make_optimizer, set_learning_rate
from sightloop.training.runlog import Run
from sightloop.training.schedule import Schedule
from sightloop.types import Algorithm, Credit, Evaluation, Policy, Rollout, Turn

Batch = TypeVar("Batch", covariant=True)
AnyBatch = TypeVar("AnyBatch")


class Batches(Protocol[Batch]):
    """An endless stream of batches that can say where it stands."""

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Experiment(Generic[AnyBatch]):
    """Everything a run needs, wired up by a recipe."""

    policy: Policy
    trainable: dict[str, nn.Module]
    """What is optimised and saved: "policy", and "critic" where there is one."""
    batches: Batches[AnyBatch]
    collect: Callable[[Policy, AnyBatch], Rollout]
    algorithm: Algorithm
    evaluators: dict[str, Callable[[Policy], Evaluation]]
    schedule: Schedule


def train(experiment: Experiment[Any], run: Run) -> None:
    """Run the schedule from wherever `run` stands."""
    distributed.broadcast_parameters(experiment.trainable.values())
    optimizer = make_optimizer(experiment.trainable, experiment.schedule)
    first = run.restore(experiment.trainable, optimizer, experiment.batches)
    schedule = experiment.schedule
    if first == 1:
        evaluate(experiment, run, 0)
    batches = iter(experiment.batches)
    for step in range(first, schedule.steps + 1):
        started = time.perf_counter()
        rollout = experiment.collect(experiment.policy, next(batches))
        collected = time.perf_counter()
        credit = experiment.algorithm.credit(experiment.policy, rollout)
        credited = time.perf_counter()
        set_learning_rate(optimizer, step, schedule.warmup_steps)
        measured = update(experiment, optimizer, rollout, credit)
        seconds = {
            "collect": collected - started,
            "credit": credited - collected,
            "update": time.perf_counter() - credited,
        }
        metrics = rollout_metrics(rollout, credit) | update_metrics(measured, seconds, len(rollout))
        run.log(step, "train", metrics | {"learning_rate": optimizer.param_groups[0]["lr"]})
        if run.due(step, schedule.sample_every):
            run.save_gallery(step, rollout, credit)
        if run.due(step, schedule.eval_every):
            evaluate(experiment, run, step)
        stopping = distributed.any_rank(run.stop_requested)
        if stopping or run.due(step, schedule.save_every):
            run.save(step, experiment.trainable, optimizer, experiment.batches)
        if stopping:
            run.say_how_to_resume(step)
            return


def evaluate(experiment: Experiment[Any], run: Run, step: int) -> None:
    """Every evaluator's figures, written to the run folder."""
    for name, evaluator in experiment.evaluators.items():
        run.log_evaluation(step, name, evaluator(experiment.policy))


def update(
    experiment: Experiment[Any], optimizer: torch.optim.Optimizer, rollout: Rollout, credit: Credit
) -> Measured:
    """One optimizer step from a judged batch, in micro-batches of any size with the same gradient.

    Raises:
        ValueError: a loss or gradient is not finite; the message names the samples.
    """
    optimizer.zero_grad(set_to_none=True)
    totals: dict[str, Tensor] = {}
    for rows in by_length(credit.shares, experiment.schedule.micro_batch):
        part, worth = trimmed(rollout.rows(rows), credit.rows(rows))
        output = experiment.algorithm.loss(experiment.policy, part, worth)
        loss = (output.per_token * worth.shares).sum()
        if not torch.isfinite(loss):
            finite = torch.isfinite(output.per_token.detach()).all(1)
            bad = [source for source, good in zip(part.sources, finite.tolist(), strict=True) if not good]
            raise ValueError(f"the loss is {loss.item()} on the samples of {', '.join(bad) or part.sources}")
        loss.backward()
        for name, value in output.metrics.items():
            totals[name] = totals.get(name, torch.zeros((), device=value.device)) + (value * worth.shares).sum()
    for group in optimizer.param_groups:
        distributed.sum_gradients(group["params"])
    schedule = experiment.schedule
    norms = clip_gradients(optimizer, schedule.clip, schedule.clip_at)
    for name, norm in norms.items():
        if norm != norm or norm == float("inf"):
            raise ValueError(f"the gradient of {name!r} has norm {norm} on the samples of {rollout.sources}")
    optimizer.step()
    return Measured(losses=totals, gradient_norms=norms)


def by_length(shares: Tensor, size: int) -> Iterator[Tensor]:
    """Row indices in chunks of `size`, rows of like length together, so that a chunk holds little padding."""
    lengths = (shares > 0).sum(1)
    return iter(lengths.argsort(stable=True).cpu().split(size))


def trimmed(rollout: Rollout, credit: Credit) -> tuple[Rollout, Credit]:
    """The same rows without the columns that no row of them uses. Only rollouts of one turn have spare columns."""
    if len(rollout.turns) > 1:
        return rollout, credit
    turn = rollout.turns[0]
    length = int(turn.tokens.mask.any(0).sum())

    def cut(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[:, :length]

    tokens = replace(
        turn.tokens,
        ids=turn.tokens.ids[:, :length],
        mask=turn.tokens.mask[:, :length],
        log_probs=cut(turn.tokens.log_probs),
        decode_step=cut(turn.tokens.decode_step),
        one_hot=cut(turn.tokens.one_hot),
    )
    narrow = replace(
        credit,
        advantages=credit.advantages[:, :length],
        shares=credit.shares[:, :length],
        returns=cut(credit.returns),
        values=cut(credit.values),
    )
    turns = (Turn(prompt=turn.prompt, tokens=tokens),)
    return replace(rollout, turns=turns, rewards=rollout.rewards[:, :length]), narrow
