"""The gallery: captions sampled for training, every word in the colour of the credit it received."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sightloop.report.cards import spread, value_at, with_picture
from sightloop.report.labels import number, plain, signed
from sightloop.report.markup import Markup, element, together
from sightloop.report.run import GallerySample, RunRecords

MAX_GALLERIES = 8
MAX_GALLERY_SAMPLES = 12
_CREDIT_CLIP = 0.9


@dataclass(frozen=True, kw_only=True)
class Token:
    """One token of a gallery caption with everything that is known about it."""

    text: str
    reward: float
    credit: float
    value: float
    is_mark: bool = False
    """True if it has no text of its own, as the end token."""


def gallery(run: RunRecords) -> Markup:
    """Sampled captions of the training batches; each word in the colour of the credit it received."""
    steps = spread(list(run.galleries), MAX_GALLERIES)
    shown = {step: run.galleries[step][:MAX_GALLERY_SAMPLES] for step in steps if run.galleries[step]}
    if not shown:
        return element("p", "No gallery of sampled captions has been written yet.", class_="empty")
    limit = credit_limit([sample for samples in shown.values() for sample in samples])
    latest = max(shown)
    sections = [
        element(
            "details",
            element("summary", f"Step {step:,}"),
            element("div", *(_credited(run, sample, limit) for sample in samples), class_="cards"),
            class_="step",
            open=step == latest,
        )
        for step, samples in shown.items()
    ]
    left_out = len(run.galleries) - len(shown)
    more = f" {left_out} of {len(run.galleries)} galleries are left out to keep the page small."
    note = (
        "Captions as they were sampled for training. Colour is the credit a token received (its advantage): "
        "what the update made more or less likely. Hover a word for its numbers, or open the table below a "
        "caption." + (more if left_out else "")
    )
    return together(
        [element("p", note, class_="note"), _legend(limit), element("div", *sections, class_="steps")]
    )


def credit_limit(samples: Sequence[GallerySample]) -> float:
    """The credit shown in full colour: the 90th percentile of the sizes, so that few outliers dim nothing."""
    sizes = sorted(abs(value) for sample in samples for value in sample.credit if math.isfinite(value))
    return (sizes[math.ceil(_CREDIT_CLIP * len(sizes)) - 1] if sizes else 0.0) or 1.0


def tokens_of(sample: GallerySample) -> list[Token]:
    """The tokens of a caption in order; those without text (the end token) get a mark instead."""
    spelled = max((index + 1 for index, piece in enumerate(sample.pieces) if piece), default=0)
    count = max(spelled, len(sample.rewards), len(sample.credit))
    # Padding behind the last token that counts earned nothing and got no credit.
    while count > spelled + sample.ended and not any(
        _is_something(value_at(values, count - 1)) for values in (sample.rewards, sample.credit)
    ):
        count -= 1
    return [
        Token(
            text=_text_at(sample, index, spelled),
            reward=value_at(sample.rewards, index),
            credit=value_at(sample.credit, index),
            value=value_at(sample.values, index),
            is_mark=index >= spelled or not sample.pieces[index],
        )
        for index in range(count)
    ]


def _text_at(sample: GallerySample, index: int, spelled: int) -> str:
    if index < spelled and sample.pieces[index]:
        return sample.pieces[index]
    return "end" if index == spelled and sample.ended else "no text"


def _is_something(value: float) -> bool:
    return math.isfinite(value) and value != 0


def _credited(run: RunRecords, sample: GallerySample, limit: float) -> Markup:
    tokens = tokens_of(sample)
    has_values = any(math.isfinite(token.value) for token in tokens)
    caption = element("p", *(_coloured(token, limit) for token in tokens), class_="caption")
    total = sum(value for value in sample.rewards if math.isfinite(value))
    parts = [element("li", element("b", f"reward {number(total)}"))]
    parts += [element("li", f"{plain(name)} {signed(value)}") for name, value in sample.parts.items()]
    if not sample.ended:
        parts.append(element("li", "no end token", class_="warn"))
    columns = ["Token", "Reward", "Credit"] + ["Expected"] * has_values
    rows = [
        element(
            "tr",
            element("th", _spelled(token), scope="row"),
            *(
                element("td", signed(value))
                for value in (token.reward, token.credit, *([token.value] * has_values))
            ),
        )
        for token in tokens
    ]
    table = element(
        "table",
        element("thead", element("tr", *(element("th", column, scope="col") for column in columns))),
        element("tbody", *rows),
    )
    body = [
        caption if tokens else element("p", "(nothing)", class_="nothing"),
        element("ul", *parts, class_="chips"),
        element("details", element("summary", "Each token"), element("div", table, class_="scroll")),
    ]
    return with_picture(run, sample.source, sample.image, body)


def _coloured(token: Token, limit: float) -> Markup:
    """The token in its colour; the white space around it stays outside."""
    core = token.text.strip()
    lead = token.text[: len(token.text) - len(token.text.lstrip())]
    trail = token.text[len(lead) + len(core) :]
    if not core:
        return together([token.text])
    told = [_spelled(token), f"reward {signed(token.reward)}", f"credit {signed(token.credit)}"]
    if math.isfinite(token.value):
        told.append(f"expected {signed(token.value)}")
    strength = min(1.0, abs(token.credit) / limit) if math.isfinite(token.credit) else 0.0
    sign = "" if strength < 0.02 else " plus" if token.credit > 0 else " minus"
    word = element(
        "span",
        core,
        class_=f"token{sign}{' mark' if token.is_mark else ''}",
        style=f"--a:{strength:.2f}",
        title="\n".join(told),
    )
    return together([" " if token.is_mark else lead, word, trail])


def _spelled(token: Token) -> str:
    return f"⟨{token.text}⟩" if token.is_mark else token.text.strip() or "⟨space⟩"


def _legend(limit: float) -> Markup:
    swatches = [
        element("span", f"{bound}{signed(part * limit)}", class_=f"token{sign}", style=f"--a:{abs(part):.2f}")
        for part, sign, bound in (
            (-1, " minus", "≤ "),
            (-0.5, " minus", ""),
            (0, "", ""),
            (0.5, " plus", ""),
            (1, " plus", "≥ "),
        )
    ]
    return element(
        "p",
        element("span", "less likely", class_="end"),
        *swatches,
        element("span", "more likely", class_="end"),
        class_="legend",
        aria_label="Colour scale of the credit",
    )
