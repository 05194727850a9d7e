"""Rounds of drawing in fixed shapes: every round looks at all positions and draws them, known ones in vain.

More is computed than in `show_o_drawing`, but a CUDA device replays a round as one recorded graph. Codes,
rounds and log-probabilities are the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from sightloop.models.show_o_drawing import Noise, forgotten, pick_codes, rounds_of, unknown_share
from sightloop.models.show_o_layout import framed
from sightloop.models.show_o_scores import Canvas
from sightloop.models.static_steps import repeat_step
from sightloop.types import Sampling, Tokens


class StaticCanvas:
    """Looks at pictures behind their prompts without asking the host which codes are unknown."""

    def __init__(self, canvas: Canvas, num_tokens: int) -> None:
        self.canvas = canvas
        seen = [prefix.seen() for prefix in canvas.conditions]
        self.seen = [
            None if one is None else F.pad(one, (0, num_tokens + 2), value=True)[:, None, None]
            for one in seen
        ]

    def look(self, codes: Tensor, unknown: Tensor) -> tuple[Tensor, ...]:
        """Hidden states at all codes, one tensor for each condition."""
        body = self.canvas.body
        rows = framed(torch.where(unknown, body.vocabulary.mask, codes + body.vocabulary.first_code),
                      body.vocabulary)  # fmt: skip
        positions = self.canvas.start + torch.arange(rows.shape[1], device=rows.device)[None]
        embeds = body.embed(rows)
        return tuple(
            body(embeds, positions, mask=seen, prefix=prefix)[:, 1:-1].flatten(0, 1)
            for prefix, seen in zip(self.canvas.conditions, self.seen, strict=True)
        )


@torch.no_grad()
def draw_codes_static(canvas: Canvas, known: Tokens, *, sampling: Sampling, noise: Iterable[Noise]) -> Tokens:
    """What `draw_codes` gives, in rounds of fixed shapes. The noise must be uniform numbers."""
    device, shape = known.ids.device, known.ids.shape
    steps = rounds_of(sampling)
    numbers = [one for _, one in zip(range(steps), noise, strict=False)]
    uniform = torch.stack([one.uniform for one in numbers if one.uniform is not None]).to(device)
    heat, order, shares = sampling.order_temperature, [], []
    for step, one in enumerate(numbers):
        progress = (step + 1) / steps
        heat *= 1 - progress
        order.append(heat * one.order)
        shares.append(unknown_share(progress, sampling.schedule))
    order, shares = torch.stack(order).to(device), torch.stack(shares).to(device)
    codes, unknown = known.ids.clone(), ~known.mask
    drawn_here, log_probs = unknown.clone(), torch.zeros(shape, device=device)
    fixed_in = torch.full_like(codes, -1)
    now = torch.zeros(1, dtype=torch.long, device=device)
    everywhere, view = torch.arange(codes.numel(), device=device), StaticCanvas(canvas, shape[1])

    def round_() -> None:
        this = Noise(order=order.index_select(0, now)[0], uniform=uniform.index_select(0, now)[0])
        hidden = view.look(codes, unknown)
        picked, sure = (
            found.view(shape) for found in pick_codes(canvas.logits_of, hidden, everywhere, this, sampling)
        )
        left = forgotten(sure + this.order, unknown, shares.index_select(0, now)[0]) & (now < steps - 1)
        kept = unknown & ~left
        codes.copy_(torch.where(unknown, picked, codes))
        log_probs.copy_(torch.where(kept, sure, log_probs))
        fixed_in.copy_(torch.where(kept, now, fixed_in))
        unknown.copy_(left)
        now.add_(1)

    repeat_step(round_, steps, device)
    return Tokens(
        ids=codes,
        mask=drawn_here,
        log_probs=None if sampling.temperature == 0 else log_probs,
        decode_step=fixed_in,
    )
