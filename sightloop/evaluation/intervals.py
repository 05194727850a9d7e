"""Percentile bootstrap intervals of means, also of paired changes and by group. Needs numpy only.

Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_CELLS = 2**22
_FEW = 10


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and where it may lie; the ends are NaN where there is only one group to draw from."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    values: Sequence[float] | NDArray[np.floating[Any]],
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean of `values` with its interval; values of one group (a prompt, an image) are drawn together.

    >>> bootstrap_interval([1.0, 1.0, 1.0])
    Interval(value=1.0, low=1.0, high=1.0)

    Raises:
        ValueError: no values, a value that is not finite, groups of another length, or a wrong setting.
    """
    data = _checked(values, resamples, level)
    sums, counts = _by_group(data, groups)
    value = float(data.mean())
    if len(sums) == 1:
        return Interval(value=value, low=math.nan, high=math.nan)
    means = _resampled_means(sums, counts, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=float(low), high=float(high))


def paired_difference(
    before: Sequence[float] | NDArray[np.floating[Any]],
    after: Sequence[float] | NDArray[np.floating[Any]],
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
        raise ValueError(
            f"{len(before)} values before and {len(after)} after; a paired interval needs the same samples"
        )
    for name, values in (("before", before), ("after", after)):
        if not np.isfinite(np.asarray(values, dtype=np.float64)).all():
            raise ValueError(f"a value {name} is not finite; leave that sample out of both")
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    return bootstrap_interval(change, groups=groups, resamples=resamples, level=level, seed=seed)


def interval_of_strata(
    values: Sequence[float] | NDArray[np.floating[Any]],
    *,
    strata: Sequence[Hashable],
    groups: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The plain mean of the means of `strata` (tasks), with its interval; groups are drawn within each.

    >>> interval_of_strata([1.0, 1.0, 0.0], strata=["a", "a", "b"]).value
    0.5

    Raises:
        ValueError: not one stratum a value, or as for `bootstrap_interval`.
    """
    data = _checked(values, resamples, level)
    if len(strata) != len(data):
        raise ValueError(f"{len(strata)} strata for {len(data)} values; give one a value")
    rng = np.random.default_rng(seed)
    means: list[float] = []
    drawn = np.zeros(resamples)
    alone = False
    for stratum in dict.fromkeys(strata):
        rows = [row for row, own in enumerate(strata) if own == stratum]
        sums, counts = _by_group(data[rows], None if groups is None else [groups[row] for row in rows])
        means.append(float(data[rows].mean()))
        alone = alone or len(sums) == 1
        drawn += _resampled_means(sums, counts, resamples, rng)
    value = float(np.mean(means))
    if alone:
        return Interval(value=value, low=math.nan, high=math.nan)
    low, high = np.quantile(drawn / len(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=float(low), high=float(high))


def _checked(
    values: Sequence[float] | NDArray[np.floating[Any]], resamples: int, level: float
) -> NDArray[np.float64]:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not len(data):
        raise ValueError(f"values have the shape {data.shape}; an interval needs a list of at least one")
    if not np.isfinite(data).all():
        place = int(np.flatnonzero(~np.isfinite(data))[0])
        raise ValueError(
            f"value {place} is {data[place]}; leave out samples without a value before and after"
        )
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; use a share between 0 and 1, such as 0.95")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; use at least 1, usually 10000")
    return data


def _by_group(
    data: NDArray[np.float64], groups: Sequence[Hashable] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and number of the values of each group."""
    if groups is None:
        return data, np.ones(len(data))
    if len(groups) != len(data):
        raise ValueError(f"{len(groups)} groups for {len(data)} values; give one a value")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    index = np.array([numbers[group] for group in groups])
    return np.bincount(index, data).astype(np.float64), np.bincount(index).astype(np.float64)


def _resampled_means(
    sums: NDArray[np.float64], counts: NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Means of `resamples` draws of as many groups as there are, with replacement."""
    size = len(sums)
    kinds, times = np.unique(np.stack([sums, counts]), axis=1, return_counts=True)
    # Equal groups are interchangeable. Where there are few kinds, as for hits and misses, drawing how often
    # each comes up follows the same distribution and costs far less than drawing every group.
    few = kinds.shape[1] * _FEW < size
    width = kinds.shape[1] if few else size
    rows = max(1, _MAX_CELLS // width)
    means: list[NDArray[np.float64]] = []
    for start in range(0, resamples, rows):
        number = min(rows, resamples - start)
        if few:
            drawn = rng.multinomial(size, times / size, number)
            means.append((drawn @ kinds[0]) / (drawn @ kinds[1]))
        else:
            picks = rng.integers(0, size, (number, size), dtype=np.int32)
            means.append(sums[picks].sum(1) / counts[picks].sum(1))
    return np.concatenate(means)
