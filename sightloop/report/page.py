"""The report of a run: one page that needs no network, no script and no other file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from sightloop.report.captions import before_and_after, has_captions
from sightloop.report.curves import ChartGroup, curves_in_order
from sightloop.report.drawings import drawings_before_and_after, drawings_of
from sightloop.report.figures import sparkline
from sightloop.report.gallery import gallery
from sightloop.report.joint import joint
from sightloop.report.judges import judges
from sightloop.report.labels import capital, is_further, label_of, number, plain
from sightloop.report.markup import Markup, element, together
from sightloop.report.run import EvaluationRecord, RunAlarm, RunRecords, read_run
from sightloop.report.tables import Change, changes, evaluated_steps, interval_text, verdict
from sightloop.terminal import printable

_FOLDER = Path(__file__).parent
Section = tuple[str, str, Markup]
"""Anchor, heading and content."""
_READINGS = {"better": "▲ better", "worse": "▼ worse"}
_NONE = "\N{EN DASH}"
# The page may show its own images and styles and nothing from anywhere else.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder, finished or not, and return its path.

    Raises:
        ValueError: if the folder is no run folder or holds a damaged file.
    """
    run = read_run(run_folder)
    path = run.path / "report.html"
    # A reader who reloads while the page is written sees the old page, not half of the new one.
    temporary = path.with_suffix(".html.tmp")
    temporary.write_text(printable(page(run)), encoding="utf-8")
    os.replace(temporary, path)
    return path


def page(run: RunRecords) -> str:
    """The whole page as HTML."""
    title = f"{run.recipe} · {run.name}" if run.recipe else run.name
    note = "Written by sightloop from a run folder. The page needs no other file and no network."
    return document(title, heading(run), _sections(run), note=note)


def document(title: str, top: Markup, sections: Sequence[Section], *, note: str) -> str:
    """A page that needs no other file: what stands on top, then the sections."""
    content = [
        element("header", top, class_="top"),
        navigation(sections),
        element("main", *(in_section(*each) for each in sections)),
        element("footer", note),
        element("script", Markup(page_file("page.js"))),
    ]
    policy = element("meta", http_equiv="Content-Security-Policy", content=_POLICY)
    styles = element("style", Markup(page_file("page.css")))
    return whole_page([policy, element("title", title), styles], content)


def whole_page(head: Sequence[str], content: Sequence[str], **attributes: str) -> str:
    """An HTML document."""
    usual = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
    ]
    body = element("body", *content, **attributes)
    return f"<!doctype html>\n{element('html', element('head', *usual, *head), body, lang='en')}\n"


def navigation(sections: Sequence[Section]) -> Markup:
    """Links to the sections."""
    links = [element("a", title, href=f"#{anchor}") for anchor, title, _ in sections]
    return element("nav", *links, aria_label="Sections")


def in_section(anchor: str, title: str, content: Markup) -> Markup:
    """One section under its heading."""
    return element("section", element("h2", title), content, id=anchor)


def page_file(name: str) -> str:
    """A file beside this one: page.css or page.js."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def _sections(run: RunRecords) -> list[Section]:
    drawings = drawings_of(run)
    shown: list[tuple[str, str, Markup]] = []
    if drawings is not None:
        shown += [
            ("drawings", "Before and after", drawings_before_and_after(run, drawings)),
            ("sides", "Drawing and answering", joint(drawings)),
        ]
    if has_captions(run) or not run.draws:
        title = "Before and after" if drawings is None else "Captions before and after"
        shown.append(("captions", title, before_and_after(run)))
    earned = "What each drawing and word earned" if run.draws else "What each word earned"
    return [*figures_of(run), *shown, ("credit", earned, gallery(run)), *further_of(run)]


def figures_of(run: RunRecords) -> list[Section]:
    """Evaluation, and the curves of rewards and evaluations."""
    main, _ = curves_in_order(run)
    found = together([_curves_note(run), charts_of(main)]) if main else _no_curves(run)
    return [
        ("evaluation", "Held-out evaluation", together([judges(run), _evaluation(run)])),
        ("curves", "Curves", found),
    ]


def further_of(run: RunRecords) -> list[Section]:
    """All other curves, and the setup."""
    _, others = curves_in_order(run)
    found = [("learning", "Further curves", charts_of(others))] if others else []
    return [*found, ("setup", "Setup", _setup(run))]


def heading(run: RunRecords) -> Markup:
    """The run's name, what it achieved in one sentence, its size, and its alarms."""
    recipe = [element("span", run.recipe, class_="recipe"), " "] if run.recipe else []
    return together(
        [
            element("h1", *recipe, run.name),
            element("p", verdict(run), class_="verdict"),
            element("p", " · ".join(_facts(run)), class_="facts"),
            _alarms(run.alarms),
        ]
    )


