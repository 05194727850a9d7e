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
from sightloop.types import Sampling, Tokens


@dataclass(frozen=True, kw_only=True)
class Branches:
    """The different prompts of a batch, and which of them each row of each branch reads."""

    ids: Int[Tensor, "D L"]
    mask: Bool[Tensor, "D L"] | None
    """None where no prompt is padded."""
    rows: Int[Tensor, " R"]
    """Given branch, then the blank one if there is guidance."""


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
        read = branches.ids.shape[1]
        once = self.body.cache(read)
        hidden = self.body.run(self.body.words(branches.ids), branches.mask, once)[:, -1][branches.rows]
        cache = self.body.spread(once, branches.rows, self.body.cache(read + length - 1))
        del once
        mask = None if branches.mask is None else branches.mask[branches.rows]
        for step in range(length):
            logits = self.body.code_logits(*hidden.split(size), guidance=sampling.guidance)
            ids[:, step], log_probs[:, step] = draw(logits, sampling, uniform[:, step])
            if step + 1 == length:
                break
            mask = None if mask is None else F.pad(mask, (0, 1), value=True)
            embeds = self.body.codes(ids[:, step : step + 1])
            hidden = self.body.run(embeds.repeat(len(hidden) // size, 1, 1), mask, cache)[:, -1]
        counts = torch.ones(size, length, dtype=torch.bool, device=self.body.device)
        return Tokens(ids=ids, mask=counts, log_probs=None if sampling.temperature == 0 else log_probs)

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

        return code_log_probs(logits, tuple(part[mask] for part in hidden), ids[mask], under=under)

    def logits(self, texts: list[str], ids: Int[Tensor, "B T"], sampling: Sampling) -> Float[Tensor, "B T V"]:
        """All logits of the law's guidance at every code, in memory at once; they carry the gradient."""
        hidden = self.hidden(texts, ids, guided=is_guided(sampling))
        return self.body.code_logits(*hidden, guidance=sampling.guidance)
