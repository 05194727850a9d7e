"""Tables that trackers get: samples of a batch with rewards and credit, evaluations with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from sightloop.evaluation.intervals import bootstrap_interval
from sightloop.training.alarms import Alarm
from sightloop.training.tracking import Log, Row
from sightloop.types import Evaluation

MAX_ROWS = 16
"""Samples of an evaluation that a tracker gets."""
_RESAMPLES = 1000
_TOLERANCE = 1e-3


class Trackers:
    """All trackers of a run, which may be none."""

    def __init__(self, logs: Sequence[Log], folder: Path) -> None:
        self._logs = logs
        self._folder = folder

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        """Figures of a step."""
        for log in self._logs:
            log.write(dict(metrics), step)

    def gallery(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Samples of a batch."""
        for log in self._logs:
            log.table("samples", gallery_rows(self._folder, samples), step)

    def evaluation(
        self, name: str, step: int, samples: Sequence[Mapping[str, Any]], found: Evaluation
    ) -> None:
        """Figures with intervals, and the first samples that have an image."""
        for log in self._logs:
            log.table(f"{name}/figures", evaluation_rows(found), step)
            if rows := sample_rows(self._folder, samples, found):
                log.table(f"{name}/samples", rows, step)

    def alarm(self, alarm: Alarm) -> None:
        """What looks wrong."""
        for log in self._logs:
            log.alarm(alarm.name, alarm.message, alarm.step)

    def publish(self, write_page: Callable[[Path], Path]) -> None:
        """The run's page, written where somebody gets it."""
        if self._logs:
            page = write_page(self._folder)
            for log in self._logs:
                log.page(page)

    def close(self) -> None:
        """Let all of them finish."""
        for log in self._logs:
            log.close()


def gallery_rows(folder: Path, samples: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row a sample: image, text, its words with their credit, total reward and its parts."""
    rows: list[Row] = []
    for sample in samples:
        row: dict[str, str | float | Path] = {
            **_image(folder, sample),
            "source": str(sample.get("source", "")),
        }
        row |= {name: str(sample[name]) for name in ("question", "truth", "answer") if sample.get(name)}
        words = list(zip(sample.get("pieces") or [], sample.get("credit") or [], strict=False))
        row["text"] = "".join(piece for piece, _ in words)
        row["credit"] = " ".join(
            f"{piece.strip()}({value or 0:+.2f})" for piece, value in words if piece.strip()
        )
        total = sample.get("reward")
        row["reward"] = float(sum(filter(None, sample.get("rewards") or [])) if total is None else total)
        row |= {name: _number(value) for name, value in (sample.get("parts") or {}).items()}
        rows.append(row)
    return rows


def evaluation_rows(evaluation: Evaluation) -> list[Row]:
    """A row a figure, with the 95% interval of its mean over the samples where it is one."""
    rows: list[Row] = []
    for name, value in evaluation.metrics.items():
        row: dict[str, str | float | Path] = {"metric": name, "value": float(value)}
        values = list(evaluation.per_sample.get(name, ()))
        if len(values) > 1 and all(map(math.isfinite, values)) and abs(fmean(values) - value) < _TOLERANCE:
            interval = bootstrap_interval(values, resamples=_RESAMPLES)
            row |= {"low": interval.low, "high": interval.high}
        else:
            row |= {"low": math.nan, "high": math.nan}
        rows.append(row)
    return rows


def sample_rows(folder: Path, samples: Sequence[Mapping[str, Any]], evaluation: Evaluation) -> list[Row]:
    """The first samples of an evaluation with an image: what was written or drawn, and each figure of it."""
    rows: list[Row] = []
    for place, sample in enumerate(samples):
        if not sample.get("image") or len(rows) == MAX_ROWS:
            continue
        told = {name: str(value) for name, value in sample.items() if name != "image" and value is not None}
        figures = {
            name: _number(values[place])
            for name, values in evaluation.per_sample.items()
            if len(values) == len(samples)
        }
        rows.append({**_image(folder, sample), **told, **figures})
    return rows


def _image(folder: Path, sample: Mapping[str, Any]) -> dict[str, Path]:
    path = folder / str(sample.get("image") or "")
    return {"image": path} if path.is_file() else {}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
