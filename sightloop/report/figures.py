"""Curves as inline SVG: ticks, smoothing and paths that can be checked by hand, values on hover."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from sightloop.report.labels import is_share, number
from sightloop.report.markup import Markup, element, together

Point = tuple[float, float]
WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 10, 26
MAX_POINTS = 160
"""Points drawn per curve; longer ones are averaged in blocks."""
NUM_COLORS = 6
"""Colors of runs in one chart, after which they repeat."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One metric over steps. `bands` are interval ends per point, given for evaluations only."""

    metric: str
    title: str
    points: list[Point]
    meaning: str = ""
    bands: list[Point] | None = None


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A range of values laid out between two places (pixels)."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """Where a value lies, in pixels."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True, kw_only=True)
class PlotFrame:
    """Both axes of a chart and the values marked on the upright one."""

    across: Axis
    up: Axis
    ticks: list[float]
    last_step: int


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) that enclose the range.

    >>> nice_ticks(0.13, 0.87)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if high <= low:
        size = abs(low) or 1.0
        low, high = low - size / 2, high + size / 2
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((power * factor for factor in (1, 2, 5) if rough <= power * factor * 1.0001), power * 10)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12 - math.floor(math.log10(step))) for index in range(first, last + 1)]


def step_ticks(last: int, count: int = 4) -> list[int]:
    """Whole steps for the horizontal axis, from 0 up to at most `last`."""
    ticks = nice_ticks(0, max(1, last), count)
    return sorted({int(tick) for tick in ticks if tick <= max(1, last) and tick == int(tick)})


def smooth(values: Sequence[float], radius: int) -> list[float]:
    """Means over the neighbors up to `radius` away on both sides, fewer at the ends.

    Values that are not finite are left out of the means and stay gaps.

    >>> smooth([0.0, 3.0, 0.0, 3.0, 6.0], radius=1)
    [1.5, 1.0, 2.0, 3.0, 4.5]
    """
    smoothed: list[float] = []
    for index, value in enumerate(values):
        near = [
            other for other in values[max(0, index - radius) : index + radius + 1] if math.isfinite(other)
        ]
        smoothed.append(sum(near) / len(near) if math.isfinite(value) else math.nan)
    return smoothed


def thin(points: Sequence[Point], limit: int) -> list[Point]:
    """At most `limit` points, each the mean of a block of neighbors (of its finite values).

    >>> thin([(1, 2.0), (2, 4.0), (3, 6.0), (4, 9.0)], limit=2)
    [(1.5, 3.0), (3.5, 7.5)]
    """
    size = math.ceil(len(points) / limit)
    if size <= 1:
        return list(points)
    thinned: list[Point] = []
    for start in range(0, len(points), size):
        block = points[start : start + size]
        finite = [value for _, value in block if math.isfinite(value)]
        mean = sum(finite) / len(finite) if finite else math.nan
        thinned.append((sum(step for step, _ in block) / len(block), mean))
    return thinned


def path(points: Sequence[Point], across: Axis, up: Axis) -> str:
    """The SVG path through the points in pixels; values that are not finite leave a gap.

    >>> path([(0, 0.0), (1, 1.0)], Axis(low=0, high=2, start=0, end=10), Axis(low=0, high=1, start=8, end=0))
    'M0 8L5 0'
    """
    written, pen = "", "M"
    for step, value in points:
        if not math.isfinite(value):
            pen = "M"
            continue
        written += f"{pen}{_short(across.place(step))} {_short(up.place(value))}"
        pen = "L"
    return written


