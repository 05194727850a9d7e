"""Rounds of drawing in few operations, without a word to the host between them.

What `show_o_drawing.draw_codes` gives from the same noise, computed for the unknown positions alone: how many
these can be follows from the schedule, so no round waits to count them. A position that is known after all
(equal scores are kept together) is drawn into a column that nobody reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sightloop.models.only_numbers import marked
from sightloop.models.show_o.body import Body
from sightloop.models.show_o.fused_phi import Before, LeanPhi
from sightloop.models.show_o.layout import TokenLayout, right_padded
from sightloop.models.show_o.likelihood import guided_logits, prompts_of
from sightloop.models.show_o.sampling import Noise, pick_codes, rounds_of, unknown_share
from sightloop.picking import numbers_of
from sightloop.types import Sampling, Tokens


class Easel:
    """Images in the making behind their prompts: each different prompt and "no condition" is read once."""

    def __init__(
        self, body: Body, lean: LeanPhi, texts: list[list[int]], *, max_text: int, sampling: Sampling
    ) -> None:
        self.body, self.lean, self.sampling = body, lean, sampling
        vocabulary, device, length = body.vocabulary, body.device, sampling.max_tokens + 2
        prompts, branches = prompts_of(texts, vocabulary, max_text=max_text, guidance=sampling.guidance)
        start, lengths = max_text + 1, torch.tensor([len(row) for row in prompts])
        ids = right_padded(prompts, vocabulary.pad)
        places = torch.arange(ids.shape[1])
        positions = (places + (start - lengths)[:, None]).to(device)
        seen = None if len(lengths.unique()) == 1 else (places < lengths[:, None]).to(device)
        states = lean.texts(body.embed(ids.to(device)).clone(), lean.turns(positions))
        self.turns = lean.turns(start + torch.arange(length, device=device)[None])
        row_of, each = (
            torch.tensor([row for branch in branches for row in branch]),
            torch.arange(len(prompts)),
        )
        self.rows = row_of.to(device)
        self.before = lean.before(states, self.rows, seen, length)
        self.once = lean.before(states, each.to(device), seen, length)
        """Before the first round all rows with one prompt are one row, and without condition all are."""

    def hidden_states(self, row: Int[Tensor, "B L"], columns: Int[Tensor, "B U"]) -> Float[Tensor, "N h"]:
        """Hidden states at columns of each row, of the conditioned rows first."""
        where = columns.repeat(len(self.rows) // len(columns), 1)
        return self._seen(row, self.before, where.clamp(max=row.shape[1] - 1))

    def look_at_nothing(self, row: Int[Tensor, "1 L"], columns: Int[Tensor, "1 U"]) -> Float[Tensor, "N h"]:
        """The same where no code of any row is known yet and all columns are wanted."""
        where = columns.expand(len(self.once.row_of), -1)
        hidden = self._seen(row, self.once, where).unflatten(0, where.shape)
        return hidden.index_select(0, self.rows).flatten(0, 1)

    def _seen(self, row: Tensor, before: Before, columns: Tensor) -> Tensor:
        return self.lean.image_rows(self.body.embed(row), self.turns, before, columns)

    def logits_of(self, *hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n K"]:
        """Logits of the codes."""
        return guided_logits(self.body, hidden, self.sampling.guidance)


@dataclass(frozen=True, kw_only=True)
class Page:
    """Rows of ids as the model reads them, mark, codes, mark, with one column that nobody reads."""

    ids: Int[Tensor, "B F"]
    log_probs: Float[Tensor, "B F"]
    fixed_in: Int[Tensor, "B F"]
    flat: Int[Tensor, "B 1"]
    """What makes a column the number of a position over the whole batch."""

    @property
    def unread(self) -> int:
        """The column for what is drawn in vain."""
        return self.ids.shape[1] - 1

    def read(self) -> Int[Tensor, "B L"]:
        """What the model reads."""
        return self.ids[:, :-1]

    def numbers(self, columns: Int[Tensor, "B U"]) -> Int[Tensor, " n"]:
        """Columns as numbers of positions over the whole batch."""
        return (columns.clamp(max=self.unread - 2) + self.flat).flatten()


def blank_page(known: Tokens, vocabulary: TokenLayout) -> Page:
    """The page before the first round."""
    size, length = known.ids.shape
    ids = known.ids.new_full((size, length + 3), vocabulary.eoi)
    ids[:, 0], ids[:, 1 : length + 1] = vocabulary.soi, known.ids + vocabulary.first_code
    return Page(
        ids=ids,
        log_probs=torch.zeros(ids.shape, device=ids.device),
        fixed_in=torch.full_like(ids, -1),
        flat=(torch.arange(size, device=ids.device) * length - 1)[:, None],
    )


def unknown_columns(known: Bool[Tensor, "B N"], width: int, unread: int) -> Int[Tensor, "B U"]:
    """The columns of a page that are to be drawn, in a tensor as wide as the most of a row."""
    order = known.long().argsort(dim=1, stable=True)[:, :width]
    return (order + 1).masked_fill_(known.gather(1, order), unread)


def still_unknown(
    columns: Int[Tensor, "B U"],
    scores: Float[Tensor, "B U"],
    *,
    wanted: int | Int[Tensor, 1],
    width: int,
    unread: int,
) -> Int[Tensor, "B U2"]:
    """The columns that a round forgets, as in `show_o_drawing.forgotten`."""
    known = columns == unread
    ordered, places = scores.masked_fill(known, torch.inf).sort(1)
    count = columns.shape[1] - 1 - known.sum(1, keepdim=True)
    count = count.clamp(max=wanted) if isinstance(wanted, int) else torch.minimum(count, wanted)
    stays = ordered < ordered.gather(1, count.clamp_(min=1))
    return columns.gather(1, places[:, :width]).masked_fill_(~stays[:, :width], unread)


def draw_round(
    easel: Easel, page: Page, columns: Int[Tensor, "B U"], hidden: Float[Tensor, "N h"], numbers: Noise
) -> Float[Tensor, "B U"]:
    """Draw codes at the columns and write them down; how sure each is."""
    at, first = page.numbers(columns), easel.body.vocabulary.first_code
    parts = hidden.split(len(at))
    picked, sure = (
        found.view(columns.shape) for found in pick_codes(easel.logits_of, parts, at, numbers, easel.sampling)
    )
    page.ids.scatter_(1, columns, picked + first)
    page.log_probs.scatter_(1, columns, sure)
    return sure + numbers.order.flatten()[at].view(columns.shape)


@dataclass(frozen=True, kw_only=True)
class RoundsPlan:
    """What is known of all rounds before the first one."""

    noise: list[Noise]
    """On the device; the order's noise with its heat."""
    wanted: list[int]
    """How many codes the schedule would leave unknown after each round."""
    is_blank: bool
    """Nothing is known yet."""
    widths: list[int]
    """How many can be unknown in a row before each round; at least 2, because one has no order."""


