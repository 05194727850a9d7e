"""What two ranks do together under torchrun: results go to FOLDER/rank_N.json and to run folders."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from toy_run import SCHEDULE, Collector, ToyPolicy, experiment_of, run_in

from sightloop.training import distributed
from sightloop.training.loop import train
from sightloop.types import Algorithm, Credit, LossOutput, Policy, Rollout

QUIET = Collector(noise=())
FIVE = replace(SCHEDULE, steps=5)


def exchanged(rank: int) -> dict[str, Any]:
    """What the ranks tell each other; rank r starts from its own numbers."""
    mine = torch.tensor([1.0, 10.0]) * (rank + 1)
    module = nn.Linear(2, 1, bias=False)
    module.weight.data.fill_(float(rank))
    distributed.broadcast_parameters([module])
    seen, alone, never = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    seen.grad = mine.clone()
    alone.grad = torch.tensor([3.0, 4.0]) if rank == 1 else None
    distributed.sum_gradients([seen, never, alone])
    assert seen.grad is not None and alone.grad is not None
    return {
        "numbers": [distributed.rank(), distributed.num_ranks()],
        "sum": distributed.sum_over_ranks(mine).tolist(),
        "untouched": mine.tolist(),
        "gathered": distributed.gather({"rank": rank}),
        "any": [distributed.any_rank(rank == 1), distributed.any_rank(False)],
        "all": [distributed.all_ranks(rank == 1), distributed.all_ranks(True)],
        "broadcast": module.weight.tolist(),
        "gradients": [seen.grad.tolist(), alone.grad.tolist()],
        "never": never.grad is None,
    }


def trained(folder: Path, *, shard: bool = False) -> dict[str, Any]:
    """A run of five steps; how many weights of a frozen layer this rank holds once it was used."""
    experiment = experiment_of(FIVE, collector=QUIET, shard=shard)
    train(experiment, run_in(folder, FIVE))
    held_out = experiment.policy.law()
    weight = experiment.policy.trunk.first.weight
    local = weight.to_local() if isinstance(weight, DTensor) else weight
    return {"law": held_out.tolist(), "held": local.numel()}


def spread(folder: Path, rank: int) -> dict[str, Any]:
    """A run whose moments are spread over the ranks; of which step and by whom its optimizer was saved."""
    schedule = replace(FIVE, shard_optimizer=True)
    experiment = experiment_of(schedule, collector=QUIET)
    train(experiment, run_in(folder, schedule))
    (saved,) = (folder / "checkpoints").glob("step_000005")
    mine = torch.load(saved / f"optimizer_{rank}.pt")["state"]
    return {"law": experiment.policy.law().tolist(), "moments": sorted(mine)}


def stopped_by_one(folder: Path, rank: int) -> int:
    """The last rank alone is told to stop, in its second step; then the run is resumed. Where it stopped."""
    run = run_in(folder, FIVE)
    calls: list[None] = []

    def watch() -> None:
        calls.append(None)
        run.stop.requested = run.stop.requested or (rank == 1 and len(calls) == 2)

    train(experiment_of(FIVE, collector=Collector(noise=(), watch=watch)), run)
    train(experiment_of(FIVE, collector=QUIET), run_in(folder, FIVE, resume=True))
    return len(calls)


class BreaksOnOne(Collector):
    """A reward that is not finite, for image 6, which the second rank has."""

    def __call__(self, policy: ToyPolicy, batch: list[int]) -> Rollout:
        """Judged words."""
        rollout = super().__call__(policy, batch)
        worse = torch.tensor([torch.inf if number == 6 else 0.0 for number in batch])
        return replace(rollout, rewards=rollout.rewards + worse[:, None])


@dataclass(frozen=True, kw_only=True)
class Filtered:
    """A2C that keeps nothing in step 2, and on one rank alone in step 3."""

    inner: Algorithm
    calls: list[None]

    def credit(self, policy: Policy, rollout: Rollout) -> Credit:
        """Credit of the inner algorithm, without shares where nothing is kept."""
        self.calls.append(None)
        credit = self.inner.credit(policy, rollout)
        step = len(self.calls)
        kept = step != 2 and (step != 3 or distributed.rank() == 0)
        return credit if kept else replace(credit, loss_weights=0 * credit.loss_weights)

    def loss(self, policy: Policy, rollout: Rollout, credit: Credit) -> LossOutput:
        """The inner algorithm's."""
        return self.inner.loss(policy, rollout, credit)


def filtered(folder: Path) -> list[bool]:
    """Whether each of three steps moved the weights, by the checkpoints."""
    schedule = replace(SCHEDULE, steps=3, save_every=1)
    plain = experiment_of(schedule, collector=QUIET)
    experiment = replace(plain, algorithm=Filtered(inner=plain.algorithm, calls=[]))
    tables = [experiment.policy.table.detach().clone()]
    run = run_in(folder, schedule)

    def remember(*args: Any) -> None:
        type(run).save(run, *args)
        tables.append(experiment.policy.table.detach().clone())

    run.save = remember  # pyright: ignore[reportAttributeAccessIssue]
    train(experiment, run)
    return [not torch.equal(one, other) for one, other in pairwise(tables)]


def broken(folder: Path) -> str:
    """What a rank says of a step that is not finite on the other."""
    try:
        train(experiment_of(FIVE, collector=BreaksOnOne(noise=())), run_in(folder, FIVE))
    except ValueError as error:
        return str(error)
    return "no error"


def main() -> None:
    """All of it."""
    torch.set_num_threads(1)
    distributed.start()
    folder, rank = Path(sys.argv[1]), distributed.rank()
    results = {
        "exchanged": exchanged(rank),
        "plain": trained(folder / "plain"),
        "sharded": trained(folder / "sharded", shard=True),
        "spread": spread(folder / "spread", rank),
        "stopped": stopped_by_one(folder / "stopped", rank),
        "filtered": filtered(folder / "filtered"),
        # Last, since ranks that failed take part in nothing more.
        "broken": broken(folder / "broken"),
    }
    (folder / f"rank_{rank}.json").write_text(json.dumps(results))
    distributed.stop()


if __name__ == "__main__":
    main()