def line_chart(curve: Curve, *, last_step: int, alarm_steps: Sequence[int] = ()) -> Markup:
    """One training metric: the smoothed line with the raw values behind it."""
    points = thin(curve.points, MAX_POINTS)
    frame = _frame(curve, [value for _, value in points], last_step)
    across, up = frame.across, frame.up
    levels = smooth([value for _, value in points], radius=max(1, len(points) // 24))
    line = [(step, level) for (step, _), level in zip(points, levels, strict=True)]
    drawing = [
        element("path", class_="raw", d=path(points, across, up)),
        element("path", class_="line", d=path(line, across, up)),
    ]
    if sum(math.isfinite(value) for _, value in points) == 1:
        drawing += [_dot(point, across, up) for point in points if math.isfinite(point[1])]
    notes = [
        f"{_step(step)}: {number(value)}" + (f" (mean {number(level)})" if len(points) > 2 else "")
        for (step, value), level in zip(points, levels, strict=True)
    ]
    drawing.append(_hover_columns(points, notes, across))
    return _chart(curve, drawing, frame, alarm_steps)


def dot_chart(curve: Curve, *, last_step: int, alarm_steps: Sequence[int] = ()) -> Markup:
    """One evaluation metric: a dot for each evaluation, with its interval where it is known."""
    values = [value for _, value in curve.points]
    bands = curve.bands or [(math.nan, math.nan)] * len(values)
    frame = _frame(curve, [*values, *(end for band in bands for end in band)], last_step)
    across, up = frame.across, frame.up
    drawing = [element("path", class_="line", d=path(curve.points, across, up))]
    notes: list[str] = []
    share = is_share(*values)
    for (step, value), (low, high) in zip(curve.points, bands, strict=True):
        note = f"{_step(step)}: {number(value, share=share)}"
        if math.isfinite(low) and math.isfinite(high):
            x = across.place(step)
            drawing.append(element("line", class_="band", x1=x, x2=x, y1=up.place(low), y2=up.place(high)))
            note += f" [{number(low, share=share)}, {number(high, share=share)}]"
        if math.isfinite(value):
            drawing.append(_dot((step, value), across, up))
        notes.append(note)
    drawing.append(_hover_columns(curve.points, notes, across))
    return _chart(curve, drawing, frame, alarm_steps)


def overlaid_chart(named: Sequence[tuple[str, Curve]], *, last_step: int) -> Markup:
    """One metric of several runs, each in its own color; a curve without points leaves its color unused."""
    curves = [(name, replace(curve, points=thin(curve.points, MAX_POINTS))) for name, curve in named]
    first = curves[0][1]
    frame = _frame(first, [value for _, curve in curves for _, value in curve.points], last_step)
    drawing: list[str] = []
    notes: dict[float, list[str]] = {}
    for place, (name, curve) in enumerate(curves):
        if not curve.points:
            continue
        radius = 0 if curve.bands is not None else max(1, len(curve.points) // 24)
        levels = smooth([value for _, value in curve.points], radius=radius)
        line = [(step, level) for (step, _), level in zip(curve.points, levels, strict=True)]
        kind = f"run{place % NUM_COLORS}"
        drawing.append(element("path", class_=f"line {kind}", d=path(line, frame.across, frame.up)))
        if curve.bands is not None or len(line) == 1:
            dots = [_dot(point, frame.across, frame.up) for point in line if math.isfinite(point[1])]
            drawing.append(element("g", *dots, class_=f"dots {kind}"))
        for step, level in line:
            notes.setdefault(step, []).append(f"{name}: {number(level)}")
    steps = sorted(notes)
    texts = [f"{_step(step)}\n" + "\n".join(notes[step]) for step in steps]
    drawing.append(_hover_columns([(step, 0.0) for step in steps], texts, frame.across))
    return _chart(replace(first, points=[]), drawing, frame, ())


def sparkline(points: Sequence[Point], description: str) -> Markup:
    """A small curve without axes, for a table cell."""
    values = [value for _, value in points if math.isfinite(value)]
    if len(values) < 2:
        return Markup("")
    ends = _widened(min(values), max(values))
    steps = [step for step, _ in points]
    across = Axis(low=min(steps), high=max(steps), start=4, end=86)
    up = Axis(low=ends[0], high=ends[1], start=20, end=4)
    last = next(point for point in reversed(points) if math.isfinite(point[1]))
    return element(
        "svg",
        element("path", class_="line", d=path(points, across, up)),
        _dot(last, across, up),
        class_="spark",
        viewBox="0 0 90 24",
        role="img",
        aria_label=description,
    )


def _frame(curve: Curve, values: Sequence[float], last_step: int) -> PlotFrame:
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    ticks = nice_ticks(min(finite), max(finite))
    # A rate cannot leave [0, 1], even where all its values agree and the range is made up.
    if curve.bands is not None and is_share(*finite):
        ticks = [tick for tick in ticks if 0 <= tick <= 1]
    return PlotFrame(
        across=Axis(low=0, high=max(1, last_step), start=LEFT, end=WIDTH - RIGHT),
        up=Axis(low=ticks[0], high=ticks[-1], start=HEIGHT - BOTTOM, end=TOP),
        ticks=ticks,
        last_step=last_step,
    )


def _chart(curve: Curve, drawing: Sequence[str], frame: PlotFrame, alarm_steps: Sequence[int]) -> Markup:
    finite = [point for point in curve.points if math.isfinite(point[1])]
    share = curve.bands is not None and is_share(*(value for _, value in finite))
    latest = number(finite[-1][1], share=share) if finite else "n/a"
    marks = [
        element("path", class_="alarm", d=f"M{_short(frame.across.place(step))} {TOP}l-4 -7h8z")
        for step in sorted(set(alarm_steps))
    ]
    lost = len(curve.points) - len(finite)
    caption = [element("span", curve.title, class_="name", title=f"{curve.metric} {curve.meaning}".strip())]
    if curve.points:
        caption.append(element("span", latest, class_="value", data_latest=latest))
    parts = [
        element("figcaption", *caption),
        element(
            "svg",
            _grid(frame),
            *marks,
            *drawing,
            element("path", class_="cross", d=f"M0 {TOP}V{HEIGHT - BOTTOM}"),
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            role="img",
            aria_label=_description(curve, finite, share=share),
        ),
    ]
    if lost:
        parts.append(element("p", f"{lost} of {len(curve.points)} values are not finite", class_="lost"))
    return element("figure", *parts, class_="chart")


def _grid(frame: PlotFrame) -> Markup:
    across, up = frame.across, frame.up
    parts: list[str] = []
    for tick in frame.ticks:
        y = up.place(tick)
        parts.append(element("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y))
        parts.append(
            element("text", _tick_text(tick), class_="tick", x=LEFT - 6, y=y + 3.5, text_anchor="end")
        )
    for tick in step_ticks(frame.last_step):
        x = across.place(tick)
        parts.append(element("line", class_="axis", x1=x, x2=x, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM + 4))
        parts.append(
            element("text", f"{tick:,}", class_="tick", x=x, y=HEIGHT - BOTTOM + 16, text_anchor="middle")
        )
    base = HEIGHT - BOTTOM
    parts.append(element("line", class_="axis", x1=LEFT, x2=WIDTH - RIGHT, y1=base, y2=base))
    return together(parts)


def _hover_columns(points: Sequence[Point], notes: Sequence[str], across: Axis) -> Markup:
    """Invisible columns, one for each point, that show its values; they meet half-way between neighbors."""
    places = [across.place(step) for step, _ in points]
    middles = [(a + b) / 2 for a, b in pairwise(places)]
    edges = [LEFT - 4.0, *middles, WIDTH - RIGHT + 4.0]
    columns = [
        element(
            "rect",
            element("title", note),
            x=left,
            y=TOP,
            width=max(right - left, 0.5),
            height=HEIGHT - TOP - BOTTOM,
            data_x=place,
            data_note=note,
        )
        for place, note, left, right in zip(places, notes, edges, edges[1:], strict=False)
    ]
    return element("g", *columns, class_="hover")


def _dot(point: Point, across: Axis, up: Axis) -> Markup:
    return element("circle", class_="dot", cx=across.place(point[0]), cy=up.place(point[1]), r=2.6)


def _description(curve: Curve, finite: Sequence[Point], *, share: bool) -> str:
    if not finite:
        return f"{curve.title}: no finite value" if curve.points else f"{curve.title} of several runs"
    (first_step, first), (last_step, last) = finite[0], finite[-1]
    values = [value for _, value in finite]
    return (
        f"{curve.title} over steps: {number(first, share=share)} at {_step(first_step)}, "
        f"{number(last, share=share)} at {_step(last_step)}; "
        f"lowest {number(min(values), share=share)}, highest {number(max(values), share=share)}"
    )


def _widened(low: float, high: float) -> Point:
    return (low, high) if high > low else (low - 1, high + 1)


def _step(step: float) -> str:
    return f"step {step:,.0f}"


def _tick_text(value: float) -> str:
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return number(value) if abs(value) < 1e-3 else f"{value:.0e}".replace("e+0", "e")
    return f"{value:,.10f}".rstrip("0").rstrip(".").replace("-", "\N{MINUS SIGN}")


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
