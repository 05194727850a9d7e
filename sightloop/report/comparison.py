"""Several runs on one page: their figures, their curves in one chart, what each made of the same images."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from sightloop.report.captions import records_with_captions
from sightloop.report.cards import image_of, spread, with_image
from sightloop.report.curves import curves_overlaid
from sightloop.report.drawings import drawings_of, is_right
from sightloop.report.figures import NUM_COLORS
from sightloop.report.labels import capital, is_share, label_of, number, rank_of
from sightloop.report.markup import Markup, element, together
from sightloop.report.page import Section, charts_of, document, flat_settings
from sightloop.report.run import EvaluationRecord, RunRecords, read_run
from sightloop.report.tables import (
    MetricValues,
    change_between,
    evaluated_steps,
    interval_text,
    same_samples,
    verdict,
)
from sightloop.terminal import printable

_MAX_SAME = 24
_FOLLOWS = ("hash", "captions")
"""Of a protocol, what differs because something else does."""


def write_comparison(run_folders: Sequence[Path], page: Path) -> Path:
    """Write a page about several runs; its path.

    Raises:
        ValueError: a folder is no run folder, or holds a damaged file.
    """
    runs = [read_run(folder) for folder in run_folders]
    note = "Written by sightloop from run folders. The page needs no other file and no network."
    title = " and ".join(run_names(runs))
    whole = document(title, comparison_heading(runs), comparison_sections(runs), note=note)
    page.parent.mkdir(parents=True, exist_ok=True)
    temporary = page.with_suffix(".html.tmp")
    temporary.write_text(printable(whole), encoding="utf-8")
    os.replace(temporary, page)
    return page


def run_names(runs: Sequence[RunRecords]) -> list[str]:
    """A name for each run: its folder's, with as many of the folders above it as tell them apart."""
    depth, most = 1, max(len(run.path.parts) for run in runs)
    while depth < most and len({run.path.parts[-depth:] for run in runs}) < len(runs):
        depth += 1
    return ["/".join(run.path.parts[-depth:]) for run in runs]


def comparison_heading(runs: Sequence[RunRecords]) -> Markup:
    """The runs by name, each in its color with what it achieved."""
    lines = [
        element("li", _swatch(place), element("b", name), " ", verdict(run))
        for place, (name, run) in enumerate(zip(run_names(runs), runs, strict=True))
    ]
    return together([element("h1", f"{len(runs)} runs"), element("ul", *lines, class_="runs")])


def comparison_sections(runs: Sequence[RunRecords]) -> list[Section]:
    """Figures, curves, the same images, and the settings that differ."""
    names = run_names(runs)
    groups = curves_overlaid(runs, names)
    return [
        ("figures", "Held-out evaluation", _figures(runs, names)),
        ("curves", "Curves", charts_of(groups) if groups else _nothing("No step has been logged yet.")),
        ("same", "The same images", same_images(runs, rows=spread(range(num_same(runs)), _MAX_SAME))),
        ("settings", "Settings that differ", _settings(runs, names)),
    ]


def num_same(runs: Sequence[RunRecords]) -> int:
    """How many images or prompts all runs were evaluated on in the same order."""
    return _shared(_latest(runs))


def same_images(runs: Sequence[RunRecords], *, rows: Sequence[int]) -> Markup:
    """What each run made of the same images or prompts, a card each."""
    records = _latest(runs)
    if not _shared(records):
        return _nothing("These runs were not evaluated on the same images.")
    names = run_names(runs)
    cards = [_same_card(runs, names, records, row) for row in rows]
    kind = "cards drawings wide" if _of_drawings(records) else "cards"
    return element("div", *cards, class_=kind)


def words_of_same(runs: Sequence[RunRecords], row: int) -> str:
    """All texts of one image, to search in."""
    return "\n".join(text for record in _latest(runs) if record for text in record.samples[row].values())


def _latest(runs: Sequence[RunRecords]) -> list[EvaluationRecord | None]:
    """Of each run the evaluation that its figures are of, with captions or drawings."""
    found: list[EvaluationRecord | None] = []
    for run in runs:
        steps, drawings, records = evaluated_steps(run), drawings_of(run), records_with_captions(run)
        if drawings is not None:
            found.append(drawings.later or drawings.first)
        else:
            found.append(records.get(steps[1]) if steps else None)
    return found


def _shared(records: Sequence[EvaluationRecord | None]) -> int:
    """How many samples there are; 0 unless they are the same in all runs."""
    first, *others = records
    if first is None or not all(other is not None and same_samples(first, other) for other in others):
        return 0
    return len(first.samples)


def _of_drawings(records: Sequence[EvaluationRecord | None]) -> bool:
    return any(record.of_drawings for record in records if record)


