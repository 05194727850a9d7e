"""Captions of held-out images before and after training, what changed marked word by word."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from sightloop.report.cards import more_cards, spread, value_at, with_image
from sightloop.report.labels import (
    GUARDS,
    HEADLINES,
    POOLED,
    bare,
    first_of,
    is_share,
    label_of,
    number,
    rank_of,
)
from sightloop.report.markup import Markup, element, together
from sightloop.report.run import EvaluationRecord, RunRecords
from sightloop.report.tables import evaluated_steps
from sightloop.report.words import compare, marked_words

MAX_PAIRS = 12
MAX_LOSSES = 4
_CHIPS = 4
_FIRST_CHIPS = ("recall@1", "precision", "hallucinates", "told", "length")


def before_and_after(run: RunRecords) -> Markup:
    """Captions of the first and the compared evaluation beside their images, changed words marked."""
    steps = evaluated_steps(run)
    records = records_with_captions(run)
    if steps is None or not records:
        return element("p", "No evaluation has stored captions yet.", class_="empty")
    first = records[min(records)]
    later = records.get(steps[1])
    rows = shown_rows(first)
    stored = sum("image" in sample for sample in first.samples)
    kept = "whose images the run folder holds" if stored else "of the held-out set"
    intro = f"{len(rows)} of {stored or len(first.samples)} captions {kept}, evenly spaced."
    if later is None or later is first:
        cards = [caption_card(run, records, row, None) for row in rows]
        return together([element("p", intro, class_="note"), element("div", *cards, class_="cards")])
    has_truth = any(first.samples[row].get("truth") for row in rows)
    legend = ["Marked: ", element("del", "words that went"), ", ", element("ins", "words that came")]
    if has_truth:
        legend += [", ", element("span", "words that the true description does not hold", class_="doubt")]
    parts = [
        element("p", intro, " ", *legend, ".", class_="note"),
        element("div", *(caption_card(run, records, row, later.step) for row in rows), class_="cards"),
    ]
    metric, losers = losses(run, first, later.step)
    losers = [row for row in losers if row not in rows]
    if losers:
        parts += [
            element("h3", f"Largest losses among them: {label_of(metric).text}"),
            element("div", *(caption_card(run, records, row, later.step) for row in losers), class_="cards"),
        ]
    rest = [row for row in _pictured(first) if row not in {*rows, *losers}]
    parts.append(more_cards((caption_card(run, records, row, later.step) for row in rest), len(rest)))
    return together(parts)


def has_captions(run: RunRecords) -> bool:
    """True if an evaluation stored captions."""
    return bool(records_with_captions(run))


def losses(run: RunRecords, first: EvaluationRecord, later: int) -> tuple[str, list[int]]:
    """The guarding metric, else the headline, and the rows where it fell most, largest fall first."""
    paired = {metric: (old, new) for metric, old, new in paired_values(run, first, later)}
    metric = first_of([*GUARDS, *HEADLINES], paired)
    if metric is None:
        return "", []
    falls = [
        (after - before) * label_of(metric).better for before, after in zip(*paired[metric], strict=True)
    ]
    records = records_with_captions(run)
    after = records[later].samples if later in records else first.samples
    candidates = [
        row
        for row, sample in enumerate(first.samples)
        if sample.get("image") and falls[row] < 0 and sample.get("caption") != after[row].get("caption")
    ]
    return metric, sorted(candidates, key=lambda row: falls[row])[:MAX_LOSSES]


def shown_rows(record: EvaluationRecord) -> list[int]:
    """Rows of an evaluation that are shown: those with an image if there are any, evenly spaced."""
    return spread(_pictured(record), MAX_PAIRS)


def _pictured(record: EvaluationRecord) -> list[int]:
    pictured = [row for row, sample in enumerate(record.samples) if sample.get("image")]
    return pictured or list(range(len(record.samples)))


def records_with_captions(run: RunRecords) -> dict[int, EvaluationRecord]:
    """Evaluations of one evaluator: the one that stored most images, else most captions.

    They have a caption of each image that the first one has: files may be lost.
    """

    def extent(by_step: dict[int, EvaluationRecord]) -> tuple[int, int]:
        samples = [sample for sample in next(iter(by_step.values())).samples if "caption" in sample]
        return sum("image" in sample for sample in samples), len(samples)

    best = max(run.evaluations.values(), key=extent, default={})
    if not best or not extent(best)[1]:
        return {}
    number = len(next(iter(best.values())).samples)
    return {step: record for step, record in best.items() if len(record.samples) == number}


def caption_card(
    run: RunRecords, records: dict[int, EvaluationRecord], row: int, later: int | None
) -> Markup:
    """One image with its caption at the first evaluation and at the step `later`, if there is one."""
    first = records[min(records)]
    sample = first.samples[row]
    before, truth = sample.get("caption", ""), sample.get("truth", "")
    same = {step: record for step, record in records.items() if _source(record, row) == sample.get("source")}
    parts: list[str] = []
    if later is not None and later in same:
        old, new = compare(before, same[later].samples[row].get("caption", ""), truth)
        parts += _row("Before", marked_words(old, "del")) + _row(
            f"After {later:,} steps", marked_words(new, "ins")
        )
    else:
        parts += _row(
            "Before" if first.step == 0 else f"Step {first.step:,}",
            marked_words(compare(before, before, truth)[0], "del"),
        )
    if truth:
        parts += _row("Truth", element("span", truth, class_="truth"))
    body = [element("dl", *parts)]
    if later is not None:
        body.append(_chips(_moved(run, first, row, later)))
    between = [step for step in same if step not in (first.step, later)]
    if between:
        lines = [
            element("li", element("b", f"Step {step:,}"), " ", same[step].samples[row].get("caption", ""))
            for step in same
        ]
        body.append(
            element("details", element("summary", f"All {len(same)} evaluations"), element("ol", *lines))
        )
    return with_image(run, sample.get("source", ""), sample.get("image", ""), body)


def _source(record: EvaluationRecord, row: int) -> str | None:
    return record.samples[row].get("source") if row < len(record.samples) else None


def _row(name: str, content: str) -> list[str]:
    return [element("dt", name), element("dd", content)]


def _moved(run: RunRecords, first: EvaluationRecord, row: int, later: int) -> list[str]:
    """What each evaluator says about this image, before and after; the most telling metrics first."""
    chips: dict[str, str] = {}
    for metric, old, new in paired_values(run, first, later):
        if bare(metric) in POOLED:
            continue
        before, after = value_at(old, row), value_at(new, row)
        if math.isfinite(before) and math.isfinite(after):
            chips[metric] = f"{label_of(metric).text} {_plainly(before)} → {_plainly(after)}"
    return [chips[metric] for metric in sorted(chips, key=_chip_rank)]


def paired_values(
    run: RunRecords, first: EvaluationRecord, later: int
) -> Iterator[tuple[str, list[float], list[float]]]:
    """Metrics with a value for each of the images, before and after."""
    sources = [sample.get("source") for sample in first.samples]
    for name, by_step in run.evaluations.items():
        old, new = by_step.get(first.step), by_step.get(later)
        if old is None or new is None:
            continue
        if any([sample.get("source") for sample in record.samples] != sources for record in (old, new)):
            continue
        for metric, values in old.per_sample.items():
            if len(values) == len(new.per_sample.get(metric, [])) == len(sources):
                yield f"{name}/{metric}", values, new.per_sample[metric]


def _chip_rank(metric: str) -> tuple[int, tuple[int, int, str]]:
    name = bare(metric)
    return _FIRST_CHIPS.index(name) if name in _FIRST_CHIPS else len(_FIRST_CHIPS), rank_of(metric)


def _plainly(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() else number(value, share=is_share(value), decimals=2)


def _chips(texts: Sequence[str]) -> Markup:
    shown = list(texts[:_CHIPS])
    return element("ul", *(element("li", text) for text in shown), class_="chips") if shown else Markup("")