def _facts(run: RunRecords) -> list[str]:
    planned = run.planned_steps
    facts = [f"{run.last_step:,} of {planned:,} steps" if planned else f"{run.last_step:,} steps"]
    if not run.finished:
        facts[0] += " (unfinished)"
    seconds = sum(
        value
        for values in run.train.values()
        for name, value in values.items()
        if name.startswith("seconds/") and math.isfinite(value)
    )
    if seconds:
        facts.append(f"{_duration(seconds)} of training")
    if speeds := [v["speed/images_per_second"] for v in run.train.values() if "speed/images_per_second" in v]:
        what = "prompts" if run.draws else "images"
        facts.append(f"{number(sorted(speeds)[len(speeds) // 2])} {what} per second")
    records = [record for by in run.evaluations.values() for record in by.values() if record.samples]
    if records:
        largest = max(records, key=lambda record: len(record.samples))
        what = "drawings of held-out prompts" if largest.of_drawings else "held-out images"
        facts.append(f"evaluated on {len(largest.samples):,} {what}")
    return facts


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _alarms(alarms: Sequence[RunAlarm]) -> Markup:
    if not alarms:
        return element("p", "No alarm.", class_="calm")
    lines: list[str] = []
    ordered = sorted(alarms, key=lambda alarm: alarm.name)
    for name, group in groupby(ordered, key=lambda alarm: alarm.name):
        raised = sorted(group, key=lambda alarm: alarm.step)
        steps = [alarm.step for alarm in raised]
        when = f"step {steps[0]:,}"
        if len(steps) > 1:
            when = f"{len(steps)} times from step {steps[0]:,} to {steps[-1]:,}"
        lines.append(
            element("li", element("b", f"{capital(plain(name))} ({when}): "), capital(raised[-1].message))
        )
    title = element("h2", f"{len(lines)} alarm{'s' * (len(lines) != 1)}")
    return element("div", title, element("ul", *lines), class_="alarms", role="note")


def _evaluation(run: RunRecords) -> Markup:
    found, steps = changes(run), evaluated_steps(run)
    if not found or steps is None:
        return element("p", "No evaluation yet.", class_="empty")
    first, later, last = *steps, max(run.evals)
    columns = ["Metric", "Before" if first == 0 else f"Step {first:,}"]
    if later != first:
        columns.append(f"{'Best, step' if later == run.best_step else 'Step'} {later:,}")
        columns += (
            ["Change", "95% interval", "Reading"] + [f"Last, step {last:,}"] * (last != later) + ["Trend"]
        )
    titles = element("thead", element("tr", *(_column(column) for column in columns)))
    tables = [
        element(
            "div",
            element(
                "table",
                titles,
                element("tbody", *(_row(run, change, (first, later, last)) for change in group)),
                class_="figures" if later != first else "figures brief",
            ),
            class_="scroll",
            tabindex="0",
            role="region",
            aria_label="Held-out evaluation",
        )
        for further in (False, True)
        if (group := [change for change in found if is_further(change.metric) == further])
    ]
    pairs = max(change.num_samples for change in found)
    notes: list[str] = []
    if pairs:
        notes.append(
            f"Change: the compared step minus the start, with the 95% interval of a paired bootstrap over "
            f"{pairs:,} samples{', those of one prompt together' * run.draws}; “unclear” means that the "
            "interval holds zero."
        )
    if later != first and any(not change.has_interval for change in found):
        notes.append("No interval: the figure is no mean over samples that both evaluations share.")
    return together(
        [
            tables[0],
            element("p", " ".join(notes), class_="note") if notes else "",
            *(element("details", element("summary", "Further figures"), table) for table in tables[1:]),
            *_protocols(run, first, later),
        ]
    )