def plan_of(known: Tokens, sampling: Sampling, noise: Iterable[Noise]) -> RoundsPlan:
    """The plan of a drawing; asks the device once how many codes of each row are known."""
    steps, (_, length), device = rounds_of(sampling), known.ids.shape, known.ids.device
    numbers = [one for _, one in zip(range(steps), noise, strict=False)]
    left = numbers_of((~known.mask).sum(1))
    is_blank = min(left) == length
    heat, order, wanted, widths = sampling.order_temperature, [], [], []
    for step, one in enumerate(numbers):
        widths.append(min(length, max(2, *left)))
        progress = (step + 1) / steps
        heat *= 1 - progress
        order.append(heat * one.order)
        wanted.append(int((length * unknown_share(progress, sampling.schedule)).floor()))
        left = [min(count, max(1, min(wanted[-1], count - 1))) for count in left]
    orders = torch.stack(order).to(device)
    uniforms = [one.uniform for one in numbers if one.uniform is not None]
    uniform = torch.stack(uniforms).to(device) if uniforms else [None] * steps
    return RoundsPlan(
        noise=[
            Noise(order=orders[step], uniform=uniform[step], exponential=one.exponential)
            for step, one in enumerate(numbers)
        ],
        wanted=wanted,
        is_blank=is_blank,
        widths=widths,
    )


@torch.no_grad()
def draw_rounds(easel: Easel, known: Tokens, noise: Iterable[Noise]) -> Tokens:
    """Draw the codes that `known` does not hold (its mask is False there), round by round."""
    plan, vocabulary = plan_of(known, easel.sampling, noise), easel.body.vocabulary
    page = blank_page(known, vocabulary)
    columns = unknown_columns(known.mask, plan.widths[0], page.unread)
    for step, numbers in enumerate(plan.noise):
        page.ids.scatter_(1, columns, vocabulary.mask)
        if step == 0 and plan.is_blank:
            hidden = easel.look_at_nothing(page.read()[:1], columns[:1])
        else:
            hidden = easel.hidden_states(page.read(), columns)
        scores = draw_round(easel, page, columns, hidden, numbers)
        page.fixed_in.scatter_(1, columns, step)
        if step + 1 < len(plan.noise):
            columns = still_unknown(
                columns, scores, wanted=plan.wanted[step], width=plan.widths[step + 1], unread=page.unread
            )
    return finished(page, known, vocabulary, easel.sampling)


def finished(page: Page, known: Tokens, vocabulary: TokenLayout, sampling: Sampling) -> Tokens:
    """The image of a page after its last round."""
    codes, sure = page.ids[:, 1:-2] - vocabulary.first_code, page.log_probs[:, 1:-2].contiguous()
    return Tokens(
        ids=marked(codes, sure),
        mask=~known.mask,
        log_probs=None if sampling.temperature == 0 else sure,
        decode_step=page.fixed_in[:, 1:-2].contiguous(),
    )
