"""Tokens of a gallery: what each earned, and its credit as a color."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sightloop.report.cards import value_at
from sightloop.report.labels import signed
from sightloop.report.markup import Markup, element, together
from sightloop.report.run import GallerySample

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


def credit_limit(samples: Sequence[GallerySample]) -> float:
    """The credit shown in full color: the 90th percentile of the sizes, so that few outliers dim nothing."""
    credits = [value for sample in samples for value in (*sample.credit, sample.drawing_credit)]
    sizes = sorted(abs(value) for value in credits if math.isfinite(value))
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


def shade(credit: float, limit: float) -> tuple[str, str]:
    """Class and style of what received this credit.

    >>> shade(-0.5, limit=1.0)
    ('token minus', '--a:0.50')
    """
    strength = min(1.0, abs(credit) / limit) if math.isfinite(credit) else 0.0
    sign = "" if strength < 0.02 else " plus" if credit > 0 else " minus"
    return f"token{sign}", f"--a:{strength:.2f}"


def colored(token: Token, limit: float) -> Markup:
    """The token in its color; the white space around it stays outside."""
    core = token.text.strip()
    lead = token.text[: len(token.text) - len(token.text.lstrip())]
    trail = token.text[len(lead) + len(core) :]
    if not core:
        return together([token.text])
    lines = [_spelled(token), f"reward {signed(token.reward)}", f"credit {signed(token.credit)}"]
    if math.isfinite(token.value):
        lines.append(f"expected {signed(token.value)}")
    kind, style = shade(token.credit, limit)
    word = element(
        "span", core, class_=f"{kind}{' mark' if token.is_mark else ''}", style=style, title="\n".join(lines)
    )
    return together([" " if token.is_mark else lead, word, trail])


def token_table(tokens: Sequence[Token]) -> Markup:
    """Every token with its numbers, folded away."""
    has_values = any(math.isfinite(token.value) for token in tokens)
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
    return element("details", element("summary", "Each token"), element("div", table, class_="scroll"))


def legend(limit: float) -> Markup:
    """The scale of the colors."""
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
        aria_label="Color scale of the credit",
    )


def _text_at(sample: GallerySample, index: int, spelled: int) -> str:
    if index < spelled and sample.pieces[index]:
        return sample.pieces[index]
    return "end" if index == spelled and sample.ended else "no text"


def _is_something(value: float) -> bool:
    return math.isfinite(value) and value != 0


def _spelled(token: Token) -> str:
    return f"⟨{token.text}⟩" if token.is_mark else token.text.strip() or "⟨space⟩"