def _column(name: str) -> Markup:
    kinds = {"Reading": "reading left", "Trend": "trend left", "95% interval": "interval"}
    kind = kinds.get(name, "last" if name.startswith("Last") else None)
    return element("th", name, scope="col", class_=kind)


def _row(run: RunRecords, change: Change, steps: tuple[int, int, int]) -> Markup:
    first, later, last = steps
    label = label_of(change.metric)
    name = element("th", capital(label.text), scope="row", title=f"{change.metric} {label.meaning}".strip())
    cells = [element("td", change.formatted(change.before))]
    if later != first:
        reading = element(
            "span", _READINGS.get(change.verdict, change.verdict or _NONE), class_=change.verdict or "unclear"
        )
        history = [(float(step), values.get(change.metric, math.nan)) for step, values in run.evals.items()]
        text = f"{label.text}: " + ", ".join(f"step {s:.0f} {change.formatted(v)}" for s, v in history)
        cells += [
            element("td", element("b", change.formatted(change.after))),
            element("td", change.moved(change.difference)),
            element("td", interval_text(change) or _NONE, class_="interval"),
            # Narrow screens show the interval below the reading instead.
            element("td", reading, element("small", interval_text(change)), class_="reading"),
        ]
        if last != later:
            at_end = change.formatted(run.evals[last].get(change.metric, math.nan))
            cells.append(element("td", at_end, class_="last"))
        cells.append(element("td", sparkline(history, text), class_="trend"))
    return element("tr", name, *cells)


def _protocols(run: RunRecords, first: int, later: int) -> list[str]:
    parts: list[str] = []
    for name, by_step in run.evaluations.items():
        old, new = by_step.get(first), by_step.get(later)
        if old and new and (differing := _differing(old, new)):
            parts.append(
                element(
                    "p",
                    f"{name}: both evaluations were not made alike; they differ in {', '.join(differing)}.",
                    class_="caution",
                )
            )
    records = [next(reversed(by_step.values())) for by_step in run.evaluations.values()]
    lists = [
        together([element("h3", record.name), _definitions(record.protocol)])
        for record in records
        if record.protocol
    ]
    if lists:
        parts.append(element("details", element("summary", "How it was measured"), *lists))
    return parts


def _differing(old: EvaluationRecord, new: EvaluationRecord) -> list[str]:
    return [key for key in {**old.protocol, **new.protocol} if old.protocol.get(key) != new.protocol.get(key)]


def _curves_note(run: RunRecords) -> Markup:
    return element(
        "p",
        "Pale: raw values. Strong: centered moving average. Evaluations: dots with the 95% interval of "
        "the mean where it is known. Move over a chart to read all charts at that step.",
        element("span", " Triangles: steps that raised an alarm.") if run.alarms else "",
        class_="note",
    )


def _no_curves(run: RunRecords) -> Markup:
    text = "No reward has been logged yet." if run.train else "No step has been logged yet."
    return element("p", text, class_="empty")


def charts_of(groups: Sequence[ChartGroup]) -> Markup:
    """Charts under their headings, some folded away."""
    parts: list[str] = []
    for group in groups:
        body = [element("div", *group.charts, class_="charts")]
        if group.folded:
            parts.append(element("details", element("summary", group.title), *body))
        else:
            parts += [element("h3", group.title), *body]
    return together(parts)


def _setup(run: RunRecords) -> Markup:
    parts = [
        element("details", element("summary", title), _definitions(flat_settings(content)))
        for title, content in (("Configuration", run.config), ("Environment", run.environment))
        if content
    ]
    return (
        together(parts)
        if parts
        else element("p", "Neither config.json nor environment.json is there.", class_="empty")
    )


def flat_settings(content: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings in one line each: `optimizer.learning_rate: 0.0002`."""
    flat: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, dict) and value:
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = (
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            )
    return flat


def _spelled(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(value) or "none"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _definitions(content: dict[str, str]) -> Markup:
    pairs = [element("div", element("dt", key), element("dd", value)) for key, value in content.items()]
    return element("dl", *pairs, class_="settings")
