"""Janus draws: codes of pictures left to right with guidance, and the same codes read in one pass.

A prompt is read once for all samples of its group, and the blank prompt once for all prompts of its length.
Rows of different length are padded on the left and give what they give alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sightloop.models.codes import code_log_probs
from sightloop.models.generation import draw, uniform_numbers
from sightloop.models.janus_body import JanusBody
from sightloop.models.janus_prompts import JanusPrompts
from sightloop.models.sharing import distinct
from sightloop.models.static_steps import repeat_step
from sightloop.models.transformers_internals import Cache, static_cache
from sightloop.types import Sampling, Tokens


@dataclass(frozen=True, kw_only=True)
class Branches:
    """The different prompts of a batch, and which of them each row of each branch reads."""

    ids: Int[Tensor, "D L"]
    mask: Bool[Tensor, "D L"] | None
    """None where no prompt is padded."""
    rows: Int[Tensor, " R"]
    """Given branch, then the blank one if there is guidance."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Pictures in the making: what is drawn is written into the tensors."""

    ids: Int[Tensor, "B T"]
    log_probs: Float[Tensor, "B T"]
    uniform: Float[Tensor, "B T"]
    """The numbers that decide."""
    sampling: Sampling


def is_guided(sampling: Sampling | None) -> bool:
    """Whether the law needs the blank branch; at scale 1 nothing of it is left."""
    return sampling is not None and sampling.guidance not in (0.0, 1.0)


