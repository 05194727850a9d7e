"""The whole training step: collect, credit, loss, update."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sightloop import accelerator
from sightloop.training import distributed
from sightloop.training.alarms import Alarm
from sightloop.training.checkpoint import Saveable
from sightloop.training.experiment import Experiment
from sightloop.training.heap import give_back
from sightloop.training.memory import DRAWING, UPDATING, phase
from sightloop.training.metrics import Measured, rollout_metrics, update_metrics
from sightloop.training.optimizer import clip_gradients, make_optimizer, set_learning_rate
from sightloop.training.randomness import untouched_randomness
from sightloop.training.run_files import Run
from sightloop.training.turn_gradients import SideGradients, columns_of
from sightloop.types import Credit, LossOutput, Rollout, Tokens, Turn

_NUM_NAMED = 5
"""Samples named in an error."""


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
        kept=experiment.kept,
    )
    first = run.restore(saved)
    schedule = experiment.schedule
    if first == 1:
        evaluate(experiment, run, 0)
    batches = iter(experiment.batches)
    for step in range(first, schedule.steps + 1):
        batch = _next_batch(batches, step)
        started = _now()
        with phase(DRAWING, step):
            rollout = experiment.collect(experiment.policy, batch)
            give_back()
            collected = _now()
        with phase("credit was computed", step):
            credit = experiment.algorithm.credit(experiment.policy, rollout)
            credited = _now()
        set_learning_rate(optimizer, step, schedule)
        with phase(UPDATING, step):
            measured = _updated(experiment, optimizer, step, rollout, credit)
        if measured.problem is not None:
            message = f"step {step}: {measured.problem}"
            run.alarm(Alarm(step=step, name="not_finite", message=message))
            raise ValueError(message)
        seconds = {
            "collect": collected - started,
            "credit": credited - collected,
            "update": _now() - credited,
        }
        metrics = rollout_metrics(rollout, credit) | update_metrics(measured, seconds, num_images(rollout))
        run.log(step, "train", metrics | {"learning_rate": optimizer.param_groups[0]["lr"]})
        if run.due(step, schedule.sample_every):
            run.save_gallery(step, rollout, credit)
        if run.due(step, schedule.eval_every):
            evaluate(experiment, run, step)
        stopping = distributed.any_rank(run.stop_requested)
        if stopping or run.due(step, schedule.save_every) or distributed.any_rank(run.improved):
            run.save(step, saved)
        if stopping and step < schedule.steps:
            run.say_how_to_resume(step)
            return
    run.say(f"finished {schedule.steps} steps in {run.folder}")


def evaluate(experiment: Experiment[Any, Any], run: Run, step: int) -> None:
    """Every evaluator's figures, written to the run folder; training draws the same numbers without them."""
    with untouched_randomness(), phase("the policy was evaluated", step):
        for name, evaluator in experiment.evaluators.items():
            run.log_evaluation(step, name, evaluator(experiment.policy))


def _updated(
    experiment: Experiment[Any, Any],
    optimizer: torch.optim.Optimizer,
    step: int,
    rollout: Rollout,
    credit: Credit,
) -> Measured:
    """All updates from one rollout: what the last one measured, with the first one's gradients of sides."""
    relaxed = any(turn.tokens.one_hot is not None for turn in rollout.turns)
    if experiment.updates > 1 and (relaxed or credit.settled):
        raise ValueError(
            f"updates is {experiment.updates}, but relaxed drawings and a critic's gradients serve one; use 1"
        )
    compare = experiment.compare
    apart = compare is not None and compare.is_due(step)
    measured = first = update(experiment, optimizer, rollout, credit, apart=apart)
    for _ in range(1, experiment.updates):
        if measured.problem is not None:
            break
        apart = compare is not None and compare.balance
        measured = update(experiment, optimizer, rollout, credit, apart=apart)
    return replace(measured, side_gradients=first.side_gradients)


def update(
    experiment: Experiment[Any, Any],
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    credit: Credit,
    *,
    apart: bool = False,
) -> Measured:
    """One optimizer step from a judged batch, in micro-batches of any size with the same gradient.

    With `apart` the gradients of a rollout's turns are measured each by itself, and balanced if the
    experiment says so. If a loss or gradient is not finite on any rank, nothing is updated and `problem`
    names the samples. If no token of any rank weighs anything, nothing is updated either: a step with zero
    gradients would still move the weights by the optimizer's momentum.

    Raises:
        ValueError: a relaxed rollout, which allows one backward pass, does not fit in one micro-batch.
    """
    schedule = experiment.schedule
    codes = [turn.tokens.one_hot for turn in rollout.turns]
    if len(rollout) > schedule.micro_batch and any(c is not None and c.requires_grad for c in codes):
        raise ValueError(
            f"a rollout with relaxation allows one backward pass: raise micro_batch from "
            f"{schedule.micro_batch} to {len(rollout)}, the samples of a step on a rank, or draw without it"
        )
    optimizer.zero_grad(set_to_none=True)
    if not distributed.any_rank(bool(credit.shares.any())):
        return Measured(losses={}, gradient_norms={}, skipped=True)
    totals: dict[str, Tensor] = {}
    seen: list[tuple[Tensor, Tensor]] = []
    sides = SideGradients(_parameters(optimizer)) if apart and len(rollout.turns) > 1 else None
    for rows in by_length(credit.shares, schedule.micro_batch):
        output, shares = _backward(experiment, rollout.rows(rows), credit.rows(rows), sides)
        give_back()
        seen.append((rows, output.per_token.isfinite().all(1)))
        for name, value in output.metrics.items():
            total = (value * shares).sum()
            totals[name] = total if name not in totals else totals[name] + total
    for parameter, gradient in credit.settled.items():
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    figures: dict[str, float] = {}
    if sides is not None:
        figures = sides.join(balance=experiment.compare is not None and experiment.compare.balance)
    else:
        for group in optimizer.param_groups:
            distributed.sum_gradients(group["params"])
    norms = clip_gradients(optimizer, schedule.clip, schedule.clip_at)
    rows, finite = (torch.cat(parts) for parts in zip(*seen, strict=True))
    lossy = rows[~finite.cpu()].sort().values
    if distributed.any_rank(len(lossy) > 0):
        problem = _described("loss", rollout, lossy)
    elif not all(map(math.isfinite, norms.values())):
        problem = _described(
            "gradient", rollout, _rows_with_bad_gradient(experiment, optimizer, rollout, credit)
        )
    else:
        problem = None
        optimizer.step()
    return Measured(losses=totals, gradient_norms=norms, side_gradients=figures, problem=problem)


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _backward(
    experiment: Experiment[Any, Any], rollout: Rollout, credit: Credit, sides: SideGradients | None = None
) -> tuple[LossOutput, Tensor]:
    part, worth = trimmed(rollout, credit)
    output = experiment.algorithm.loss(experiment.policy, part, worth)
    weighted = output.per_token * worth.shares
    if sides is None:
        weighted.sum().backward()
    else:
        sides.backward(weighted, columns_of(part))
    return replace(output, per_token=output.per_token.detach()), worth.shares


