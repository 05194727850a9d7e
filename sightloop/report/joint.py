"""Drawing and answering beside each other: what was right on which side, and category by category."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from sightloop.evaluation.intervals import paired_difference
from sightloop.report.drawings import Drawings, is_right
from sightloop.report.labels import capital, category_name, number, signed
from sightloop.report.markup import Markup, element, together
from sightloop.report.run import EvaluationRecord

SIDES = {"drawn": "Drawn right", "answered": "Answered right"}
_RESAMPLES = 4000
_FEW_PROMPTS = 10
"""Fewer make an interval that is too narrow to call a change clear."""
_CELLS = (("right", "right"), ("right", "wrong"), ("wrong", "right"), ("wrong", "wrong"))


def joint(drawings: Drawings) -> Markup:
    """The four outcomes before and after, and both sides by category."""
    parts: list[str] = []
    if _has(drawings, "answered"):
        note = (
            "Each drawing was judged, and the model was asked about it. Right on one side alone is what "
            "UniRL calls imbalance."
        )
        tables = [_outcomes(record, drawings.first) for record in drawings.both]
        parts += [element("p", note, class_="note"), element("div", *tables, class_="outcomes")]
    if _has(drawings, "category"):
        parts += [element("h3", "By category"), _categories(drawings)]
    return together(parts)


def outcome_counts(record: EvaluationRecord) -> dict[tuple[str, str], int]:
    """How many samples were drawn (first) and answered (second) `right` or `wrong`."""
    pairs = [(sample.get("drawn", ""), sample.get("answered", "")) for sample in record.samples]
    return {cell: pairs.count(cell) for cell in _CELLS}


def _has(drawings: Drawings, key: str) -> bool:
    return any(sample.get(key) for sample in drawings.first.samples)


def _outcomes(record: EvaluationRecord, first: EvaluationRecord) -> Markup:
    counts, total = outcome_counts(record), len(record.samples)
    before = outcome_counts(first)

    def cell(drawn: str, answered: str) -> Markup:
        count, old = counts[drawn, answered], before[drawn, answered]
        share = count / total
        kind = "agree" if drawn == answered == "right" else "differ" if drawn != answered else None
        moved = "" if record is first else f", {signed((count - old) / total, share=True, decimals=2)}"
        return element(
            "td",
            element("b", number(share, share=True, decimals=2)),
            element("small", f"{count:,} of {total:,}{moved}"),
            class_=kind,
            style=f"--a:{share:.2f}",
        )

    def row(drawn: str) -> Markup:
        return element(
            "tr",
            element("th", f"drawn {drawn}", scope="row"),
            *(cell(drawn, answered) for answered in ("right", "wrong")),
        )

    title = "Before" if record.step == 0 else f"{'Step' if record is first else 'After'} {record.step:,}"
    title += " steps" * (record is not first)
    heading = element(
        "tr",
        element("td"),
        *(element("th", f"answered {verdict}", scope="col") for verdict in ("right", "wrong")),
    )
    return element(
        "table",
        element("caption", title),
        element("thead", heading),
        element("tbody", row("right"), row("wrong")),
        class_="outcome",
    )


def _categories(drawings: Drawings) -> Markup:
    samples = drawings.first.samples
    rows = {
        name: [row for row, sample in enumerate(samples) if sample.get("category") == name]
        for name in dict.fromkeys(sample.get("category", "") for sample in samples)
    }
    sides = [side for side in SIDES if _has(drawings, side)]
    compared = drawings.later is not None
    columns = ["Before" if drawings.first.step == 0 else f"Step {drawings.first.step:,}"]
    if drawings.later is not None:
        columns += [f"Step {drawings.later.step:,}", "Change", "95% interval"]
    heading = [
        element(
            "tr",
            element("td", colspan=2),
            *(element("th", SIDES[side], scope="colgroup", colspan=len(columns)) for side in sides),
            class_="sides",
        ),
        element(
            "tr",
            *(element("th", name, scope="col") for name in ("Category", "Drawings", *(columns * len(sides)))),
        ),
    ]
    body = [
        element(
            "tr",
            element("th", capital(category_name(name) or "none"), scope="row"),
            element("td", f"{len(members):,}"),
            *(cell for side in sides for cell in _side_cells(drawings, members, side)),
        )
        for name, members in rows.items()
    ]
    table = element("table", element("thead", *heading), element("tbody", *body), class_="figures categories")
    note = element(
        "p",
        f"Intervals: paired bootstrap over prompts. With fewer than {_FEW_PROMPTS} of them no change is "
        "called clear, whatever its interval.",
        class_="note",
    )
    scroll = element("div", table, class_="scroll", tabindex="0", role="region", aria_label="By category")
    return together([scroll, note if compared else ""])


def _side_cells(drawings: Drawings, rows: Sequence[int], side: str) -> list[Markup]:
    values = [[float(is_right(record, row, side)) for row in rows] for record in drawings.both]
    means = [fmean(flags) for flags in values]
    cells = [element("td", number(means[0], share=True, decimals=2))]
    if drawings.later is None:
        return cells
    prompts = [drawings.first.samples[row].get("source", "") for row in rows]
    interval = paired_difference(values[0], values[1], groups=prompts, resamples=_RESAMPLES)
    cells.append(element("td", element("b", number(means[1], share=True, decimals=2))))
    clear = (interval.low > 0 or interval.high < 0) and len(set(prompts)) >= _FEW_PROMPTS
    # Whether more right answers are better depends on what was drawn.
    kind = None if not clear or side != "drawn" else "better" if interval.low > 0 else "worse"
    mark = {"better": "▲ ", "worse": "▼ "}.get(kind or "", "")
    cells.append(element("td", mark + signed(interval.value, share=True, decimals=2), class_=kind))
    ends = [signed(end, share=True, decimals=2) for end in (interval.low, interval.high)]
    cells.append(element("td", f"[{ends[0]}, {ends[1]}]" if math.isfinite(interval.low) else "\N{EN DASH}"))
    return cells
