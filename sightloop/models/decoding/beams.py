"""Beam search and greedy writing under the rules of caption evaluations, with few questions to the device.

The search is the one of transformers' `generate`: scores are log-probabilities divided by the length, twice
as many candidates as beams are looked at, and a text is settled once no running beam can beat its worst ended
one. All of that is decided on the device; the host asks every few tokens which texts are settled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sightloop.models.decoding.growing_texts import LEAVE_SHARE, LOOK_EVERY, are_ends
from sightloop.models.decoding.sampling import TextDecoder, alone, draw_tokens
from sightloop.models.only_numbers import UNSOUND, require_drawn
from sightloop.types import Sampling

_NEVER = -1e9
"""The score of what must not be chosen."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a caption is written."""

    beams: int
    """1 = greedy."""
    no_repeat_ngram: int
    """Word sequences of this length never repeat; 0 = they may."""
    min_tokens: int
    max_tokens: int
    never: tuple[int, ...] = ()
    """Tokens that are not written."""

    def __post_init__(self) -> None:
        if self.beams < 1 or self.no_repeat_ngram < 0 or self.max_tokens < 1:
            raise ValueError(
                f"beams is {self.beams}, no_repeat_ngram {self.no_repeat_ngram}, max_tokens "
                f"{self.max_tokens}; use at least 1, 0 and 1"
            )


def forbid_repeats(scores: Float[Tensor, "N V"], history: Int[Tensor, "N L"], size: int) -> None:
    """Take -inf for what would repeat a sequence of so many words in `history`; in place. 0 = nothing."""
    if not size or history.shape[1] < size:
        return
    banned = history[:, size - 1 :]
    repeats = torch.ones_like(banned, dtype=torch.bool) if size == 1 else None
    for place in range(size - 1):
        same = history[:, place : place + banned.shape[1]] == history[:, place - size + 1, None]
        repeats = same if repeats is None else repeats & same
    assert repeats is not None
    scores.scatter_add_(1, banned, torch.where(repeats, -torch.inf, 0.0))


class _Forbidden:
    """The tokens that the rules forbid wherever a text stands, laid out on the device once."""

    def __init__(self, rules: Rules, ends: tuple[int, ...], device: torch.device) -> None:
        self._early = torch.tensor([*rules.never, *ends], dtype=torch.long).to(device, non_blocking=True)
        self._later = self._early[: len(rules.never)]
        self._min = rules.min_tokens

    def strike(self, scores: Float[Tensor, "N V"], length: int) -> None:
        """Take -inf for what may not stand behind so many tokens; in place."""
        tokens = self._early if length < self._min else self._later
        if len(tokens):
            scores.index_fill_(1, tokens, -torch.inf)


@dataclass(frozen=True, kw_only=True)
class _State:
    """B texts with K beams each; ids hold the prompt's L tokens and room for the new ones."""

    running: Int[Tensor, "B K L"]
    running_scores: Float[Tensor, "B K"]
    ended: Int[Tensor, "B K L"]
    ended_scores: Float[Tensor, "B K"]
    open: Bool[Tensor, " B"]
    """Whether a running beam may still become the best text."""

    def best(self) -> Int[Tensor, "B L"]:
        """The best ended text of each; where none has a score, scores were no numbers."""
        sound = self.ended_scores[:, :1] > _NEVER / 2
        return torch.where(sound, self.ended[:, 0], UNSOUND)

    def rows(self, at: Tensor) -> _State:
        return _State(
            running=self.running[at],
            running_scores=self.running_scores[at],
            ended=self.ended[at],
            ended_scores=self.ended_scores[at],
            open=self.open[at],
        )


