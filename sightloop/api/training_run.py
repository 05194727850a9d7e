"""A run as a program and a notebook see it: figures, captions before and after, the page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sightloop.late import late
from sightloop.report.captions import has_captions, records_with_captions, shown_rows
from sightloop.report.labels import label_of
from sightloop.report.markup import Markup, element, together
from sightloop.report.page import write_report
from sightloop.report.run import EvaluationRecord, RunRecords, read_run, run_image
from sightloop.report.tables import CHANGE_COLUMNS, cells_of, changes, evaluated_steps, verdict

# Both load networks, which looking at figures does not need.
_load = late("sightloop.api.model:load")
_NUM_ROWS, _NUM_CARDS = 6, 4
_STYLE = "border:1px solid #8884;padding:4px 8px;text-align:left"


class TrainingRun:
    """A run folder. What it holds is read anew each time, also while the run goes on."""

    def __init__(self, folder: str | Path, *, stopped: bool = False) -> None:
        self.folder = Path(folder)
        self.stopped = stopped
        """Whether a signal, such as a scheduler's, ended the training in this process."""

    def __repr__(self) -> str:
        return f"<sightloop.TrainingRun {self.folder}>"

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def verdict(self) -> str:
        """What the run achieved so far, in one sentence."""
        return verdict(self._records)

    def metrics(self, kind: str = "train") -> Any:
        """A row a step: of "train" the batch's figures, of "eval" those of evaluations, step 0 before
        training. A `pandas.DataFrame` if pandas is installed, else a list of dictionaries.

        Raises:
            ValueError: another kind.
        """
        if kind not in ("train", "eval"):
            raise ValueError(f"kind is {kind!r}; use 'train' or 'eval'")
        by_step = self._records.train if kind == "train" else self._records.evals
        return _table([{"step": step, **figures} for step, figures in by_step.items()])

    def changes(self) -> Any:
        """What training changed, a row a metric: before, after, the 95% interval of the paired change."""
        rows = [
            {
                "metric": change.metric,
                "before": change.before,
                "after": change.after,
                "change": change.difference,
                "low": change.low,
                "high": change.high,
                "verdict": change.verdict,
            }
            for change in changes(self._records)
        ]
        return _table(rows)

    def captions(self, images: Any = None) -> Any:
        """Captions before and after training, a row an image: of its evaluated images, or of such as are
        given (by their places); of a run that evaluates nothing, of images of its last gallery.

        Raises:
            ValueError: the model draws, or there is nothing to caption yet.
        """
        run = self._records
        if run.draws:
            raise ValueError(f"{self!r} trained a model that draws; see changes() and report()")
        if images is None and has_captions(run):
            return _table(_pairs(run))
        shown = self._gallery() if images is None else images
        before, after = (_load(self, step=step).caption(shown) for step in ("start", "best"))
        names = shown if images is None else range(len(before))
        rows = zip(names, before, after, strict=True)
        return _table([{"image": name, "before": one, "after": other} for name, one, other in rows])

    def report(self) -> Path:
        """Write the page about the run; its path."""
        return write_report(self.folder)

    def _gallery(self) -> list[str]:
        galleries = self._records.galleries
        shown = [sample.image for sample in galleries[max(galleries)]] if galleries else []
        paths = [str(self.folder / image) for image in dict.fromkeys(shown) if image]
        if not paths:
            raise ValueError(f"{self!r} holds no image yet; give some: captions(images)")
        return paths

    @property
    def _records(self) -> RunRecords:
        return read_run(self.folder)

    def _repr_html_(self) -> str:
        """What a notebook shows: the verdict, the figures that tell most, a few captions."""
        run = self._records
        parts = [element("p", element("b", run.name), ": ", verdict(run))]
        rows = [cells_of(change) for change in changes(run)[:_NUM_ROWS] if change.has_interval]
        if rows:
            named = [[label_of(row[0]).text, *row[1:]] for row in rows]
            parts.append(_html_table(["", "before", "after", *CHANGE_COLUMNS], named))
        if has_captions(run):
            parts.append(_html_table(["", "before", "after"], _cards(run)))
        parts += [element("p", f"alarm at step {alarm.step}: {alarm.message}") for alarm in run.alarms[-3:]]
        return str(together(parts))


def _pairs(run: RunRecords) -> list[dict[str, Any]]:
    first, later = _records_of(run)
    after = [sample.get("caption", "") for sample in later.samples]
    return [
        {"image": sample.get("source", ""), "before": sample.get("caption", ""), "after": text}
        for sample, text in zip(first.samples, after, strict=True)
    ]


def _records_of(run: RunRecords) -> tuple[EvaluationRecord, EvaluationRecord]:
    """The first evaluation of captions, and the one to compare it with."""
    steps = evaluated_steps(run)
    held = records_with_captions(run)
    assert steps is not None and held
    return held[min(held)], held.get(steps[1], held[max(held)])


def _cards(run: RunRecords) -> list[list[Markup | str]]:
    first, later = _records_of(run)
    rows: list[list[Markup | str]] = []
    for row in shown_rows(first)[:_NUM_CARDS]:
        sample = first.samples[row]
        found = run_image(run, sample.get("image", ""))
        image = element("img", src=found.uri, width="96") if found else Path(sample.get("source", "")).name
        rows.append([image, sample.get("caption", ""), later.samples[row].get("caption", "")])
    return rows


def _html_table(header: Sequence[str], rows: Sequence[Sequence[Markup | str]]) -> Markup:
    lines = [element("tr", *(element("th", cell, style=_STYLE) for cell in header))]
    lines += [element("tr", *(element("td", cell, style=_STYLE) for cell in row)) for row in rows]
    return element("table", *lines)


def _table(rows: list[dict[str, Any]]) -> Any:
    if find_spec("pandas") is None:
        return rows
    import pandas

    return pandas.DataFrame(rows)
