"""Janus draws: codes of images left to right with guidance, and the same codes read in one pass.

A prompt is read once for all samples of its group, and the blank prompt once for all prompts of its length.
Rows of different length are padded on the left and give what they give alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sightloop.models.decoding.code_likelihood import code_log_probs
from sightloop.models.decoding.cuda_graphs import repeat_step
from sightloop.models.decoding.fused_decoder import KeyValues, Turns, hidden_where, left_to_right
from sightloop.models.decoding.sampling import draw, uniform_numbers
from sightloop.models.deduplicate import distinct
from sightloop.models.janus.body import JanusBody, places_of
from sightloop.models.janus.fused_llama import LeanLlama
from sightloop.models.janus.prompts import JanusPrompts
from sightloop.models.only_numbers import marked
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
class CodeReading:
    """The prompts once they are read: what every step of a drawing needs."""

    lean: LeanLlama
    read: int
    """Positions of the prompts, pads included."""
    hidden: Float[Tensor, "R h"]
    """The states that predict the first code."""
    memory: KeyValues
    turns: Turns
    """Of all positions in the room."""
    mask: Float[Tensor, "R 1 1 K"] | None
    """Over the room; None where no prompt is padded."""

    def turns_at(self, place: int | Int[Tensor, 1]) -> Turns:
        """The turns of one position, padded rows' own."""
        cos, sin = self.turns
        if isinstance(place, int):
            return cos[:, place : place + 1], sin[:, place : place + 1]
        return cos.index_select(1, place), sin.index_select(1, place)


def _read(lean: LeanLlama, body: JanusBody, branches: Branches, *, room: int) -> CodeReading:
    """Read each different prompt once, and let every row have what it reads."""
    ids, mask, rows = branches.ids, branches.mask, branches.rows
    count, length = ids.shape
    whole = None if mask is None else F.pad(mask, (0, room - length), value=True)
    positions = torch.arange(room, device=ids.device)[None] if whole is None else places_of(whole)
    cos, sin = lean.turns(positions)
    once = lean.memory(count, length)
    hidden = lean(
        body.words(ids),
        once,
        turns=(cos[:, :length], sin[:, :length]),
        at=slice(0, length),
        mask=None if mask is None else left_to_right(mask, lean.dtype),
        is_causal=mask is None,
    )
    return CodeReading(
        lean=lean,
        read=length,
        hidden=hidden[:, -1][rows],
        memory=once.spread(rows, length, room),
        turns=(cos, sin) if whole is None else (cos[rows], sin[rows]),
        mask=None if whole is None else hidden_where(~whole[rows], lean.dtype)[:, None, None],
    )


def is_guided(sampling: Sampling | None) -> bool:
    """Whether the distribution needs the blank branch; at scale 1 nothing of it is left."""
    return sampling is not None and sampling.guidance not in (0.0, 1.0)


