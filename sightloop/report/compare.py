"""Runs side by side in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sightloop.report.labels import decimals_for, is_share, number, rank_of
from sightloop.report.run import read_run
from sightloop.report.tables import (
    CHANGE_COLUMNS,
    MetricValues,
    aligned,
    cells_of,
    change_between,
    evaluated_steps,
)


def compare_runs(run_folders: Sequence[Path]) -> str:
    """The evaluations of runs as a plain table, each at its best step or, if none is named, its last.

    Of two runs the difference is shown too (second minus first), with the paired 95% interval if both were
    evaluated on the same images.

    Raises:
        ValueError: if there are fewer than two folders, or one is no run folder or has no evaluation.
    """
    if len(run_folders) < 2:
        raise ValueError(f"{len(run_folders)} run folder given; a comparison needs at least two")
    places = [_measured(folder) for folder in run_folders]
    metrics = sorted({name for place in places for name in place.run.evals[place.step]}, key=rank_of)
    header = ["metric", *(f"{place.run.name}, step {place.step}" for place in places)]
    if len(places) == 2:
        changes = [change_between(metric, *places) for metric in metrics]
        return aligned([[*header, *CHANGE_COLUMNS], *(cells_of(change) for change in changes)])
    return aligned([header, *(_row(metric, places) for metric in metrics)])


def _measured(folder: Path) -> MetricValues:
    run = read_run(folder)
    steps = evaluated_steps(run)
    if steps is None:
        raise ValueError(f"{folder} holds no evaluation yet; leave it out")
    return MetricValues(run=run, step=steps[1])


def _row(metric: str, places: Sequence[MetricValues]) -> list[str]:
    values = [place.run.evals[place.step].get(metric, float("nan")) for place in places]
    share = is_share(*values)
    return [metric, *(number(v, share=share, decimals=3 if share else decimals_for(*values)) for v in values)]
