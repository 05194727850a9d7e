"""Show-o's training losses: masked codes of drawings, plain text, and text about images.

Each is a mean over its labeled positions under the whole vocabulary, and their weighted sum is minimized. A
image's two marks are targets of a drawing too. Rows are as in the official code; what cannot change a loss
(pads, the head where nothing is labeled) is left out of the passes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sightloop.models.decoding.code_likelihood import code_log_probs
from sightloop.models.show_o.body import Body
from sightloop.models.show_o.layout import (
    IGNORED,
    TokenLayout,
    caption_rows,
    drawing_prompt,
    drawing_rows,
    framed,
    pads,
    text_rows,
)
from sightloop.models.show_o.masks import answer_mask, drawing_mask

_ROWS_AT_ONCE = 128
"""Positions whose logits over the whole vocabulary are in memory together."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Sequences of one kind with the target of each position (-100 = none)."""

    ids: Int[Tensor, "B L"]
    labels: Int[Tensor, "B L"]


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The three losses; None where a batch has no such rows."""

    drawing: Float[Tensor, ""] | None
    text: Float[Tensor, ""] | None
    answer: Float[Tensor, ""] | None

    def total(self, *, drawing: float = 1.0, text: float = 0.1, answer: float = 1.0) -> Float[Tensor, ""]:
        """The weighted sum, with the official weights."""
        weighted = [(drawing, self.drawing), (text, self.text), (answer, self.answer)]
        return torch.stack([weight * loss for weight, loss in weighted if loss is not None]).sum()


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Random numbers in [0, 1) that decide which codes of a batch of images are hidden."""

    progress: Float[Tensor, " B"]
    """How far each image has come; with the same number everywhere all hide the same share."""
    keys: Float[Tensor, "B N"]
    """The codes with the smallest keys are hidden."""

    @staticmethod
    def drawn(size: int, length: int, generator: torch.Generator | None = None) -> Masking:
        """As the official code draws them."""
        return Masking(
            progress=torch.rand(size, generator=generator), keys=torch.rand(size, length, generator=generator)
        )

    def share(self, *, min_share: float = 0.0) -> Float[Tensor, " B"]:
        """How many of an image's codes are hidden: cos(pi t / 2) of them, at least `min_share`."""
        return torch.cos(self.progress * math.pi * 0.5).clamp(min=min_share)

    def hidden(self, *, min_share: float = 0.0) -> Bool[Tensor, "B N"]:
        """True where a code is hidden: the share of them, rounded, and at least one."""
        count = (self.keys.shape[1] * self.share(min_share=min_share)).round().clamp(min=1)
        return self.keys.argsort(-1) < count[:, None]


def without_conditions(
    texts: list[list[int]], uniform: Float[Tensor, " B"], *, probability: float
) -> list[list[int]]:
    """Texts, some of them emptied: what guidance needs to have been trained with."""
    return [
        [] if number < probability else text for text, number in zip(texts, uniform.tolist(), strict=True)
    ]


def drawing_example(
    texts: list[list[int]],
    codes: Int[Tensor, "B N"],
    hidden: Bool[Tensor, "B N"],
    vocabulary: TokenLayout,
    *,
    max_text: int,
) -> Rows:
    """Prompts and images with hidden codes; the prompt has labels that the loss does not read."""
    prompts = [drawing_prompt(text, vocabulary, max_text=max_text) for text in texts]
    own = codes + vocabulary.first_code
    ids = drawing_rows(prompts, own.masked_fill(hidden, vocabulary.mask), vocabulary, max_text=max_text)
    prefix = ids[:, : max_text + 1]
    labels = [
        prefix.masked_fill(pads(prefix, vocabulary), IGNORED),
        framed(own.masked_fill(~hidden, IGNORED), vocabulary),
    ]
    return Rows(ids=ids, labels=torch.cat(labels, 1))


def caption_example(
    codes: Int[Tensor, "B N"], texts: list[list[int]], vocabulary: TokenLayout, *, max_text: int
) -> Rows:
    """Images and texts about them."""
    ids, labels = caption_rows(codes + vocabulary.first_code, texts, vocabulary, max_text=max_text)
    return Rows(ids=ids, labels=labels)


def text_example(texts: list[list[int]], vocabulary: TokenLayout, *, max_text: int, num_image: int) -> Rows:
    """Plain texts, as long as the rows of drawings."""
    ids, labels = text_rows(texts, vocabulary, length=max_text + num_image + 3)
    return Rows(ids=ids, labels=labels)


def losses_of(
    body: Body,
    *,
    max_text: int,
    drawing: Rows | None = None,
    text: Rows | None = None,
    answer: Rows | None = None,
) -> Losses:
    """The losses of the rows that there are.

    Raises:
        ValueError: there are none.
    """
    if drawing is None and text is None and answer is None:
        raise ValueError("no rows to learn from; give drawings, texts or answers")
    return Losses(
        drawing=None if drawing is None else _drawing_loss(body, drawing, max_text=max_text),
        text=None if text is None else _text_loss(body, text, prefix=0),
        answer=None if answer is None else _text_loss(body, answer, prefix=answer.ids.shape[1] - max_text),
    )


def _drawing_loss(body: Body, rows: Rows, *, max_text: int) -> Tensor:
    is_pad = pads(rows.ids, body.vocabulary)
    first = int(is_pad.sum(1).min())
    ids, is_pad = rows.ids[:, first:], is_pad[:, first:]
    positions = torch.arange(first, rows.ids.shape[1], device=ids.device)[None]
    start = max_text + 1 - first
    mask = drawing_mask(is_pad, first=start)
    hidden = body(body.embed(ids), positions, mask=mask)
    return _mean_loss(body, hidden[:, start:], rows.labels[:, max_text + 1 :])


def _text_loss(body: Body, rows: Rows, *, prefix: int) -> Tensor:
    length = int((~pads(rows.ids, body.vocabulary)).sum(1).max())
    ids = rows.ids[:, :length]
    positions = torch.arange(length, device=ids.device)[None]
    mask = answer_mask(length, last=prefix - 1, device=ids.device)
    hidden = body(body.embed(ids), positions, mask=mask)
    return _mean_loss(body, hidden[:, :-1], rows.labels[:, 1:length])


def _mean_loss(body: Body, hidden: Float[Tensor, "B L h"], labels: Int[Tensor, "B L"]) -> Tensor:
    labeled = labels != IGNORED
    log_probs, _ = code_log_probs(
        body.logits, (hidden[labeled],), labels[labeled], rows_at_once=_ROWS_AT_ONCE
    )
    return -log_probs.mean()
