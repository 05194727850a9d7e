"""Samples of a run on its live page: chosen by step, text, category and gain, sorted, a page at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sightloop.report.captions import caption_card, paired_values, records_with_captions
from sightloop.report.comparison import num_same, same_images, words_of_same
from sightloop.report.drawings import Drawings, drawing_card, drawings_of, is_right
from sightloop.report.gallery import credited_card
from sightloop.report.groups import group_card, grouped, is_taught
from sightloop.report.labels import category_name, label_of, rank_of
from sightloop.report.markup import Markup, element, together
from sightloop.report.run import GallerySample, RunRecords
from sightloop.report.tables import evaluated_steps
from sightloop.report.tokens import credit_limit, legend

PAGE = 12
"""Cards that are sent at once."""
_CHANGES = {"gain": 1, "loss": -1, "same": 0}


@dataclass(frozen=True, kw_only=True)
class SampleQuery:
    """Which samples are asked for."""

    step: int | None = None
    text: str = ""
    category: str = ""
    metric: str = ""
    """Whose change is a gain or a loss."""
    change: str = ""
    """gain, loss or same."""
    sort: str = ""
    """gain, loss, high or low; "" = as they were evaluated or sampled."""
    start: int = 0
    only: int | None = None
    """One card alone."""

    @staticmethod
    def of(given: Mapping[str, str]) -> SampleQuery:
        """From the parameters of an address; what is no number counts as not given."""
        step, start, only = (_whole(given.get(name, "")) for name in ("step", "start", "only"))
        words = {name: given.get(name, "") for name in ("text", "category", "metric", "change", "sort")}
        return SampleQuery(step=step, start=start or 0, only=only, **words)


def pair_steps(run: RunRecords) -> list[int]:
    """Steps whose samples can be compared with those of the first evaluation."""
    drawings = drawings_of(run)
    records = drawings.records if drawings else records_with_captions(run)
    return sorted(records)[1:]


def pair_categories(run: RunRecords) -> dict[str, str]:
    """Categories of the compared samples, with their names."""
    drawings = drawings_of(run)
    found = (sample.get("category", "") for sample in (drawings.first.samples if drawings else []))
    return {name: category_name(name) for name in dict.fromkeys(found) if name}


def pair_metrics(run: RunRecords) -> dict[str, str]:
    """Metrics that each caption has a value of, with their names, the most telling first."""
    records = records_with_captions(run)
    if drawings_of(run) is not None or len(records) < 2:
        return {}
    found = [name for name, _, _ in paired_values(run, records[min(records)], max(records))]
    return {name: label_of(name).text for name in sorted(found, key=rank_of) if label_of(name).better}


def pairs(run: RunRecords, query: SampleQuery) -> Markup:
    """Captions or drawings before training and at a later step."""
    drawings = drawings_of(run, query.step)
    if drawings is not None:
        return _drawing_pairs(run, drawings, query)
    records, steps = records_with_captions(run), evaluated_steps(run)
    if not records or steps is None:
        return _nothing("No evaluation has stored captions or drawings yet.")
    first = records[min(records)]
    wanted = steps[1] if query.step is None else query.step
    later = wanted if wanted in records and wanted != first.step else None
    gains = [0.0] * len(first.samples)
    if later is not None:
        paired = {name: (old, new) for name, old, new in paired_values(run, first, later)}
        metric = query.metric if query.metric in paired else next(iter(pair_metrics(run)), None)
        if metric is not None:
            better = label_of(metric).better or 1
            gains = [(new - old) * better for old, new in zip(*paired[metric], strict=True)]
    shown = [first.samples, records[later].samples if later is not None else []]
    texts = ["\n".join("\n".join(side[row].values()) for side in shown if side) for row in range(len(gains))]
    rows = [row for row in range(len(gains)) if _fits(query, gains[row], texts[row], "")]
    rows = _sorted(rows, query, gains)
    return _page(rows, query, lambda row: caption_card(run, records, row, later))


def _drawing_pairs(run: RunRecords, drawings: Drawings, query: SampleQuery) -> Markup:
    first, last = drawings.both[0], drawings.both[-1]
    gains = [float(is_right(last, row)) - float(is_right(first, row)) for row in range(len(first.samples))]
    both = zip(first.samples, last.samples, strict=True)
    texts = ["\n".join([*old.values(), *new.values()]) for old, new in both]
    categories = [sample.get("category", "") for sample in first.samples]
    rows = [row for row, gain in enumerate(gains) if _fits(query, gain, texts[row], categories[row])]
    rows = _sorted(rows, query, gains)
    page = _page(rows, query, lambda row: drawing_card(run, drawings, row), kind="cards drawings wide")
    if drawings.later is None or query.start:
        return page
    moved = f"{gains.count(1.0)} drawings became right, {gains.count(-1.0)} became wrong."
    return together([element("p", moved, class_="note"), page])


def credited(run: RunRecords, query: SampleQuery) -> Markup:
    """Samples of a training batch: words in the color of their credit, or groups of drawings."""
    steps = [step for step, samples in run.galleries.items() if samples]
    if not steps:
        return _nothing("No gallery of samples has been written yet.")
    step = query.step if query.step in steps else max(steps)
    samples = run.galleries[step]
    limit = credit_limit(samples)
    groups = [[sample] for sample in samples]
    drawn = any(sample.group is not None for sample in samples)
    if drawn:
        groups = grouped(samples)
    taught = is_taught(samples)
    rewards = [_mean([_reward(sample) for sample in group]) for group in groups]
    credit = [
        sum(value for each in group for value in each.credit if math.isfinite(value)) for group in groups
    ]
    rows = [
        row
        for row, group in enumerate(groups)
        if _fits(query, credit[row], "\n".join(map(_text_of, group)), "")
    ]

    def card(row: int) -> Markup:
        if drawn:
            return group_card(run, groups[row], limit, taught)
        return credited_card(run, groups[row][0], limit)

    kind = "groups" if drawn else "cards"
    page = _page(_sorted(rows, query, rewards), query, card, kind=kind, anchor="credit")
    return page if query.start else together([legend(limit), page])


def same(runs: Sequence[RunRecords], query: SampleQuery) -> Markup:
    """What several runs made of the same images."""
    rows = [row for row in range(num_same(runs)) if query.text.lower() in words_of_same(runs, row).lower()]
    if not num_same(runs):
        return same_images(runs, rows=())
    return _page(rows, query, lambda row: same_images(runs, rows=[row]), kind="same", anchor="same")


def _page(
    rows: Sequence[int],
    query: SampleQuery,
    card: Callable[[int], Markup],
    *,
    kind: str = "cards",
    anchor: str = "samples",
) -> Markup:
    if query.only is not None:
        rows = [row for row in rows if row == query.only]
    if not rows:
        return _nothing("Nothing fits.")
    end = min(query.start + PAGE, len(rows))
    step = "" if query.step is None else f"&step={query.step}"
    cards = [
        element("div", card(row), _link(f"#{anchor}?only={row}{step}", row), class_="found-card")
        for row in rows[query.start : end]
    ]
    parts = [element("div", *cards, class_=kind)]
    if len(rows) > 1:
        parts.insert(0, element("p", f"{query.start + 1} to {end} of {len(rows):,}", class_="note count"))
    if end < len(rows):
        rest = f"{min(PAGE, len(rows) - end)} more"
        parts.append(element("button", rest, type="button", class_="more", data_start=end))
    return together(parts)


def _link(address: str, row: int) -> Markup:
    return element("a", "link", href=address, class_="link", data_only=row)


def _fits(query: SampleQuery, gain: float, text: str, category: str) -> bool:
    wanted = _CHANGES.get(query.change)
    return (
        (wanted is None or (gain > 0) - (gain < 0) == wanted)
        and query.text.lower() in text.lower()
        and query.category in ("", category)
    )


def _sorted(rows: Sequence[int], query: SampleQuery, values: Sequence[float]) -> list[int]:
    if query.sort in ("gain", "high"):
        return sorted(rows, key=lambda row: -_or(values[row], -math.inf))
    if query.sort in ("loss", "low"):
        return sorted(rows, key=lambda row: _or(values[row], math.inf))
    return list(rows)


def _or(value: float, other: float) -> float:
    return other if math.isnan(value) else value


def _reward(sample: GallerySample) -> float:
    return sum(v for v in sample.rewards if math.isfinite(v)) if math.isnan(sample.reward) else sample.reward


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _text_of(sample: GallerySample) -> str:
    return "\n".join([sample.source, "".join(sample.pieces), sample.question, sample.truth, sample.answer])


def _whole(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 12 else None


def _nothing(text: str) -> Markup:
    return element("p", text, class_="empty")