class JanusDrawing:
    """Draws and reads the codes of pictures."""

    def __init__(self, body: JanusBody, prompts: JanusPrompts, *, num_tokens: int, num_codes: int) -> None:
        self.body = body
        self.prompts = prompts
        self.num_tokens = num_tokens
        self.num_codes = num_codes
        self.is_static = False
        """Draw in steps of fixed shapes, which a CUDA device replays as one graph a step."""

    def branches(self, texts: list[str], *, guided: bool) -> Branches:
        """The prompts as rows.

        Raises:
            ValueError: a prompt is empty or too long.
        """
        rows = [self.prompts.drawing_row(text) for text in texts]
        all_rows = rows + [self.prompts.blank(row) for row in rows] if guided else rows
        firsts, places = distinct(all_rows)
        ids, mask = self.body.padded([all_rows[row] for row in firsts])
        self.body.check_length(max(map(len, rows)) + self.num_tokens, "the longest prompt with its picture")
        return Branches(ids=ids, mask=mask, rows=torch.tensor(places, device=ids.device))

    @torch.no_grad()
    def draw(self, texts: list[str], sampling: Sampling, seeds: list[int] | None) -> Tokens:
        """The codes of one picture a text."""
        size, length = len(texts), self.num_tokens
        uniform = uniform_numbers(size, length, seeds).to(self.body.device)
        branches = self.branches(texts, guided=is_guided(sampling))
        ids = torch.empty(size, length, dtype=torch.long, device=self.body.device)
        log_probs = torch.empty(size, length, device=self.body.device)
        once = self.body.cache(branches.ids.shape[1])
        hidden = self.body.run(self.body.words(branches.ids), branches.mask, once)[:, -1][branches.rows]
        logits = self.body.code_logits(*hidden.split(size), guidance=sampling.guidance)
        ids[:, 0], log_probs[:, 0] = draw(logits, sampling, uniform[:, 0])
        drawn = Drawn(ids=ids, log_probs=log_probs, uniform=uniform, sampling=sampling)
        (self._finish_static if self.is_static else self._finish)(drawn, branches, once)
        counts = torch.ones(size, length, dtype=torch.bool, device=self.body.device)
        return Tokens(ids=ids, mask=counts, log_probs=None if sampling.temperature == 0 else log_probs)

    def _finish(self, drawn: Drawn, branches: Branches, once: Cache) -> None:
        size, length = drawn.ids.shape
        read, rows = branches.ids.shape[1], branches.rows
        cache = self.body.spread(once, rows, self.body.cache(read + length - 1))
        once.layers.clear()
        mask = None if branches.mask is None else branches.mask[rows]
        for step in range(1, length):
            mask = None if mask is None else F.pad(mask, (0, 1), value=True)
            embeds = self.body.codes(drawn.ids[:, step - 1 : step]).repeat(len(rows) // size, 1, 1)
            hidden = self.body.run(embeds, mask, cache)[:, -1]
            logits = self.body.code_logits(*hidden.split(size), guidance=drawn.sampling.guidance)
            drawn.ids[:, step], drawn.log_probs[:, step] = draw(
                logits, drawn.sampling, drawn.uniform[:, step]
            )

    def _finish_static(self, drawn: Drawn, branches: Branches, once: Cache) -> None:
        size, length = drawn.ids.shape
        read, rows, device = branches.ids.shape[1], branches.rows, self.body.device
        room = read + length - 1
        place = torch.tensor([read], device=device)
        spread = self.body.spread(once, rows, self.body.cache(read))
        once.layers.clear()
        cache = static_cache(spread, room, place)
        seen = torch.zeros(len(rows), 1, 1, room, dtype=torch.bool, device=device)
        seen[..., :read] = True if branches.mask is None else branches.mask[rows][:, None, None]
        positions = seen[:, 0].sum(-1)
        last = torch.zeros(1, dtype=torch.long, device=device)

        def step() -> None:
            seen.index_fill_(3, place, True)
            embeds = self.body.codes(drawn.ids.index_select(1, last)).repeat(len(rows) // size, 1, 1)
            hidden = self.body.run_at(embeds, positions, seen, cache)[:, -1]
            logits = self.body.code_logits(*hidden.split(size), guidance=drawn.sampling.guidance)
            last.add_(1)
            picked = draw(logits, drawn.sampling, drawn.uniform.index_select(1, last)[:, 0])
            for kept, found in zip((drawn.ids, drawn.log_probs), picked, strict=True):
                kept.index_copy_(1, last, found[:, None])
            place.add_(1)
            positions.add_(1)

        repeat_step(step, length - 1, device)

    def hidden(
        self, texts: list[str], ids: Int[Tensor, "B T"], *, guided: bool
    ) -> tuple[Float[Tensor, "B T h"], ...]:
        """The hidden state that predicts each code, in the given and, if guided, in the blank branch."""
        branches = self.branches(texts, guided=guided)
        read, rows = branches.ids.shape[1], branches.rows
        mask = (
            None if branches.mask is None else F.pad(branches.mask[rows], (0, ids.shape[1] - 1), value=True)
        )
        drawn = self.body.codes(ids[:, :-1]).repeat(len(rows) // len(ids), 1, 1)
        embeds = torch.cat([self.body.words(branches.ids)[rows], drawn], 1)
        return self.body.run(embeds, mask)[:, read - 1 :].split(len(ids))

    def scores(
        self, texts: list[str], tokens: Tokens, under: Sampling | None
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Log-probability and entropy of every code that counts."""
        mask, guidance = tokens.mask, 0.0 if under is None else under.guidance
        # What does not count may be anything; where it is a code, later codes still follow it.
        ids = tokens.ids.clamp(0, self.num_codes - 1)
        hidden = self.hidden(texts, ids, guided=is_guided(under))

        def logits(*parts: Tensor) -> Tensor:
            return self.body.code_logits(*parts, guidance=guidance)

        # One look at the mask for all that is picked by it.
        at = mask.nonzero(as_tuple=True)
        return code_log_probs(logits, tuple(part[at] for part in hidden), ids[at], under=under)

    def logits(self, texts: list[str], ids: Int[Tensor, "B T"], sampling: Sampling) -> Float[Tensor, "B T V"]:
        """All logits of the law's guidance at every code, in memory at once; they carry the gradient."""
        hidden = self.hidden(texts, ids, guided=is_guided(sampling))
        return self.body.code_logits(*hidden, guidance=sampling.guidance)
