"""Bootstrap intervals against distributions worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sightloop.evaluation.intervals import Interval, bootstrap_interval, paired_difference


def binomial_quantile(number: int, probability: float, share: float) -> int:
    """The smallest count with at least `share` of the binomial distribution at or below it."""
    total = 0.0
    for count in range(number + 1):
        total += math.comb(number, count) * probability**count * (1 - probability) ** (number - count)
        if total >= share:
            return count
    return number


def test_two_values_have_three_resampled_means() -> None:
    # 0, 1/2 and 1 with probabilities 1/4, 1/2, 1/4.
    assert bootstrap_interval([0.0, 1.0]) == Interval(value=0.5, low=0.0, high=1.0)
    assert bootstrap_interval([0.0, 1.0], level=0.4) == Interval(value=0.5, low=0.5, high=0.5)


def test_groups_of_unequal_size_weigh_as_many_samples_as_they_hold() -> None:
    # Draws aa, ab, ba, bb have the means 0, 1/4, 1/4, 1.
    found = bootstrap_interval([0.0, 0.0, 0.0, 1.0], groups=["a", "a", "a", "b"], level=0.4)
    assert found == Interval(value=0.25, low=0.25, high=0.25)


def test_hits_and_misses_follow_the_binomial_law() -> None:
    hits = [1.0] * 60 + [0.0] * 140
    found = bootstrap_interval(hits, resamples=200_000)
    assert found.value == 0.3
    assert abs(found.low - binomial_quantile(200, 0.3, 0.025) / 200) <= 0.005
    assert abs(found.high - binomial_quantile(200, 0.3, 0.975) / 200) <= 0.005


def test_groups_of_few_kinds_weigh_as_many_samples_as_they_hold() -> None:
    # 100 groups of three misses, 100 of one hit. With k hits among 200 drawn groups: k of 600 - 2 k samples.
    values = [0.0, 0.0, 0.0, 1.0] * 100
    groups = [number for index in range(100) for number in (index, index, index, 100 + index)]
    found = bootstrap_interval(values, groups=groups, resamples=100_000)
    low, high = (binomial_quantile(200, 0.5, share) for share in (0.025, 0.975))
    assert found.low == pytest.approx(low / (600 - 2 * low), abs=0.005)
    assert found.high == pytest.approx(high / (600 - 2 * high), abs=0.005)


def test_values_that_repeat_and_values_that_do_not_get_the_same_interval() -> None:
    hits = np.array([1.0] * 60 + [0.0] * 140)
    distinct = hits + np.arange(200) * 1e-9
    few, many = bootstrap_interval(hits, resamples=50_000), bootstrap_interval(distinct, resamples=50_000)
    assert abs(few.low - many.low) <= 0.005
    assert abs(few.high - many.high) <= 0.005


def test_copies_in_a_group_add_no_certainty() -> None:
    values = np.random.default_rng(1).random(100)
    copies, groups = np.repeat(values, 4), np.repeat(np.arange(100), 4).tolist()
    alone, grouped = bootstrap_interval(values), bootstrap_interval(copies, groups=groups)
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high), abs=1e-12)
    ungrouped = bootstrap_interval(copies)
    assert (ungrouped.high - ungrouped.low) / (grouped.high - grouped.low) == pytest.approx(0.5, abs=0.05)


def test_the_names_of_groups_do_not_matter() -> None:
    values = np.random.default_rng(2).random(30)
    numbers = [index // 3 for index in range(30)]
    words = [f"prompt {9 - number}" for number in numbers]
    assert bootstrap_interval(values, groups=numbers) == bootstrap_interval(values, groups=words)


def test_a_paired_interval_is_that_of_the_differences() -> None:
    before, after = np.random.default_rng(3).random((2, 40))
    assert paired_difference(before, after) == bootstrap_interval(after - before)
    found = paired_difference([0.1, 0.2, 0.9], [0.2, 0.3, 1.0])
    assert (found.low, found.value, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_pairing_finds_a_change_that_two_separate_intervals_miss() -> None:
    rng = np.random.default_rng(4)
    before = rng.normal(0, 10, 100)
    after = before + rng.normal(0.5, 0.5, 100)
    assert paired_difference(before, after).low > 0
    assert bootstrap_interval(after).low < bootstrap_interval(before).high


def test_the_seed_decides() -> None:
    values = np.random.default_rng(5).random(50)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(6)
    held = 0
    for _ in range(300):
        found = bootstrap_interval(rng.exponential(1.0, 80), resamples=400, level=0.9)
        held += found.low <= 1.0 <= found.high
    # 0.9 with a standard deviation of 0.017; the percentile interval is a little short on skewed values.
    assert 0.83 < held / 300 < 0.95


def test_one_group_has_a_value_and_no_interval() -> None:
    for found in (bootstrap_interval([2.0]), bootstrap_interval([1.0, 3.0], groups=["a", "a"])):
        assert found.value == 2.0
        assert math.isnan(found.low)
        assert math.isnan(found.high)


def test_blocks_of_resamples_do_not_show() -> None:
    # 3000 distinct values are drawn in several blocks.
    values = np.random.default_rng(7).random(3000)
    found = bootstrap_interval(values, resamples=3000)
    wanted = 1.96 * values.std() / math.sqrt(3000)
    assert found.high - found.value == pytest.approx(wanted, rel=0.1)
    assert found.value - found.low == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval([]), "at least one"),
        (lambda: bootstrap_interval(np.zeros((2, 2))), r"shape \(2, 2\)"),
        (lambda: bootstrap_interval([0.0, math.nan]), "value 1 is nan"),
        (lambda: bootstrap_interval([0.0, 1.0], groups=["a"]), "1 groups for 2 values"),
        (lambda: bootstrap_interval([0.0, 1.0], level=95.0), "level is 95.0"),
        (lambda: bootstrap_interval([0.0, 1.0], resamples=0), "resamples is 0"),
        (lambda: paired_difference([0.0], [0.0, 1.0]), "1 values before and 2 after"),
        (lambda: paired_difference([0.0, 1.0], [0.0, math.inf]), "a value after is not finite"),
        (lambda: paired_difference([math.inf, 1.0], [math.inf, 1.0]), "a value before is not finite"),
    ],
)
def test_what_cannot_be_averaged_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
