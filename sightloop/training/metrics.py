"""What a training step reports, over all ranks."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sightloop import accelerator
from sightloop.accelerator import in_float64
from sightloop.algorithms.masked import explained_variance, standard_deviation
from sightloop.training import distributed
from sightloop.types import Credit, Rollout


@dataclass(frozen=True, kw_only=True)
class UpdateResult:
    """What an update measured: share-weighted sums of this rank by name, and norms before clipping."""

    losses: dict[str, Tensor]
    gradient_norms: dict[str, float]
    gradient_metrics: dict[str, float] = field(default_factory=dict[str, float])
    """What the sum of gradients found out, by name: norms of single turns and their cosine, if asked for."""
    problem: str | None = None
    """Why nothing was updated: a sentence about a loss or gradient that is not finite."""
    skipped: bool = False
    """Nothing was updated because no token of any rank had a share of the loss."""


def rollout_metrics(rollout: Rollout, credit: Credit) -> dict[str, float]:
    """Rewards, lengths and credit of a judged batch."""
    mask = rollout.turns[-1].tokens.mask
    lengths = mask.sum(1)
    spelled = torch.tensor([len(row) for row in rollout.pieces], device=lengths.device)
    samples = {"reward/total": rollout.rewards.sum(1), "tokens/length": lengths}
    samples |= {f"reward/{name}": part for name, part in rollout.reward_parts.items()}
    if rollout.pieces:
        # A caption that ended holds one token more than it spells.
        samples["tokens/ended"] = spelled < lengths
    means = _means(samples)
    if rollout.pieces:
        means["tokens/distinct"] = distinct_share(["".join(row) for row in rollout.pieces])
    means |= credit.metrics
    counts, reduce = credit.loss_weights > 0, distributed.sum_over_ranks
    surprise = credit.advantages
    if credit.returns is not None and rollout.values is not None:
        explained = explained_variance(rollout.values, credit.returns, counts, reduce=reduce)
        means["critic/explained_variance"] = float(explained)
        # Before it was standardized, which makes it 1 in every step.
        surprise = credit.returns - rollout.values
    means["advantage/std"] = float(standard_deviation(surprise, counts, reduce=reduce))
    return means


def update_metrics(measured: UpdateResult, seconds: dict[str, float], num_images: int) -> dict[str, float]:
    """Losses, gradient norms, speed and memory of one update."""
    metrics: dict[str, float] = {}
    if measured.losses:
        totals = distributed.sum_over_ranks(torch.stack(list(measured.losses.values())))
        metrics = dict(zip(measured.losses, totals.tolist(), strict=True))
    metrics |= {f"gradient/norm_{name}": norm for name, norm in measured.gradient_norms.items()}
    metrics |= {f"gradient/{name}": value for name, value in measured.gradient_metrics.items()}
    if measured.skipped:
        metrics["update/skipped"] = 1.0
    metrics |= {f"seconds/{phase}": value for phase, value in seconds.items()}
    images = int(distributed.sum_over_ranks(torch.tensor(num_images)))
    metrics["speed/images_per_second"] = images / sum(seconds.values())
    metrics["memory/peak_gib"] = peak_memory_gib()
    return metrics


def peak_memory_gib() -> float:
    """Most memory held so far: of the device if it counts, else of the process."""
    return accelerator.peak_memory() / 2**30


def distinct_share(texts: list[str]) -> float:
    """Distinct words per word over all ranks' captions; 0 when nothing was said."""
    mine = [word for text in texts for word in text.split()]
    words = [word for rank in distributed.gather(mine) for word in rank]
    return len(set(words)) / len(words) if words else 0.0


def _means(samples: dict[str, Tensor]) -> dict[str, float]:
    """Means of values a sample, over all ranks; the host waits for the device once."""
    where = next(iter(samples.values())).device
    rows = in_float64(torch.stack([values.to(where, torch.float32) for values in samples.values()]).cpu())
    sums = torch.stack([row.sum() for row in rows] + [torch.tensor(float(rows.shape[1])).double()])
    *totals, count = distributed.sum_over_ranks(sums)
    return {name: float(total / count) for name, total in zip(samples, totals, strict=True)}