def _rows_with_bad_gradient(
    experiment: Experiment[Any, Any], optimizer: torch.optim.Optimizer, rollout: Rollout, credit: Credit
) -> Tensor:
    if any(turn.tokens.one_hot is not None for turn in rollout.turns):
        return torch.arange(len(rollout))
    found: list[Tensor] = []
    for rows in by_length(credit.shares, experiment.schedule.micro_batch):
        optimizer.zero_grad(set_to_none=True)
        part = rollout.rows(rows)
        _backward(experiment, part, credit.rows(rows))
        gradients = [p.grad for p in _parameters(optimizer) if p.grad is not None]
        if credit.settled:
            gradients += experiment.algorithm.credit(experiment.policy, part).settled.values()
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            found.append(rows)
    return torch.cat(found).sort().values if found else torch.arange(0)


def _described(what: str, rollout: Rollout, rows: Tensor) -> str:
    totals = rollout.rewards.sum(1).tolist()
    mine = [
        f"{rollout.sources[row] if rollout.sources else f'row {row}'} (reward {totals[row]:.4g}"
        + (f", {''.join(rollout.pieces[row])!r})" if rollout.pieces else ")")
        for row in rows.tolist()
    ]
    spreading = [
        text for text, row in zip(mine, rows.tolist(), strict=True) if not math.isfinite(totals[row])
    ]
    # One such reward spoils the credit of the whole batch: the others are not to blame.
    causes = [text for rank in distributed.gather(spreading) for text in rank]
    everyones = causes or [text for rank in distributed.gather(mine) for text in rank]
    named = "; ".join(everyones[:_NUM_NAMED]) + (" and others" if len(everyones) > _NUM_NAMED else "")
    whose = (
        f"on {len(everyones)} sample{'s' * (len(everyones) > 1)}: {named}"
        if everyones
        else "only once all samples are added up"
    )
    return (
        f"the {what} is not finite {whose}. Nothing was updated. Look at the rewards and tokens of these "
        "samples, then at the last lines of metrics.jsonl: gradient norms or critic/loss that grow ask for a "
        "lower learning rate"
    )


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


def by_length(shares: Tensor, size: int) -> Iterator[Tensor]:
    """Row indices in chunks of `size`, rows of like length together, so that a chunk holds little padding.

    Rows without a share have no loss and are left out, but one stays if there is no other: every rank needs
    gradients.
    """
    # On the CPU: a device would be asked twice, for the number of silent rows and for their order.
    lengths = (shares > 0).sum(1).cpu()
    order = lengths.argsort(stable=True)
    silent = min(int((lengths == 0).sum()), len(order) - 1)
    return iter(order[silent:].split(size))


def trimmed(rollout: Rollout, credit: Credit) -> tuple[Rollout, Credit]:
    """The same rows without the columns of text that no row of them uses."""
    turns: list[Turn] = []
    kept: list[Tensor] = []
    start = 0
    for turn in rollout.turns:
        length = _used_length(turn)
        turns.append(replace(turn, tokens=_first_columns(turn.tokens, length)))
        kept.append(torch.arange(start, start + length))
        start += turn.tokens.mask.shape[1]
    columns = torch.cat(kept).to(credit.shares.device)

    def cut(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[:, columns]

    narrow = replace(
        credit,
        advantages=credit.advantages[:, columns],
        shares=credit.shares[:, columns],
        returns=cut(credit.returns),
        values=cut(credit.values),
    )
    rewards = rollout.rewards[:, : turns[-1].tokens.mask.shape[1]]
    return replace(rollout, turns=tuple(turns), rewards=rewards), narrow


def _used_length(turn: Turn) -> int:
    mask = turn.tokens.mask
    # Codes of pictures condition each other, whether or not they count in the loss.
    if turn.prompt.wants != "text" or turn.tokens.decode_step is not None:
        return mask.shape[1]
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return max(1, int((mask.any(0) * places).amax()))


def _first_columns(tokens: Tokens, length: int) -> Tokens:
    def cut(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[:, :length]

    return replace(
        tokens,
        ids=tokens.ids[:, :length],
        mask=tokens.mask[:, :length],
        log_probs=cut(tokens.log_probs),
        decode_step=cut(tokens.decode_step),
        one_hot=cut(tokens.one_hot),
    )
