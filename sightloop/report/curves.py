"""Which metrics of a run become curves, in which groups and order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from sightloop.evaluation.intervals import bootstrap_interval
from sightloop.report.figures import Curve, Point, dot_chart, line_chart, overlaid_chart
from sightloop.report.labels import capital, is_further, label_of, rank_of
from sightloop.report.markup import Markup
from sightloop.report.run import RunRecords
from sightloop.report.tables import sample_groups, values_of

_GROUPS = (
    ("Reward", ("reward/",)),
    ("Captions while training", ("tokens/",)),
    ("Drawing side", ("drawing/",)),
    ("Answering side", ("answering/",)),
    (
        "Learning",
        ("policy/", "critic/", "advantage/", "groups/", "filter/", "update/", "gradient/", "learning_rate"),
    ),
)
_RESAMPLES = 1000
_COST = ("Time and memory", ("speed/", "seconds/", "memory/"))


@dataclass(frozen=True, kw_only=True)
class ChartGroup:
    """Charts under one heading."""

    title: str
    charts: list[Markup]
    folded: bool = False
    """True if they are of interest to few."""


def curves_in_order(run: RunRecords) -> tuple[list[ChartGroup], list[ChartGroup]]:
    """The charts of rewards and of evaluations; all others."""
    training = training_curves(run)
    rewards = [group for group in training if group.title == _GROUPS[0][0]]
    return [*rewards, *evaluation_curves(run)], [group for group in training if group not in rewards]


def curves_overlaid(runs: Sequence[RunRecords], names: Sequence[str]) -> list[ChartGroup]:
    """The charts of several runs, each metric with a line a run, in the order of one run's."""
    last = max(run.last_step for run in runs)

    def chart(metric: str, *, evaluated: bool) -> Markup:
        curves = [
            (name, _evaluation_curve(run, metric) if evaluated else _training_curve(run, metric))
            for name, run in zip(names, runs, strict=True)
        ]
        return overlaid_chart(curves, last_step=last)

    train = list(dict.fromkeys(name for run in runs for name in _names(run.train)))
    evals = sorted({name for run in runs for name in _names(run.evals)}, key=rank_of)
    rewards = sorted(
        (name for name in train if name.startswith("reward/")), key=lambda name: name != "reward/total"
    )
    plan = [
        ("Reward", rewards, False, False),
        ("Held-out evaluation", [name for name in evals if not is_further(name)], True, False),
        ("Further figures of the evaluation", [name for name in evals if is_further(name)], True, True),
        ("All else", [name for name in train if name not in rewards], False, True),
    ]
    return [
        ChartGroup(title=title, charts=[chart(name, evaluated=kind) for name in members], folded=folded)
        for title, members, kind, folded in plan
        if members
    ]


def evaluation_curves(run: RunRecords) -> list[ChartGroup]:
    """One chart for each evaluated metric, with intervals; empty before the first evaluation."""
    names = sorted(_names(run.evals), key=rank_of)
    groups = [
        ("Held-out evaluation", [name for name in names if not is_further(name)], False),
        ("Further figures of the evaluation", [name for name in names if is_further(name)], True),
    ]
    return [
        ChartGroup(title=title, charts=[_dot_chart(run, name) for name in members], folded=folded)
        for title, members, folded in groups
        if members
    ]


def training_curves(run: RunRecords) -> list[ChartGroup]:
    """One chart for each logged metric, grouped; metrics of no known group come under "More"."""
    names = _names(run.train)
    grouped = [(title, [name for name in names if name.startswith(prefixes)]) for title, prefixes in _GROUPS]
    cost = [name for name in names if name.startswith(_COST[1])]
    known = {name for _, members in grouped for name in members} | set(cost)
    grouped.append(("More", [name for name in names if name not in known]))
    # The total leads; its parts follow in the order they were logged.
    grouped[0][1].sort(key=lambda name: name != "reward/total")
    groups = [
        ChartGroup(title=_spoken(run, title), charts=_line_charts(run, members))
        for title, members in grouped
        if members
    ]
    if cost:
        groups.append(ChartGroup(title=_COST[0], charts=_line_charts(run, cost), folded=True))
    return groups


def _dot_chart(run: RunRecords, metric: str) -> Markup:
    curve = _evaluation_curve(run, metric)
    return dot_chart(curve, last_step=run.last_step, alarm_steps=_alarm_steps(run))


def _line_charts(run: RunRecords, names: list[str]) -> list[Markup]:
    return [
        line_chart(_training_curve(run, name), last_step=run.last_step, alarm_steps=_alarm_steps(run))
        for name in names
    ]


def _names(records: dict[int, dict[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for values in records.values() for name in values))


def _alarm_steps(run: RunRecords) -> list[int]:
    return [alarm.step for alarm in run.alarms]


def _curve(records: dict[int, dict[str, float]], metric: str) -> Curve:
    label = label_of(metric)
    points = [(float(step), values[metric]) for step, values in records.items() if metric in values]
    return Curve(metric=metric, title=capital(label.text), meaning=label.meaning, points=points)


def _training_curve(run: RunRecords, metric: str) -> Curve:
    curve = _curve(run.train, metric)
    return replace(curve, title=_spoken(run, curve.title))


def _spoken(run: RunRecords, text: str) -> str:
    """Words for a run that draws: its texts are answers, if it has any, and its batches hold prompts."""
    if not run.draws:
        return text
    one_sided = any(name.startswith("policy/") for values in run.train.values() for name in values)
    noun = "drawing" if one_sided else "answer"
    for old, new in (("caption", noun), ("Caption", capital(noun)), ("Images", "Prompts")):
        text = text.replace(old, new)
    return text


def _evaluation_curve(run: RunRecords, metric: str) -> Curve:
    curve = _curve(run.evals, metric)
    bands = [_band(run, metric, int(step), value) for step, value in curve.points]
    return Curve(metric=metric, title=curve.title, meaning=curve.meaning, points=curve.points, bands=bands)


def _band(run: RunRecords, metric: str, step: int, value: float) -> Point:
    evaluator, _, name = metric.partition("/")
    record = run.evaluations.get(evaluator, {}).get(step)
    values = values_of(record, name) if record else []
    if (
        record is None
        or len(values) < 2
        or not all(map(math.isfinite, values))
        or abs(fmean(values) - value) > 1e-3
    ):
        return math.nan, math.nan
    interval = bootstrap_interval(values, groups=sample_groups(record, len(values)), resamples=_RESAMPLES)
    return interval.low, interval.high
