"""The gallery: captions sampled for training, every word in the color of the credit it received."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from sightloop.report.cards import spread, with_image
from sightloop.report.groups import NOTE as GROUP_NOTE
from sightloop.report.groups import groups_of_drawings
from sightloop.report.labels import number, plain, signed
from sightloop.report.markup import Markup, element, together
from sightloop.report.run import GallerySample, RunRecords
from sightloop.report.tokens import colored, credit_limit, legend, token_table, tokens_of

MAX_GALLERIES = 8
MAX_GALLERY_SAMPLES = 12
MAX_IMAGES = 96
"""Images of all galleries together, so that the page stays small."""
_NOTE = (
    "Captions as they were sampled for training. Color is the credit a token received (its advantage): "
    "what the update made more or less likely. Hover a word for its numbers, or open the table below a "
    "caption."
)
Shown = Callable[[RunRecords, Sequence[GallerySample], float], Markup]


def gallery(run: RunRecords) -> Markup:
    """Samples of the training batches by step: captions, or groups of drawings with their answers."""
    found = {step: samples for step, samples in run.galleries.items() if samples}
    if not found:
        what = "drawings" if run.draws else "captions"
        return element("p", f"No gallery of sampled {what} has been written yet.", class_="empty")
    if any(sample.group is not None for samples in found.values() for sample in samples):
        return _stack(run, found, GROUP_NOTE, groups_of_drawings)
    return _stack(run, {step: s[:MAX_GALLERY_SAMPLES] for step, s in found.items()}, _NOTE, _captions)


def _stack(run: RunRecords, found: dict[int, list[GallerySample]], note: str, shown: Shown) -> Markup:
    """One step above the other, with the scale of colors that all of them share."""
    largest = max(len(samples) for samples in found.values())
    steps = spread(list(found), max(1, min(MAX_GALLERIES, MAX_IMAGES // largest)))
    limit = credit_limit([sample for step in steps for sample in found[step]])
    sections = [
        element(
            "details",
            element("summary", f"Step {step:,}"),
            shown(run, found[step], limit),
            class_="step",
            open=step == max(steps),
        )
        for step in steps
    ]
    if len(steps) < len(run.galleries):
        note += (
            f" {len(run.galleries) - len(steps)} of {len(run.galleries)} galleries are left out to keep the "
            "page small."
        )
    return together(
        [element("p", note, class_="note"), legend(limit), element("div", *sections, class_="steps")]
    )


def _captions(run: RunRecords, samples: Sequence[GallerySample], limit: float) -> Markup:
    return element("div", *(credited_card(run, sample, limit) for sample in samples), class_="cards")


def credited_card(run: RunRecords, sample: GallerySample, limit: float) -> Markup:
    """A sampled caption, its words in the color of their credit (`limit` is full color), and its rewards."""
    tokens = tokens_of(sample)
    caption = element("p", *(colored(token, limit) for token in tokens), class_="caption")
    total = sum(value for value in sample.rewards if math.isfinite(value))
    parts = [element("li", element("b", f"reward {number(total)}"))]
    parts += [element("li", f"{plain(name)} {signed(value)}") for name, value in sample.parts.items()]
    if not sample.ended:
        parts.append(element("li", "no end token", class_="warn"))
    body = [
        caption if tokens else element("p", "(nothing)", class_="nothing"),
        element("ul", *parts, class_="chips"),
        token_table(tokens),
    ]
    return with_image(run, sample.source, sample.image, body)