def _same_card(
    runs: Sequence[RunRecords],
    names: Sequence[str],
    records: Sequence[EvaluationRecord | None],
    row: int,
) -> Markup:
    found = [record for record in records if record]
    first = found[0].samples[row]
    if not found[0].of_drawings:
        lines: list[str] = []
        for place, (name, record) in enumerate(zip(names, found, strict=True)):
            lines += [element("dt", _swatch(place), name)]
            lines += [element("dd", record.samples[row].get("caption", ""))]
        if first.get("truth"):
            lines += [element("dt", "Truth"), element("dd", element("span", first["truth"], class_="truth"))]
        return with_image(runs[0], first.get("source", ""), first.get("image", ""), [element("dl", *lines)])
    figures = [
        element(
            "figure",
            image_of(run, record.samples[row].get("image", ""), f"{name}: {first.get('source', '')}"),
            element(
                "figcaption",
                element("span", _swatch(place), name),
                element(
                    "span",
                    "✓ right" if is_right(record, row) else "✗ wrong",
                    class_="right" if is_right(record, row) else "wrong",
                ),
                element("span", record.samples[row].get("answer", "")),
            ),
        )
        for place, (run, name, record) in enumerate(zip(runs, names, found, strict=True))
    ]
    title = element("h4", first.get("source", ""))
    return element("article", title, element("div", *figures, class_="pictures"), class_="group")


def _figures(runs: Sequence[RunRecords], names: Sequence[str]) -> Markup:
    places = [
        MetricValues(run=run, step=steps[1]) for run in runs if (steps := evaluated_steps(run)) is not None
    ]
    if len(places) < len(runs):
        without = [name for name, run in zip(names, runs, strict=True) if not run.evals]
        return _nothing(f"No evaluation yet: {', '.join(without)}.")
    metrics = sorted({name for place in places for name in place.run.evals[place.step]}, key=rank_of)
    columns = [f"{name}, step {place.step:,}" for name, place in zip(names, places, strict=True)]
    if len(runs) == 2:
        columns += ["Change", "95% interval", "Reading"]
    rows = [_row(metric, places) for metric in metrics]
    head = element("tr", *(element("th", title, scope="col") for title in ("Metric", *columns)))
    table = element("table", element("thead", head), element("tbody", *rows), class_="figures")
    notes = [element("p", text, class_="note") for text in _protocols_that_differ(places)]
    if len(runs) == 2:
        text = "Change: the second run minus the first, with the paired 95% interval where both saw the same"
        notes.append(element("p", f"{text} samples.", class_="note"))
    scroll = element(
        "div", table, class_="scroll", tabindex="0", role="region", aria_label="Figures of the runs"
    )
    return together([scroll, *notes])


def _protocols_that_differ(places: Sequence[MetricValues]) -> list[str]:
    """A sentence for each evaluation that the runs did not do alike, with what differs."""
    sentences: list[str] = []
    for name in dict.fromkeys(name for place in places for name in place.run.evaluations):
        records = [place.run.evaluations.get(name, {}).get(place.step) for place in places]
        found = [record.protocol for record in records if record]
        keys = dict.fromkeys(key for each in found for key in each if key not in _FOLLOWS)
        differences = [
            f"{key.replace('_', ' ')} ({' and '.join(values)})"
            for key in keys
            if len(values := list(dict.fromkeys(each.get(key, "none") for each in found))) > 1
        ]
        if differences:
            what = f"{capital(name.replace('_', ' '))} was not measured alike, so compare with care"
            sentences.append(f"{what}: {', '.join(differences)}.")
    return sentences


def _row(metric: str, places: Sequence[MetricValues]) -> Markup:
    label = label_of(metric)
    name = element("th", capital(label.text), scope="row", title=f"{metric} {label.meaning}".strip())
    if len(places) == 2:
        change = change_between(metric, *places)
        cells = [change.formatted(change.before), change.formatted(change.after)]
        cells += [change.moved(change.difference), interval_text(change) or "\N{EN DASH}", change.verdict]
    else:
        values = [place.run.evals[place.step].get(metric, math.nan) for place in places]
        cells = [number(value, share=is_share(*values)) for value in values]
    return element("tr", name, *(element("td", cell) for cell in cells))


def _settings(runs: Sequence[RunRecords], names: Sequence[str]) -> Markup:
    flat = [flat_settings(run.config) for run in runs]
    keys = list(dict.fromkeys(key for each in flat for key in each))
    differing = [key for key in keys if len({each.get(key, "") for each in flat}) > 1]
    if not differing:
        return _nothing("None.")
    head = element("tr", *(element("th", title, scope="col") for title in ("Setting", *names)))
    rows = [
        element("tr", element("th", key, scope="row"), *(element("td", each.get(key, "")) for each in flat))
        for key in differing
    ]
    table = element("table", element("thead", head), element("tbody", *rows), class_="figures")
    return _scroll(table, "Settings")


def _scroll(table: Markup, label: str) -> Markup:
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)


def _swatch(place: int) -> Markup:
    return element("span", class_=f"swatch run{place % NUM_COLORS}", aria_hidden="true")


def _nothing(text: str) -> Markup:
    return element("p", text, class_="empty")