@torch.no_grad()
def write_texts(
    writer: TextDecoder,
    context: Float[Tensor, "B N h"],
    history: Int[Tensor, "B P"],
    rules: Rules,
) -> list[list[int]]:
    """The new tokens of each text, `pad` behind its end; the n-gram rule has read `history` before.

    Raises:
        ValueError: the model computes something that is not a number.
    """
    if rules.beams == 1 and not rules.no_repeat_ngram:
        return _write_greedily(writer, context, rules)
    beams, prompt = rules.beams, history.shape[1]
    forbidden = _Forbidden(rules, writer.ends, context.device)
    cache = writer.new_cache(writer.num_layers, context.shape[1] + rules.max_tokens)
    hidden = writer.decoder(context, None, cache)[:, -1].repeat_interleave(beams, 0)
    cache.batch_select_indices(torch.arange(len(context), device=context.device).repeat_interleave(beams))
    state = _start(history, rules, pad=writer.pad)
    written = state.best()
    rows = torch.arange(len(context), device=context.device)
    # The CPU does not wait; ranks that wait for each other ask after the same tokens.
    watched = context.device.type == "cpu" and writer.all_ranks_finished is alone
    for length in range(rules.max_tokens):
        last = length + 1 == rules.max_tokens
        logits = writer.head(hidden)
        scores = logits.float().log_softmax(-1)
        forbidden.strike(scores, length)
        read = state.running.flatten(0, 1)[:, : prompt + length]
        forbid_repeats(scores, read, rules.no_repeat_ngram)
        state, parents = _step(state, scores, writer.ends, at=prompt + length, length=length + 1, last=last)
        if last:
            break
        may_leave = (length + 1) % LOOK_EVERY == 0 and length + 1 + LOOK_EVERY <= rules.max_tokens
        if may_leave or watched:
            going = [row for row, goes in enumerate(state.open.tolist()) if goes]
            if writer.all_ranks_finished(not going):
                break
            if may_leave and 0 < len(going) <= (1 - LEAVE_SHARE) * len(rows):
                written[rows] = state.best()
                stay = torch.tensor(going).to(context.device, non_blocking=True)
                rows, state, parents = rows[stay], state.rows(stay), parents.view(-1, beams)[stay].flatten()
        cache.batch_select_indices(parents)
        newest = state.running[:, :, prompt + length].flatten()[:, None]
        hidden = writer.decoder(writer.embed(newest), None, cache)[:, -1]
    written[rows] = state.best()
    return _sound(written[:, prompt:], writer.source)


def _write_greedily(writer: TextDecoder, context: Float[Tensor, "B N h"], rules: Rules) -> list[list[int]]:
    """Without beams and without a look at what was written before, the highest score is all that counts."""
    forbidden, lengths = _Forbidden(rules, writer.ends, context.device), count()

    def head(hidden: Tensor) -> Tensor:
        scores = writer.head(hidden)
        forbidden.strike(scores, next(lengths))
        return scores

    sampling = Sampling(max_tokens=rules.max_tokens, temperature=0)
    # Seeds decide nothing here; without them the global generator would move on.
    seeds = [0] * len(context)
    texts = draw_tokens(replace(writer, head=head), context, mask=None, sampling=sampling, seeds=seeds)
    return _sound(texts.ids, writer.source)


def _sound(written: Int[Tensor, "B T"], source: str) -> list[list[int]]:
    found = written.tolist()
    require_drawn(min(map(min, found)), source, "captions")
    return found


def _start(history: Tensor, rules: Rules, *, pad: int) -> _State:
    size = (len(history), rules.beams)
    ids = history.new_full((*size, history.shape[1] + rules.max_tokens), pad)
    ids[:, :, : history.shape[1]] = history[:, None]
    scores = torch.zeros(size, device=history.device)
    # All beams are equal at first: one speaks for them.
    scores[:, 1:] = _NEVER
    return _State(
        running=ids,
        running_scores=scores,
        ended=ids.clone(),
        ended_scores=torch.full(size, _NEVER, device=history.device),
        open=torch.ones(size[0], dtype=torch.bool, device=history.device),
    )


def _step(
    state: _State, scores: Tensor, ends: tuple[int, ...], *, at: int, length: int, last: bool
) -> tuple[_State, Tensor]:
    """One token more; the rows of the cache that the new beams go on from."""
    texts, beams = state.running_scores.shape
    vocabulary = scores.shape[1]
    totals = (scores.view(texts, beams, vocabulary) + state.running_scores[:, :, None]).flatten(1)
    # As many candidates as leave `beams` running ones if every end token is among the best.
    best, chosen = totals.topk(1 if beams == 1 else max(2, 1 + len(ends)) * beams, dim=1)
    parents, tokens = chosen // vocabulary, chosen % vocabulary
    is_end = torch.ones_like(tokens, dtype=torch.bool) if last else are_ends(tokens, ends)
    first = torch.arange(0, texts * beams, beams, device=scores.device)[:, None]

    # Ended texts among the best `beams` candidates compete with those that ended before.
    fits = is_end[:, :beams] & state.open[:, None]
    candidates = state.running.flatten(0, 1)[parents[:, :beams] + first]
    candidates[:, :, at] = tokens[:, :beams]
    merged = torch.cat([state.ended_scores, torch.where(fits, best[:, :beams] / length, _NEVER)], 1)
    ended_scores, kept = merged.topk(beams, dim=1)
    both = torch.cat([state.ended, candidates], 1)
    ended = both.gather(1, kept[:, :, None].expand(-1, -1, both.shape[2]))

    running_scores, places = torch.where(is_end, best + _NEVER, best).topk(beams, dim=1)
    rows = (parents.gather(1, places) + first).flatten()
    running = state.running.flatten(0, 1)[rows].view_as(state.running)
    running[:, :, at] = tokens.gather(1, places)

    worst = ended_scores.amin(1)
    hopeful = running_scores[:, 0] / length > worst
    return replace(
        state,
        running=running,
        running_scores=running_scores,
        ended=ended,
        ended_scores=ended_scores,
        open=state.open & hopeful,
    ), rows
