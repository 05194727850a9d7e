"""Rounds of drawing in fixed shapes: every round looks at all positions and draws them, known ones in vain.

More is computed than in `show_o_rounds`, but a CUDA device replays a round as one recorded graph. Codes,
rounds and log-probabilities are the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from sightloop.models.decoding.cuda_graphs import repeat_step
from sightloop.models.show_o.fused_rounds import (
    Easel,
    blank_page,
    draw_round,
    finished,
    plan_of,
    still_unknown,
    unknown_columns,
)
from sightloop.models.show_o.sampling import Noise
from sightloop.types import Tokens


@torch.no_grad()
def draw_rounds_static(easel: Easel, known: Tokens, noise: Iterable[Noise]) -> Tokens:
    """What `draw_rounds` gives, in rounds of fixed shapes. The noise must be uniform numbers."""
    plan, vocabulary, device = plan_of(known, easel.sampling, noise), easel.body.vocabulary, known.ids.device
    page, length = blank_page(known, vocabulary), known.ids.shape[1]
    columns = unknown_columns(known.mask, length, page.unread)
    order = torch.stack([one.order for one in plan.noise])
    uniform = torch.stack([one.uniform for one in plan.noise if one.uniform is not None])
    wanted = torch.tensor(plan.wanted, device=device)
    now = torch.zeros(1, dtype=torch.long, device=device)

    def round_() -> None:
        page.ids.scatter_(1, columns, vocabulary.mask)
        hidden = easel.hidden_states(page.read(), columns)
        this = Noise(order=order.index_select(0, now)[0], uniform=uniform.index_select(0, now)[0])
        scores = draw_round(easel, page, columns, hidden, this)
        page.fixed_in.scatter_(1, columns, now.expand(columns.shape))
        left = wanted.index_select(0, now)
        if length > 1:
            columns.copy_(still_unknown(columns, scores, wanted=left, width=length, unread=page.unread))
        now.add_(1)

    repeat_step(round_, len(plan.noise), device)
    return finished(page, known, vocabulary, easel.sampling)
