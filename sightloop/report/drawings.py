"""The same prompts and seeds drawn before and after training, side by side, with question and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sightloop.report.cards import MORE, image_of, more_cards, spread
from sightloop.report.labels import category_name
from sightloop.report.markup import Markup, element, together
from sightloop.report.run import EvaluationRecord, RunRecords, run_image
from sightloop.report.tables import evaluated_steps, same_samples
from sightloop.report.words import compare, marked_words

MAX_PER_KIND = 6
MAX_BETWEEN = 6
# Whether the drawing was right before and after, in the order in which they are shown.
KINDS = {
    (False, True): "Became right",
    (True, False): "Became wrong",
    (True, True): "Right before and after",
    (False, False): "Wrong before and after",
}


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """Judged drawings of one evaluator at the first step and at the one it is compared with."""

    records: dict[int, EvaluationRecord]
    """All evaluations of the same prompts and seeds, by step."""
    first: EvaluationRecord
    later: EvaluationRecord | None
    """None while there is nothing to compare with."""

    @property
    def both(self) -> list[EvaluationRecord]:
        """The first record, and the later one if there is one."""
        return [self.first] if self.later is None else [self.first, self.later]


def drawings_of(run: RunRecords, step: int | None = None) -> Drawings | None:
    """The drawings of the evaluator that kept most images; None if no evaluation judged drawings.

    They are compared with those of `step`; None = of the best or last evaluation.
    """
    evaluators = [by_step for by_step in run.evaluations.values() if by_step[min(by_step)].of_drawings]
    steps = evaluated_steps(run)
    if not evaluators or steps is None:
        return None
    found = max(evaluators, key=lambda by_step: _num_images(by_step[min(by_step)]))
    first = found[min(found)]
    same = {step: record for step, record in found.items() if same_samples(first, record)}
    later = same.get(steps[1] if step is None else step)
    return Drawings(records=same, first=first, later=None if later is first else later)


def drawings_before_and_after(run: RunRecords, drawings: Drawings) -> Markup:
    """Images of each kind of change with their questions and answers; how many there are of each kind."""
    rows = {kind: _rows(drawings, kind) for kind in KINDS}
    picked = {kind: _chosen(run, drawings, members) for kind, members in rows.items()}
    parts = [element("p", _intro(drawings, rows), *_legend(drawings), class_="note")]
    shown = [row for members in picked.values() for row in members]
    wide = " wide" if _has_large_image(run, drawings.first, shown) else ""
    for kind, title in KINDS.items():
        if not rows[kind]:
            continue
        if drawings.later is None:
            title = "Drawn right" if kind[0] else "Drawn wrong"
        cards = [drawing_card(run, drawings, row) for row in picked[kind]]
        count = element("span", f"{len(cards)} of {len(rows[kind]):,}", class_="count")
        kind_of_cards = f"cards drawings{wide}"
        parts += [element("h3", title, " ", count), element("div", *cards, class_=kind_of_cards)]
        rest = [row for row in rows[kind] if row not in picked[kind] and _is_pictured(run, drawings, row)]
        more = (drawing_card(run, drawings, row) for row in rest)
        parts.append(more_cards(more, len(rest), kind=kind_of_cards, room=MORE // len(KINDS)))
    return together(parts)


def is_right(record: EvaluationRecord, row: int, side: str = "drawn") -> bool:
    """Whether one sample was drawn (or answered) right."""
    return record.samples[row].get(side) == "right"


def _num_images(record: EvaluationRecord) -> int:
    return sum("image" in sample for sample in record.samples)


def _rows(drawings: Drawings, kind: tuple[bool, bool]) -> list[int]:
    first, last = drawings.both[0], drawings.both[-1]
    return [row for row in range(len(first.samples)) if (is_right(first, row), is_right(last, row)) == kind]


def _chosen(run: RunRecords, drawings: Drawings, rows: Sequence[int]) -> list[int]:
    """The categories in turn; in each the prompts in their order, further seeds of a prompt last.

    Only rows whose images are there; any row if no image is.
    """
    pictured = [row for row in rows if _is_pictured(run, drawings, row)]
    samples = drawings.first.samples
    queues: dict[str, list[tuple[int, int]]] = {}
    times: dict[str, int] = {}
    for row in pictured or rows:
        prompt = samples[row].get("source", "")
        times[prompt] = times.get(prompt, 0) + 1
        queues.setdefault(samples[row].get("category", ""), []).append((times[prompt], row))
    # Its place in its own category, then the category: one of each before a second of any.
    turns = [
        (place, category, row)
        for category, queue in queues.items()
        for place, (_, row) in enumerate(sorted(queue))
    ]
    categories = list(dict.fromkeys(sample.get("category", "") for sample in samples))
    turns.sort(key=lambda turn: (turn[0], categories.index(turn[1])))
    picked = turns[:MAX_PER_KIND]
    return [row for _, _, row in sorted(picked, key=lambda turn: (categories.index(turn[1]), turn[0]))]


def _is_pictured(run: RunRecords, drawings: Drawings, row: int) -> bool:
    return all(_has_image(run, record, row) for record in drawings.both)


def _has_image(run: RunRecords, record: EvaluationRecord, row: int) -> bool:
    return (run.path / record.samples[row].get("image", "")).is_file()


def _has_large_image(run: RunRecords, record: EvaluationRecord, rows: Sequence[int]) -> bool:
    images = (run_image(run, _image(record, row)) for row in rows)
    return any(image is not None and not image.is_tiny for image in images)


def _intro(drawings: Drawings, rows: dict[tuple[bool, bool], list[int]]) -> str:
    first = drawings.first
    prompts = len({sample.get("source") for sample in first.samples})
    total = f"{len(first.samples):,} drawings of {prompts:,} prompts"
    chosen = (
        f"At most {MAX_PER_KIND} of each kind are shown at first, of those whose images were kept: the "
        "categories take turns, each with its first prompts."
    )
    if drawings.later is None:
        return f"{total}, before training. {chosen}"
    counts = ", ".join(f"{len(rows[kind]):,} {title.lower()}" for kind, title in KINDS.items())
    return (
        f"The same prompts and seeds before and after {drawings.later.step:,} steps. Of {total}: {counts}. "
        f"{chosen}"
    )


def _legend(drawings: Drawings) -> list[str]:
    if drawings.later is None or not any(sample.get("answer") for sample in drawings.first.samples):
        return []
    doubt = element("span", "words of a wrong answer that the truth does not hold", class_="doubt")
    came = element("ins", "words that came")
    return [" Marked in answers: ", element("del", "words that went"), ", ", came, ", ", doubt, "."]


def drawing_card(run: RunRecords, drawings: Drawings, row: int) -> Markup:
    """One prompt: its drawings before and after, with the question and the answers about them."""
    sample = drawings.first.samples[row]
    images = [_picture(run, record, row, _when(record)) for record in drawings.both]
    category = sample.get("category", "")
    return element(
        "article",
        element(
            "header",
            element("h4", sample.get("source") or "unnamed prompt"),
            element("span", category_name(category), class_="category") if category else "",
        ),
        element("div", *images, class_="pictures"),
        element("p", sample["question"], class_="question") if sample.get("question") else "",
        _answers(drawings, row),
        _between(run, drawings, row),
        class_="drawing",
    )


def _picture(run: RunRecords, record: EvaluationRecord, row: int, when: str) -> Markup:
    sample = record.samples[row]
    right = is_right(record, row)
    alt = f"{when}: a drawing of {sample.get('source', '')}, {'right' if right else 'wrong'}"
    caption = element("figcaption", element("span", when), " ", _verdict(right))
    return element("figure", image_of(run, sample.get("image", ""), alt), caption)


def _when(record: EvaluationRecord) -> str:
    return "Before" if record.step == 0 else f"Step {record.step:,}"


def _verdict(right: bool) -> Markup:
    return element("span", "✓ right" if right else "✗ wrong", class_="right" if right else "wrong")


def _answers(drawings: Drawings, row: int) -> Markup:
    samples = [record.samples[row] for record in drawings.both]
    truth = samples[0].get("truth", "")
    if not any(sample.get("answer") or truth for sample in samples):
        return Markup("")
    said = samples[0].get("answer", ""), samples[-1].get("answer", "")
    parts: list[Markup] = []
    for place, (record, sample) in enumerate(zip(drawings.both, samples, strict=True)):
        right = is_right(record, row, "answered")
        # A right answer may put it in other words than the truth does.
        words = compare(*said, "" if right else truth)[place]
        verdict = [" ", _verdict(right)] if "answered" in sample else []
        parts += [
            element("dt", _when(record)),
            element("dd", marked_words(words, "ins" if place else "del"), *verdict),
        ]
    if truth:
        parts += [element("dt", "Truth"), element("dd", element("span", truth, class_="truth"))]
    return element("dl", *parts)


def _between(run: RunRecords, drawings: Drawings, row: int) -> Markup:
    """The same seed at the evaluations in between, where images are small enough to travel many times."""
    if drawings.later is None:
        return Markup("")
    shown = [record.step for record in drawings.both]
    steps = spread([step for step in drawings.records if step not in shown], MAX_BETWEEN)
    found = [(step, run_image(run, _image(drawings.records[step], row))) for step in steps]
    if not found or not all(image is not None and image.is_tiny for _, image in found):
        return Markup("")
    images = [_picture(run, drawings.records[step], row, f"Step {step:,}") for step in steps]
    return element(
        "details",
        element("summary", "Other evaluations"),
        element("div", *images, class_="pictures between"),
    )


def _image(record: EvaluationRecord, row: int) -> str:
    return record.samples[row].get("image", "")
