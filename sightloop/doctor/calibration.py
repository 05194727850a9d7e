"""Rewards on samples of the policy: do they differ within a group, do they agree, what do they cost?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor

from sightloop import accelerator
from sightloop.doctor.findings import Finding
from sightloop.types import Outcome, Reward

_PART = "calibration"
_SAME = 1e-6
_ALIKE = 0.95
"""Rewards that correlate more than this are one reward twice."""
_MANY_WITHOUT = 0.5


@dataclass(frozen=True, kw_only=True)
class MeasuredReward:
    """What one reward said and took."""

    values: Tensor
    """One a sample."""
    seconds: float
    megabytes: float
    """By which the peak of memory grew."""


@dataclass(frozen=True, kw_only=True)
class MeasuringJudge:
    """In the place of a recipe's judge: runs each reward alone and keeps what it said and took."""

    rewards: Mapping[str, Reward]
    seen: dict[str, list[MeasuredReward]] = field(default_factory=dict[str, list[MeasuredReward]])

    def __call__(self, outcome: Outcome) -> tuple[Tensor, dict[str, Tensor]]:
        """No reward at all, and the parts."""
        mask = outcome.tokens.mask
        parts: dict[str, Tensor] = {}
        for name, reward in self.rewards.items():
            found = measure(reward, outcome)
            self.seen.setdefault(name, []).append(found)
            parts[name] = found.values.to(mask.device)
        return torch.zeros(mask.shape, device=mask.device), parts


def measure(reward: Reward, outcome: Outcome) -> MeasuredReward:
    """Run a reward once."""
    before, start = _peak_megabytes(), time.perf_counter()
    values = reward(outcome).float().sum(1).cpu()
    accelerator.synchronize()
    return MeasuredReward(
        values=values, seconds=time.perf_counter() - start, megabytes=_peak_megabytes() - before
    )


def _peak_megabytes() -> float:
    return accelerator.peak_memory() / 1e6


def calibration(
    measured: Mapping[str, MeasuredReward], group: Tensor, weights: Mapping[str, float]
) -> list[Finding]:
    """One finding a reward, one about every pair that is nearly the same, one about the weighted sum."""
    spreads = {name: within_groups(one.values, group) for name, one in measured.items()}
    suggested = suggested_weights(spreads, weights)
    findings = [
        _of_reward(name, one, group, spreads[name], (weights.get(name, 1.0), suggested.get(name)))
        for name, one in measured.items()
    ]
    values = {
        name: one.values
        for name, one in measured.items()
        if without_signal(one.values, group) <= _MANY_WITHOUT
    }
    for one, other in combinations(values, 2):
        agreement = float(torch.corrcoef(torch.stack([values[one], values[other]]))[0, 1])
        findings.append(_of_pair(one, other, agreement))
    return [*findings, _of_sum(measured, group, weights)]


def within_groups(values: Tensor, group: Tensor) -> float:
    """Standard deviation (n) around the mean of each group.

    >>> within_groups(torch.tensor([1.0, 3.0, 7.0, 7.0]), torch.tensor([0, 0, 1, 1]))
    0.7071067690849304
    """
    return float((values - _group_means(values, group)).square().mean().sqrt())


def without_signal(values: Tensor, group: Tensor) -> float:
    """Share of the groups whose samples all earn the same.

    >>> without_signal(torch.tensor([1.0, 3.0, 7.0, 7.0]), torch.tensor([0, 0, 1, 1]))
    0.5
    """
    places = group.unique(return_inverse=True)[1]
    off = (values - _group_means(values, group)).abs()
    most = torch.zeros(int(places.max()) + 1).scatter_reduce(0, places, off, "amax")
    return float((most <= _SAME).float().mean())


def suggested_weights(spreads: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Weights with which every reward that counts spreads the sum as much as the first one does, sign kept.

    >>> suggested_weights({"a": 2.0, "b": 0.5, "c": 0.0}, {"a": 1.0, "b": -1.0, "c": 1.0})
    {'a': 1.0, 'b': -4.0}
    """
    counting = [name for name in spreads if spreads[name] > _SAME and weights.get(name, 1.0) != 0]
    if not counting:
        return {}
    aim = spreads[counting[0]] * abs(weights.get(counting[0], 1.0))
    signs = {name: 1 if weights.get(name, 1.0) > 0 else -1 for name in counting}
    return {name: signs[name] * aim / spreads[name] for name in counting}


def _group_means(values: Tensor, group: Tensor) -> Tensor:
    places = group.unique(return_inverse=True)[1]
    number = places.bincount()
    return (torch.zeros(len(number)).index_add(0, places, values) / number)[places]


def _of_reward(
    name: str, one: MeasuredReward, group: Tensor, spread: float, weight: tuple[float, float | None]
) -> Finding:
    silent, samples = without_signal(one.values, group), len(one.values)
    now, better = weight
    figures = {
        "mean": float(one.values.mean()),
        "spread": float(one.values.std()),
        "spread_in_group": spread,
        "without_signal": silent,
        "milliseconds": 1e3 * one.seconds / samples,
        "megabytes": one.megabytes / samples,
        "weight": now,
    } | ({"suggested_weight": better} if better is not None else {})
    says = (
        f"mean {figures['mean']:.3g}, spread {figures['spread']:.3g}, in a group {spread:.3g}; "
        f"{silent:.0%} of the groups without signal; {figures['milliseconds']:.3g} ms and "
        f"{figures['megabytes']:.2g} MB a sample; weight {now:g}"
        + (f", for equal spread {better:.3g}" if better is not None else "")
    )
    # A penalty that nobody earns is as it should be.
    quiet = silent > _MANY_WITHOUT and now != 0 and float(one.values.max()) != 0
    fix = "most groups learn nothing from it: sample more a prompt, or grade it more finely" if quiet else ""
    return Finding(
        part=_PART, name=name, mark="warn" if quiet else "info", says=says, fix=fix, figures=figures
    )


def _of_pair(one: str, other: str, agreement: float) -> Finding:
    alike = abs(agreement) > _ALIKE
    return Finding(
        part=_PART,
        name=f"{one} and {other}",
        mark="warn" if alike else "info",
        says=f"correlation {agreement:+.2f}",
        fix="they say the same: one of the two is enough" if alike else "",
        figures={"correlation": agreement},
    )


def _of_sum(measured: Mapping[str, MeasuredReward], group: Tensor, weights: Mapping[str, float]) -> Finding:
    total = torch.stack([weights.get(name, 1.0) * one.values for name, one in measured.items()]).sum(0)
    silent, spread = without_signal(total, group), within_groups(total, group)
    dead = silent == 1
    return Finding(
        part=_PART,
        name="weighted sum",
        mark="fail" if dead else "info",
        says=f"spread in a group {spread:.3g}; {silent:.0%} of the groups without signal "
        f"({len(total)} samples, {len(group.unique())} prompts)",
        fix="no sample earns more than another of its prompt: nothing can be learned" if dead else "",
        figures={"spread_in_group": spread, "without_signal": silent},
    )
