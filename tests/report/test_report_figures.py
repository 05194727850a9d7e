"""Curves: ticks, smoothing and places in pixels against values worked out by hand."""

from __future__ import annotations

import doctest
import importlib
import math
import re
from itertools import pairwise

import pytest

from sightloop.report.figures import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Curve,
    dot_chart,
    line_chart,
    nice_ticks,
    path,
    smooth,
    sparkline,
    step_ticks,
    thin,
)

NAN = math.nan


@pytest.mark.parametrize("name", ["captions", "cards", "figures", "labels", "markup", "tokens", "words"])
def test_examples_in_the_docstrings_hold(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"sightloop.report.{name}"))
    assert result.failed == 0


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0, 0.5, 1]),
        (0.13, 0.87, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-0.02, 0.03, [-0.02, 0, 0.02, 0.04]),
        (3.0, 3.0, [1, 2, 3, 4, 5]),
        (0.0, 2e-4, [0, 5e-5, 1e-4, 1.5e-4, 2e-4]),
        (990.0, 2010.0, [500, 1000, 1500, 2000, 2500]),
    ],
)
def test_ticks_are_round_and_enclose_the_range(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_step_ticks_are_whole_and_stay_inside() -> None:
    assert step_ticks(200) == [0, 50, 100, 150, 200]
    assert step_ticks(7) == [0, 2, 4, 6]
    assert step_ticks(1) == [0, 1]
    assert step_ticks(0) == [0, 1]


def test_smoothing_leaves_gaps_and_ignores_what_is_not_finite() -> None:
    smoothed = smooth([1.0, NAN, 3.0, math.inf], radius=1)
    assert smoothed[0] == 1.0
    assert math.isnan(smoothed[1])
    assert smoothed[2] == 3.0
    assert math.isnan(smoothed[3])


def test_thinning_averages_neighbors() -> None:
    assert thin([(1, 1.0), (2, NAN), (3, 5.0), (4, 7.0)], limit=2) == [(1.5, 1.0), (3.5, 6.0)]
    assert thin([(1, 1.0), (2, 2.0)], limit=2) == [(1, 1.0), (2, 2.0)]


def test_a_path_has_its_points_in_pixels_and_gaps() -> None:
    across = Axis(low=0, high=100, start=10, end=110)
    up = Axis(low=0, high=4, start=50, end=10)
    assert (
        path([(0, 0.0), (50, 1.0), (60, NAN), (70, 3.0), (100, 4.0)], across, up)
        == "M10 50L60 40M80 20L110 10"
    )


def test_a_line_chart_draws_raw_values_where_they_belong() -> None:
    curve = Curve(metric="reward/total", title="Total reward", points=[(1.0, 0.0), (2.0, 4.0), (4.0, 2.0)])
    chart = line_chart(curve, last_step=4)
    raw = re.search(r'class="raw" d="([^"]+)"', chart)
    assert raw is not None
    right, base = WIDTH - RIGHT, HEIGHT - BOTTOM
    quarter = LEFT + (right - LEFT) / 4
    middle, half = (LEFT + right) / 2, (TOP + base) / 2
    assert raw[1] == f"M{quarter:g} {base}L{middle:g} {TOP}L{right} {half:g}"
    assert "<title>step 2: 4.00 (mean 2.00)</title>" in chart
    assert "0 at step 1, 2.00 at step 4; lowest 0, highest 4.00" in chart


def test_values_that_are_not_finite_are_counted_below_the_chart() -> None:
    curve = Curve(metric="critic/loss", title="Critic loss", points=[(1.0, NAN), (2.0, 4.0), (3.0, math.inf)])
    chart = line_chart(curve, last_step=3)
    assert "2 of 3 values are not finite" in chart
    assert "<title>step 1: n/a (mean n/a)</title>" in chart


def test_an_evaluation_is_a_dot_with_its_interval() -> None:
    curve = Curve(
        metric="recall/recall@1",
        title="R@1",
        points=[(0.0, 0.25), (4.0, 0.75)],
        bands=[(0.0, 0.5), (NAN, NAN)],
    )
    chart = dot_chart(curve, last_step=4, alarm_steps=[2, 2])
    right, base = WIDTH - RIGHT, HEIGHT - BOTTOM
    places = re.findall(r'<circle class="dot" cx="([\d.]+)" cy="([\d.]+)"', chart)
    # The axis runs from 0 to 0.8: the round numbers around [0, .75].
    assert [(float(x), float(y)) for x, y in places] == [
        (LEFT, pytest.approx(base - 0.25 / 0.8 * (base - TOP), abs=0.01)),
        (right, pytest.approx(base - 0.75 / 0.8 * (base - TOP), abs=0.01)),
    ]
    assert chart.count('class="band"') == 1
    assert "<title>step 0: .250 [.000, .500]</title>" in chart
    assert "<title>step 4: .750</title>" in chart
    assert chart.count('class="alarm"') == 1


def test_hover_columns_tile_the_chart() -> None:
    points = [(float(step), float(step % 5)) for step in range(1, 41)]
    chart = line_chart(Curve(metric="m", title="m", points=points), last_step=40)
    columns = [
        (float(x), float(w)) for x, w in re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', chart)
    ]
    assert len(columns) == 40
    for (x, width), (following, _) in pairwise(columns):
        assert x + width == pytest.approx(following, abs=0.02)


def test_a_curve_without_finite_values_still_has_a_chart() -> None:
    chart = line_chart(Curve(metric="m", title="m", points=[(1.0, NAN)]), last_step=1)
    assert 'aria-label="m: no finite value"' in chart


def test_a_sparkline_needs_two_values() -> None:
    assert sparkline([(0.0, 0.5), (1.0, NAN)], "R@1") == ""
    assert 'd="M4 20L86 4"' in sparkline([(0.0, 0.5), (10.0, 0.7)], "R@1")
