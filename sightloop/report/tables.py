"""What training changed on held-out images: paired intervals, a one-sentence verdict, a plain table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sightloop.evaluation.intervals import paired_difference
from sightloop.evaluation.shares import ratio_of_sums
from sightloop.report.labels import (
    COMPANIONS,
    GUARDS,
    HEADLINES,
    MINUS,
    bare,
    capital,
    decimals_for,
    first_of,
    is_share,
    label_of,
    number,
    rank_of,
    signed,
)
from sightloop.report.run import EvaluationRecord, RunRecords, read_run
from sightloop.terminal import one_line

# An interval belongs to a figure only if the per-sample values average to it.
_TOLERANCE = 1e-3
_RESAMPLES = 4000
CHANGE_COLUMNS = ("change", "95% interval", "")


def _sum(one: list[float], other: list[float]) -> list[float]:
    return [first + second for first, second in zip(one, other, strict=True)]


def _difference(one: list[float], other: list[float]) -> list[float]:
    return [first - second for first, second in zip(one, other, strict=True)]


def _share(parts: list[float], wholes: list[float]) -> list[float]:
    return ratio_of_sums(parts, wholes, empty=math.nan)[1]


# Figures of two others whose values are known: the terms, and how their values make values of the figure.
_COMBINED = {
    "imbalance": (("only_drawn", "only_answered"), _sum),
    "gap": (("answered", "drawn"), _difference),
    "answered_if_drawn": (("both", "drawn"), _share),
    "drawn_if_answered": (("both", "answered"), _share),
}


@dataclass(frozen=True, kw_only=True)
class Change:
    """One metric before training and at a later step; NaN where it was not measured."""

    metric: str
    before: float
    after: float
    low: float = math.nan
    high: float = math.nan
    """The ends of the paired 95% interval of `after - before`; NaN if there is none."""
    num_samples: int = 0
    """Pairs behind the interval."""

    @property
    def difference(self) -> float:
        """`after - before`."""
        return self.after - self.before

    @property
    def has_interval(self) -> bool:
        """True if an interval is known."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    @property
    def is_clear(self) -> bool:
        """True if the interval leaves out zero."""
        return self.has_interval and (self.low > 0 or self.high < 0)

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `higher`, `lower`, `same`, `unclear`, or "" if nothing can be said."""
        if not self.has_interval:
            return ""
        if not self.is_clear:
            return "same" if self.low == self.high == 0 else "unclear"
        direction = label_of(self.metric).better * (1 if self.low > 0 else -1)
        if direction == 0:
            return "higher" if self.low > 0 else "lower"
        return "better" if direction > 0 else "worse"

    @property
    def share(self) -> bool:
        """True if both figures are written as shares of one."""
        return is_share(self.before, self.after)

    @property
    def decimals(self) -> int:
        """Places that suit both figures and their change."""
        return 3 if self.share else decimals_for(self.before, self.after)

    def formatted(self, value: float, *, brief: bool = False) -> str:
        """A figure of this metric as text; `brief` for a sentence."""
        return number(value, share=self.share, decimals=2 if brief and self.share else self.decimals)

    def moved(self, value: float, *, brief: bool = False) -> str:
        """A difference of this metric as text, with its sign."""
        return signed(value, share=self.share, decimals=2 if brief and self.share else self.decimals)


@dataclass(frozen=True, kw_only=True)
class MetricValues:
    """A run at an evaluated step."""

    run: RunRecords
    step: int

    def record(self, metric: str) -> EvaluationRecord | None:
        """The evaluation that a metric comes from."""
        return self.run.evaluations.get(metric.partition("/")[0], {}).get(self.step)


def evaluated_steps(run: RunRecords) -> tuple[int, int] | None:
    """The first evaluated step and the one to compare it with: the best if named and later, else the last.

    Both are the same while there is only one evaluation; None while there is none.
    """
    if not run.evals:
        return None
    first, last = min(run.evals), max(run.evals)
    best = run.best_step
    return first, best if best is not None and best in run.evals and best != first else last


def changes(run: RunRecords) -> list[Change]:
    """Every evaluated metric, the most telling first; `after` is NaN while there is only one evaluation."""
    steps = evaluated_steps(run)
    if steps is None:
        return []
    first, later = steps
    start, place = MetricValues(run=run, step=first), MetricValues(run=run, step=later)
    if later == first:
        found = [
            Change(metric=name, before=value, after=math.nan) for name, value in run.evals[first].items()
        ]
    else:
        found = [change_between(name, start, place) for name in {**run.evals[first], **run.evals[later]}]
    return sorted(found, key=lambda change: rank_of(change.metric))


def verdict(run: RunRecords) -> str:
    """What the run achieved so far, in one sentence of plain words."""
    found = {change.metric: change for change in changes(run)}
    steps = evaluated_steps(run)
    if not found or steps is None:
        return _training_verdict(run)
    lead = found[headline(run, found)]
    if math.isnan(lead.after):
        value = lead.formatted(lead.before, brief=True)
        where = "before training" if steps[0] == 0 else f"at step {steps[0]}"
        return f"{capital(label_of(lead.metric).text)} is {value} {where}. {_training_verdict(run)}"
    parts = [_sentence(lead)]
    parts[0] += f" in {steps[1]:,} step{'s' * (steps[1] != 1)}"
    if steps[1] != max(run.evals):
        parts[0] += f", the best of {run.last_step:,}"
    for name in (first_of(GUARDS, found), first_of(COMPANIONS, found)):
        if name is not None and name != lead.metric and not math.isnan(found[name].difference):
            parts.append(_arrow(found[name]))
    end = "" if run.finished else f" The run is at step {run.last_step} of {run.planned_steps}."
    if steps[1] == run.best_step and lead.difference * (label_of(lead.metric).better or 1) < 0:
        end = " The best step is worse than the start: no evaluation reached what the model was before." + end
    return "; ".join(parts) + "." + end


def headline(run: RunRecords, metrics: Iterable[str]) -> str:
    """The metric a run is judged by: the one its configuration names, else the first that is well known."""
    known = list(metrics)
    schedule = run.config.get("schedule")
    wanted = schedule.get("best_metric") if isinstance(schedule, dict) else None
    return wanted if wanted in known else first_of(HEADLINES, known) or known[0]


def before_after_table(run_folder: Path, *, names: Mapping[str, str] | None = None) -> str:
    """The evaluation of a run as aligned plain text, with 95% intervals of the paired change; only metrics
    that have one of the `names`, under it; None = all.

    Raises:
        ValueError: if the folder is no run folder or holds a damaged file.
    """
    run = read_run(run_folder)
    steps = evaluated_steps(run)
    if steps is None:
        return f"{one_line(run.name)}: no evaluation yet"
    first, later = steps
    header = ["metric", _step_name(first)]
    shown = [change for change in changes(run) if names is None or change.metric in names]
    if later != first:
        header += [_step_name(later), *CHANGE_COLUMNS]
    rows = [cells_of(change)[: len(header)] for change in shown]
    return aligned([header, *([(names or {}).get(row[0], row[0]), *row[1:]] for row in rows)])


def cells_of(change: Change) -> list[str]:
    """A change as a row of a plain table."""
    return [
        change.metric,
        change.formatted(change.before),
        change.formatted(change.after),
        change.moved(change.difference),
        interval_text(change) or "-",
        change.verdict,
    ]


def interval_text(change: Change, *, brief: bool = False) -> str:
    """The interval of a change as `[+.610, +.700]`; "" if there is none."""
    if not change.has_interval:
        return ""
    return f"[{change.moved(change.low, brief=brief)}, {change.moved(change.high, brief=brief)}]"


def change_between(metric: str, before: MetricValues, after: MetricValues) -> Change:
    """One metric at two places, with the interval of the change if both saw the same samples."""
    figures = [place.run.evals.get(place.step, {}).get(metric, math.nan) for place in (before, after)]
    plain = Change(metric=metric, before=figures[0], after=figures[1])
    old, new = before.record(metric), after.record(metric)
    name = bare(metric)
    if old is None or new is None or math.isnan(plain.difference) or not same_samples(old, new):
        return plain
    values = values_of(old, name), values_of(new, name)
    if not len(values[0]) == len(values[1]) > 1:
        return plain
    pairs = np.array(values)
    if not np.isfinite(pairs).all() or np.abs(pairs.mean(1) - (plain.before, plain.after)).max() > _TOLERANCE:
        return plain
    groups = sample_groups(old, len(values[0]))
    interval = paired_difference(*values, groups=groups, resamples=_RESAMPLES)
    return replace(plain, low=interval.low, high=interval.high, num_samples=pairs.shape[1])


def values_of(record: EvaluationRecord, name: str) -> list[float]:
    """The values behind a figure, sample by sample; those of a combined figure follow from its terms."""
    if name in record.per_sample or name not in _COMBINED:
        return record.per_sample.get(name, [])
    terms, combine = _COMBINED[name]
    one, other = (record.per_sample.get(term, []) for term in terms)
    return combine(one, other) if len(one) == len(other) else []


def same_samples(old: EvaluationRecord, new: EvaluationRecord) -> bool:
    """Two runs may hold the same images in folders of their own: names and copies tell. Drawings are the
    same if the prompts are, in the same order."""
    before, after = (
        [
            (sample.get("source"), sample.get("question"), sample.get("category"))
            if record.of_drawings
            else (Path(sample.get("source", "")).name, sample.get("image"))
            for sample in record.samples
        ]
        for record in (old, new)
    )
    return before == after


def sample_groups(record: EvaluationRecord, count: int) -> list[int] | None:
    """Samples of one source are drawn together, since they are not independent.

    None if all sources differ, or if the `count` values are not of the record's samples.
    """
    sources = [sample.get("source", "") for sample in record.samples]
    numbers = {source: index for index, source in enumerate(dict.fromkeys(sources))}
    return [numbers[source] for source in sources] if len(numbers) < len(sources) == count else None


def _sentence(change: Change) -> str:
    name = capital(label_of(change.metric).text)
    before, after = change.formatted(change.before, brief=True), change.formatted(change.after, brief=True)
    moved = change.moved(change.difference, brief=True)
    bracket = interval_text(change, brief=True).replace("+", "")
    evidence = f" ({moved} {bracket})" if bracket else f" ({moved})"
    if change.difference == 0 and change.verdict in ("", "same"):
        return f"{name} stayed at {before}"
    if change.has_interval and not change.is_clear:
        return f"{name} did not change clearly: {before} to {after}{evidence}"
    return f"{name} {'rose' if change.difference > 0 else 'fell'} from {before} to {after}{evidence}"


def _arrow(change: Change) -> str:
    before, after = change.formatted(change.before, brief=True), change.formatted(change.after, brief=True)
    return f"{label_of(change.metric).text} {before} → {after}"


def _training_verdict(run: RunRecords) -> str:
    totals = {step: values["reward/total"] for step, values in run.train.items() if "reward/total" in values}
    if not totals:
        return "No training step has been logged yet."
    first, last = min(totals), max(totals)
    return (
        f"No evaluation after training yet; the total reward of a training batch went from "
        f"{number(totals[first])} at step {first:,} to {number(totals[last])} at step {last:,}."
    )


def _step_name(step: int) -> str:
    return "before" if step == 0 else f"step {step}"


def aligned(rows: list[list[str]]) -> str:
    """Rows as a plain table, the first one above a rule; the first and a sixth column are text."""
    rows = [[one_line(cell.replace(MINUS, "-")) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in (0, 5) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