class JanusDrawing:
    """Draws and reads the codes of images."""

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
        self.body.check_length(max(map(len, rows)) + self.num_tokens, "the longest prompt with its image")
        return Branches(ids=ids, mask=mask, rows=torch.tensor(places, device=ids.device))

    @torch.no_grad()
    def draw(self, texts: list[str], sampling: Sampling, seeds: list[int] | None) -> Tokens:
        """The codes of one image a text."""
        size, length = len(texts), self.num_tokens
        uniform = uniform_numbers(size, length, seeds).to(self.body.device)
        branches = self.branches(texts, guided=is_guided(sampling))
        lean = self.body.lean()
        if lean is None:
            ids, sure = self._plainly(branches, sampling, uniform)
        else:
            reading = _read(lean, self.body, branches, room=branches.ids.shape[1] + length - 1)
            drawing = self._statically if self.is_static else self._leanly
            ids, sure = drawing(reading, sampling, uniform)
        counts = torch.ones(size, length, dtype=torch.bool, device=self.body.device)
        has_distribution = sampling.temperature > 0
        return Tokens(ids=marked(ids, sure), mask=counts, log_probs=sure if has_distribution else None)

    def _pick(
        self, hidden: Float[Tensor, "R h"], sampling: Sampling, uniform: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = self.body.drawn_logits(
            hidden, guidance=sampling.guidance, branches=len(hidden) // len(uniform)
        )
        return draw(logits, sampling, uniform)

    def _next(self, ids: Int[Tensor, " B"], rows: int) -> Float[Tensor, "R 1 h"]:
        """The input for drawn codes, the same in all branches."""
        return self.body.codes(ids).repeat(rows // len(ids), 1)[:, None]

    def _leanly(
        self, reading: CodeReading, sampling: Sampling, uniform: Float[Tensor, "B T"]
    ) -> tuple[Tensor, Tensor]:
        picks = [self._pick(reading.hidden, sampling, uniform[:, 0])]
        rows = len(reading.hidden)
        for step in range(1, uniform.shape[1]):
            place = reading.read + step - 1
            hidden = reading.lean(
                self._next(picks[-1][0], rows),
                reading.memory,
                turns=reading.turns_at(place),
                at=slice(place, place + 1),
                mask=None if reading.mask is None else reading.mask[..., : place + 1],
            )
            picks.append(self._pick(hidden[:, 0], sampling, uniform[:, step]))
        ids, log_probs = (torch.stack(column, 1) for column in zip(*picks, strict=True))
        return ids, log_probs

    def _statically(
        self, reading: CodeReading, sampling: Sampling, uniform: Float[Tensor, "B T"]
    ) -> tuple[Tensor, Tensor]:
        """The same in steps of fixed shapes: what is not written yet is masked."""
        rows, device = len(reading.hidden), uniform.device
        ids, log_probs = torch.empty(uniform.shape, dtype=torch.long, device=device), uniform.clone()
        ids[:, 0], log_probs[:, 0] = self._pick(reading.hidden, sampling, uniform[:, 0])
        room = reading.memory.states[0].shape[3]
        mask = uniform.new_zeros(rows, 1, 1, room, dtype=reading.lean.dtype)
        if reading.mask is not None:
            mask += reading.mask
        mask[..., reading.read :] = -torch.inf
        last = torch.zeros(1, dtype=torch.long, device=device)

        def step() -> None:
            place = last + reading.read
            mask.index_fill_(3, place, 0.0)
            hidden = reading.lean(
                self._next(ids.index_select(1, last)[:, 0], rows),
                reading.memory,
                turns=reading.turns_at(place),
                at=place,
                mask=mask,
            )
            last.add_(1)
            picked = self._pick(hidden[:, 0], sampling, uniform.index_select(1, last)[:, 0])
            for kept, found in zip((ids, log_probs), picked, strict=True):
                kept.index_copy_(1, last, found[:, None])

        repeat_step(step, uniform.shape[1] - 1, device)
        return ids, log_probs

    def _plainly(
        self, branches: Branches, sampling: Sampling, uniform: Float[Tensor, "B T"]
    ) -> tuple[Tensor, Tensor]:
        """The same through transformers' own layers."""
        read, rows = branches.ids.shape[1], branches.rows
        once = self.body.cache(read)
        hidden = self.body.run(self.body.words(branches.ids), branches.mask, once)[:, -1][rows]
        cache = self.body.spread(once, rows, self.body.cache(read + uniform.shape[1] - 1))
        once.layers.clear()
        mask = None if branches.mask is None else branches.mask[rows]
        picks = [self._pick(hidden, sampling, uniform[:, 0])]
        for step in range(1, uniform.shape[1]):
            mask = None if mask is None else F.pad(mask, (0, 1), value=True)
            hidden = self.body.run(self._next(picks[-1][0], len(rows)), mask, cache)[:, -1]
            picks.append(self._pick(hidden, sampling, uniform[:, step]))
        ids, log_probs = (torch.stack(column, 1) for column in zip(*picks, strict=True))
        return ids, log_probs

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
        """All logits of the distribution's guidance at every code, in memory at once; they carry the
        gradient."""
        hidden = self.hidden(texts, ids, guided=is_guided(sampling))
        return self.body.code_logits(*hidden, guidance=sampling.guidance)
