"""Images in the making behind their prompts: what sampling and scoring of codes look at.

A canvas holds the prompts' keys and values, each distinct prompt once and "no condition" once for all.
Looking at it recomputes only the image between its marks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sightloop.models.decoding.code_likelihood import code_log_probs, relaxed_codes, unit_exponentials
from sightloop.models.deduplicate import distinct
from sightloop.models.show_o.body import Body, Prefix, Wanted
from sightloop.models.show_o.layout import TokenLayout, drawing_prompt, framed, require_codes
from sightloop.models.show_o.sampling import RELAXED_STREAM, chosen_rounds
from sightloop.types import Sampling, Tokens, TokenScores

_POSITIONS_AT_ONCE = 8192
"""Positions in one forward pass of a score: what is recomputed in the backward pass at once, too."""


@dataclass(frozen=True, kw_only=True)
class DecodingState:
    """The prompts of a batch, ready to be followed by images."""

    body: Body
    start: int
    """Position of the mark before the image."""
    conditions: tuple[Prefix, ...]
    """The prompts, and no condition if there is guidance."""
    guidance: float

    def rows(self, index: Int[Tensor, " R"]) -> DecodingState:
        """For the samples at `index`."""
        return replace(self, conditions=tuple(prefix.rows(index) for prefix in self.conditions))

    def hidden_states(
        self,
        codes: Int[Tensor, "B N"],
        unknown: Bool[Tensor, "B N"],
        wanted: Bool[Tensor, "B N"] | None = None,
    ) -> tuple[Float[Tensor, "n h"], ...]:
        """Hidden states at the `wanted` (None = the unknown) positions, one tensor for each condition.

        Codes and masks may be the host's, which then waits for nothing.
        """
        vocabulary, device = self.body.vocabulary, self.body.device
        ids = torch.where(unknown, vocabulary.mask, codes + vocabulary.first_code)
        rows = framed(ids, vocabulary)
        positions = self.start + torch.arange(rows.shape[1], device=device)[None]
        if wanted is None and bool(unknown.all()):
            return tuple(self._blank(rows[:1], positions, prefix) for prefix in self.conditions)
        chosen = Wanted.of(F.pad(unknown if wanted is None else wanted, (1, 1)), device)
        opening = self.body.opening(rows, positions)
        return tuple(
            self.body.continued(opening, positions, chosen, prefix=prefix) for prefix in self.conditions
        )

    def _blank(
        self, row: Int[Tensor, "1 L"], positions: Int[Tensor, "1 L"], prefix: Prefix
    ) -> Float[Tensor, "n h"]:
        """Before the first round rows with one prompt are one row, and without condition all are."""
        kinds, which = prefix.row_of.unique(return_inverse=True)
        rows = row.expand(len(kinds), -1)
        every = F.pad(torch.ones(len(kinds), row.shape[1] - 2, dtype=torch.bool), (1, 1))
        wanted = Wanted.of(every, self.body.device)
        opening = self.body.opening(rows, positions)
        hidden = self.body.continued(opening, positions, wanted, prefix=replace(prefix, row_of=kinds))
        return hidden.unflatten(0, (len(kinds), -1))[which].flatten(0, 1)

    def logits_of(self, *hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n K"]:
        """Logits of the codes."""
        return guided_logits(self.body, hidden, self.guidance)


def guided_logits(
    body: Body, hidden: tuple[Float[Tensor, "n h"], ...], guidance: float
) -> Float[Tensor, "n K"]:
    """Logits of the codes: (1 + g) conditioned - g unconditioned, if there are two branches.

    The head is linear, so in float32 hidden states are combined before it, which is half the work. Half
    precision would lose too much there.
    """
    if len(hidden) == 1:
        return body.code_logits(hidden[0])
    conditioned, free = hidden
    if torch.finfo(conditioned.dtype).bits >= 32:
        return body.code_logits(torch.lerp(free, conditioned, 1 + guidance))
    return torch.lerp(body.code_logits(free), body.code_logits(conditioned), 1 + guidance)


def prompts_of(
    texts: list[list[int]], vocabulary: TokenLayout, *, max_text: int, guidance: float
) -> tuple[list[list[int]], list[list[int]]]:
    """Different prompts, and which of them each row reads, with its condition and, if guided, without."""
    prompts = [drawing_prompt(text, vocabulary, max_text=max_text) for text in texts]
    firsts, row_of = distinct([tuple(ids) for ids in prompts])
    different, branches = [prompts[row] for row in firsts], [row_of]
    if guidance > 0:
        different.append(drawing_prompt([], vocabulary, max_text=max_text))
        branches.append([len(firsts)] * len(texts))
    return different, branches


def canvas_of(body: Body, texts: list[list[int]], *, max_text: int, guidance: float) -> DecodingState:
    """A canvas for prompts given as text ids; equal prompts are read once."""
    prompts, branches = prompts_of(texts, body.vocabulary, max_text=max_text, guidance=guidance)
    start, count = max_text + 1, 1 + max(branches[0])
    parts = [(prompts[:count], branches[0]), (prompts[count:], [0] * len(texts))][: len(branches)]
    conditions = tuple(body.text_prefix(rows, torch.tensor(row_of), ends_at=start) for rows, row_of in parts)
    return DecodingState(body=body, start=start, conditions=conditions, guidance=guidance)


def score_codes(canvas: DecodingState, tokens: Tokens, under: Sampling | None) -> TokenScores:
    """Log-probabilities of codes, each from those that earlier rounds fixed.

    All rounds that the mask touches are evaluated, each in its own pass over the image.
    `decode_step` None means one round from an image of which nothing is known.
    """
    codes = tokens.ids
    blank = torch.zeros(codes.numel(), device=codes.device)
    hidden, index = _looked_at(canvas, tokens)
    if not len(index):
        return TokenScores(log_probs=blank.view(codes.shape), entropy=blank.view(codes.shape))
    log_probs, entropy = code_log_probs(canvas.logits_of, hidden, codes.flatten()[index], under=under)
    return TokenScores(
        log_probs=blank.index_put((index,), log_probs).view(codes.shape),
        entropy=blank.index_put((index,), entropy).view(codes.shape),
    )


def relaxed_image(
    canvas: DecodingState, tokens: Tokens, sampling: Sampling, *, seeds: list[int] | None
) -> Float[Tensor, "B N K"]:
    """One-hot codes of a finished image that carry a gradient to the logits that drew them.

    Each code is relaxed under the distribution of its round, given the codes that were fixed before it. The
    codes of rounds that were not chosen (`Sampling.relaxed_rounds`) are plain.
    """
    relaxed = tokens
    if sampling.relaxed_rounds is not None:
        mask = chosen_rounds(tokens, sampling.relaxed_rounds, seeds)
        relaxed = replace(tokens, mask=mask)
    codes, num_codes = tokens.ids, canvas.body.vocabulary.num_codes
    plain = F.one_hot(codes, num_codes).float()
    hidden, index = _looked_at(canvas, relaxed)
    if not len(index):
        return plain
    apart = None if seeds is None else [seed ^ RELAXED_STREAM for seed in seeds]
    exponentials = unit_exponentials((*codes.shape, num_codes), apart).flatten(0, 1)[index.cpu()]
    soft = relaxed_codes(
        canvas.logits_of(*hidden)[None],
        codes.flatten()[None, index],
        exponentials[None].to(codes.device),
        sampling=sampling,
    )[0]
    return plain.flatten(0, 1).index_put((index,), soft).view_as(plain)


def _looked_at(
    canvas: DecodingState, tokens: Tokens
) -> tuple[tuple[Float[Tensor, "n h"], ...], Int[Tensor, " n"]]:
    """Hidden states that predict the codes that count, one tensor for each condition, and where these are."""
    device = tokens.ids.device
    steps = torch.zeros_like(tokens.ids) if tokens.decode_step is None else tokens.decode_step
    # All that the host has to know, in one look at the device.
    codes, counts, steps = torch.stack([tokens.ids, tokens.mask.long(), steps.long()]).cpu()
    require_codes(codes, canvas.body.vocabulary)
    mask = counts.bool()
    rows, places = mask.nonzero(as_tuple=True)
    pairs = torch.stack([rows, steps[rows, places]], 1).unique(dim=0)
    hidden: list[tuple[Tensor, ...]] = []
    flat: list[Tensor] = []
    for part in pairs.split(max(1, _POSITIONS_AT_ONCE // codes.shape[1])) if len(pairs) else ():
        row, step = part.unbind(1)
        unknown = steps[row] >= step[:, None]
        wanted = mask[row] & (steps[row] == step[:, None])
        hidden.append(canvas.rows(row).hidden_states(codes[row], unknown, wanted))
        at, place = wanted.nonzero(as_tuple=True)
        flat.append(row[at] * codes.shape[1] + place)
    if not hidden:
        return (), rows.to(device)
    return tuple(torch.cat(branch) for branch in zip(*hidden, strict=True)), torch.cat(flat).to(device)
