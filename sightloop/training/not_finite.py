"""A loss or gradient that is not finite, traced to the samples that it comes from."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from sightloop.training import distributed
from sightloop.types import Rollout

_NUM_NAMED = 5
"""Samples named in an error."""


class NotFiniteError(ValueError):
    """A loss or gradient is not finite; nothing was updated."""


def problem_of(what: str, rollout: Rollout, rows: Tensor) -> str:
    """A sentence about a `what` that is not finite on these rows of this rank; every rank says the same."""
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


def rows_not_finite(parts: Iterator[tuple[Tensor, list[Tensor]]]) -> Tensor:
    """Of parts of a batch, each with its gradients, the rows of those that are not finite."""
    found = [rows for rows, gradients in parts if not all(bool(g.isfinite().all()) for g in gradients)]
    return torch.cat(found).sort().values if found else torch.arange(0)
