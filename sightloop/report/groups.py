"""Groups of drawings sampled for training: one prompt, several images, reward and credit of each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sightloop.report.cards import image_of
from sightloop.report.labels import number, plain, signed
from sightloop.report.markup import Markup, element
from sightloop.report.run import GallerySample, RunRecords
from sightloop.report.tokens import colored, shade, token_table, tokens_of

NOTE = (
    "Drawings of one prompt as they were sampled for training, the best rewarded first. Color is credit "
    "(the advantage), what the update made more or less likely: of the drawing in the bar below it, and of "
    "each word of the answer. What has no color had no credit of its own; end to end, a drawing learns from "
    "the loss of its answer instead. Hover a word for its numbers. “log-prob.” is the mean over the "
    "drawing's codes, in nats."
)


def groups_of_drawings(run: RunRecords, samples: Sequence[GallerySample], limit: float) -> Markup:
    """The groups of one step below each other, those that tell good from bad first."""
    taught = is_taught(samples)
    shown = sorted(grouped(samples), key=earned_the_same)
    return element("div", *(group_card(run, members, limit, taught) for members in shown), class_="groups")


def grouped(samples: Sequence[GallerySample]) -> list[list[GallerySample]]:
    """The drawings of each prompt together."""
    groups: dict[int | None, list[GallerySample]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample)
    return list(groups.values())


def is_taught(samples: Sequence[GallerySample]) -> bool:
    """Whether other texts than the model's answers were trained on."""
    return any(_spoken(sample) not in ("", sample.answer.strip()) for sample in samples)


def group_card(run: RunRecords, samples: Sequence[GallerySample], limit: float, taught: bool) -> Markup:
    """The drawings of one prompt with their answers, rewards and credit (`limit` is full color)."""
    first = samples[0]
    asked = [element("span", first.question)] if first.question else []
    if first.truth:
        asked += [" Right answer: ", element("b", first.truth), "."]
    notes: list[str] = []
    if len(samples) < first.group_size:
        notes.append(f" {len(samples)} of {first.group_size} drawings of the group.")
    if earned_the_same(samples):
        idle = not any(value for sample in samples for value in (sample.drawing_credit, *sample.credit))
        notes.append(" All earned the same" + (", so none was preferred." if idle else "."))
    ranked = sorted(samples, key=lambda sample: -sample.reward if math.isfinite(sample.reward) else math.inf)
    return element(
        "article",
        element("h4", first.source or "unnamed prompt"),
        element("p", *asked, *notes, class_="question") if asked or notes else "",
        element(
            "div",
            *(_member(run, sample, limit, taught) for sample in ranked),
            class_="members",
            style=f"--n:{len(ranked)}",
        ),
        class_="group",
    )


def earned_the_same(samples: Sequence[GallerySample]) -> bool:
    """Whether no drawing of a group was preferred."""
    return len(samples) > 1 and len({sample.reward for sample in samples}) == 1


def _member(run: RunRecords, sample: GallerySample, limit: float, taught: bool) -> Markup:
    tokens = tokens_of(sample)
    kind, style = shade(sample.drawing_credit, limit)
    words = element("p", *(colored(token, limit) for token in tokens), class_="caption")
    lines: list[str] = []
    if taught:
        lines += [element("p", sample.answer or "(no answer)", class_="answer")]
        lines += [element("p", "Trained on", class_="label"), words] if tokens else []
    elif tokens:
        lines.append(words)
    figures = {"reward": sample.reward, **{plain(name): value for name, value in sample.parts.items()}}
    if math.isfinite(sample.drawing_log_prob):
        figures["log-prob."] = sample.drawing_log_prob
    rows = [element("div", element("dt", name), element("dd", number(v))) for name, v in figures.items()]
    return element(
        "div",
        image_of(run, sample.image, f"A drawing of {sample.source}, reward {number(sample.reward)}"),
        element("p", f"drawing {signed(sample.drawing_credit)}", class_=f"earned {kind}", style=style)
        if math.isfinite(sample.drawing_credit)
        else "",
        *lines,
        element("dl", *rows),
        element("p", "no end token", class_="caution") if not sample.ended else "",
        token_table(tokens) if tokens else "",
        class_="member",
    )


def _spoken(sample: GallerySample) -> str:
    """The text whose tokens were trained."""
    return "".join(sample.pieces).strip()
