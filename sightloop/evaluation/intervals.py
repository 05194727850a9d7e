"""Percentile bootstrap intervals, also paired and by group (Efron and Tibshirani 1993). Needs numpy only."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CELLS_IN_MEMORY = 2**24


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and where it may lie."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    values: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean of `values` with its interval; values of one group (a prompt) are drawn together.

    >>> bootstrap_interval([1.0, 1.0, 1.0])
    Interval(value=1.0, low=1.0, high=1.0)

    Raises:
        ValueError: no values, a value that is not finite, or groups of another length.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not len(data):
        raise ValueError("no values; an interval needs at least one")
    if not np.isfinite(data).all():
        raise ValueError(f"value {int(np.flatnonzero(~np.isfinite(data))[0])} is not finite")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; use a share between 0 and 1, such as 0.95")
    sums, counts = _by_group(data, groups)
    means = _resampled_means(sums, counts, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=float(data.mean()), low=float(low), high=float(high))


def paired_difference(
    before: Sequence[float],
    after: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean change `after - before` of the same samples, with its interval.

    >>> paired_difference([0.0, 1.0], [1.0, 2.0])
    Interval(value=1.0, low=1.0, high=1.0)

    Raises:
        ValueError: the two differ in length, or as for `bootstrap_interval`.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} values before and {len(after)} after; a paired interval needs the same samples")
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    return bootstrap_interval(change.tolist(), groups=groups, resamples=resamples, level=level, seed=seed)


def _by_group(
    data: NDArray[np.float64], groups: Sequence[Hashable] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if groups is None:
        return data, np.ones(len(data))
    if len(groups) != len(data):
        raise ValueError(f"{len(groups)} groups for {len(data)} values; give one a value")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    index = np.array([numbers[group] for group in groups])
    return np.bincount(index, data), np.bincount(index).astype(np.float64)


def _resampled_means(
    sums: NDArray[np.float64], counts: NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    size = len(sums)
    rows = max(1, _CELLS_IN_MEMORY // size)
    means = []
    for start in range(0, resamples, rows):
        drawn = rng.integers(0, size, (min(rows, resamples - start), size))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    return np.concatenate(means)
