"""In which orders of unmasking the codes of a drawing are scored.

A masked decoder has no single likelihood of an image: it depends on which codes are known when another is
predicted. Three answers, all of them ways to fill a turn's mask and rounds (`decode_step`: a code is
predicted from those of earlier rounds, -1 is known from the start):

- as it was drawn (`true_rounds`): the exact likelihood of the draws, at the cost of one pass a round;
- some of these rounds (`some_rounds`): cheaper, on average the same;
- the finished image with codes hidden anew (`fresh_masks`): what masked training itself scores, one pass
  for each ratio, and nothing of how the image was drawn.

The orders live in the data, so policy, reference and old policy score the same ones. They are chosen by the
samples' own seeds, as the draws are: any split of the rows over ranks gives the same ones, and no two ranks
or steps share theirs, since no two samples of a run have one seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sightloop.types import Turn

_ROUNDS, _RATIOS, _HIDDEN = 0x1F83D9ABFB41BD6B, 0x3C6EF372FE94F82B, 0x510E527FADE682D1
"""Set the numbers of each use apart from each other and from those that drew the codes."""

GroupSeeds = Callable[[dict[str, int]], list[dict[str, int]]]
"""Every rank's seeds by prompt, on every rank."""


def _identity_gather(seeds: dict[str, int]) -> list[dict[str, int]]:
    return [seeds]


def true_rounds(turn: Turn) -> list[Turn]:
    """As it was drawn: Mask-GRPO's trajectory (arXiv 2510.13418).

    Raises:
        ValueError: the turn does not say in which round each code was drawn.
    """
    if turn.tokens.decode_step is None:
        raise ValueError("these tokens have no rounds (decode_step); they were not drawn by a masked decoder")
    return [turn]


def some_rounds(turn: Turn, *, number: int, generator: torch.Generator | None = None) -> list[Turn]:
    """As it was drawn, but only the codes of some rounds count: at random, others in each sample.

    A sample of R rounds keeps K = min(`number`, R), each round equally likely. Sums over the codes that
    count, times R / K, are therefore on average the sums over all codes. A mean over them is close to that
    over all codes, not equal on average: rounds with few codes then weigh more than their share. The samples'
    seeds choose, or `generator` if it is given.

    Raises:
        ValueError: no rounds are asked for, or the turn does not say which there were.
    """
    if number < 1:
        raise ValueError(f"number is {number}; keep at least 1 round")
    tokens = true_rounds(turn)[0].tokens
    assert tokens.decode_step is not None
    steps = tokens.decode_step.masked_fill(~tokens.mask, -1)
    # As many keys as a sample can have rounds, not as those beside it have.
    count = steps.shape[1]
    keys = _uniform_numbers(len(turn), (count,), turn.prompt.seeds, use=_ROUNDS, generator=generator)
    present = (steps[:, :, None] == torch.arange(count, device=steps.device)).any(1)
    order = keys.to(steps.device).masked_fill(~present, 2.0).argsort(1).argsort(1)
    kept = present & (order < number)
    mask = tokens.mask & kept.gather(1, steps.clamp(min=0))
    return [replace(turn, tokens=replace(tokens, mask=mask))]


def shared_ratios(
    groups: list[str],
    *,
    number: int,
    seeds: Mapping[str, int] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "K B"]:
    """K random shares of hidden codes: cos(pi t / 2) of uniform t, as in masked training.

    Samples with the same entry in `groups` share them, so that their likelihoods can be compared; UniRL's
    training code shares one over the batch. The groups' `seeds` choose, or `generator` if it is given.

    Raises:
        ValueError: no ratio is asked for.
    """
    if number < 1:
        raise ValueError(f"number is {number}; use at least 1 ratio")
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    chosen = None if seeds is None else [seeds[group] for group in places]
    progress = _uniform_numbers(len(places), (number,), chosen, use=_RATIOS, generator=generator)
    return torch.cos(progress.T * math.pi / 2)[:, [places[group] for group in groups]]


def fresh_masks(
    turn: Turn, ratios: Float[Tensor, "K B"], *, generator: torch.Generator | None = None
) -> list[Turn]:
    """The image with codes hidden anew, once for each of K ratios; the hidden codes count.

    Codes that did not count stay known. At least one code of a sample that has any is hidden. The samples'
    seeds choose which, or `generator` if it is given.
    """
    tokens = turn.tokens
    shape = (len(ratios), tokens.ids.shape[1])
    every = _uniform_numbers(len(turn), shape, turn.prompt.seeds, use=_HIDDEN, generator=generator)
    turns: list[Turn] = []
    for keys, ratio in zip(every.unbind(1), ratios, strict=True):
        hidden = _hidden(keys.to(tokens.ids.device), tokens.mask, ratio.to(tokens.ids.device))
        steps = torch.where(hidden, 0, torch.full_like(tokens.ids, -1))
        hidden_tokens = replace(tokens, mask=hidden, decode_step=steps, log_probs=None, one_hot=None)
        turns.append(replace(turn, tokens=hidden_tokens))
    return turns


def _uniform_numbers(
    size: int,
    shape: tuple[int, ...],
    seeds: Sequence[int] | None,
    *,
    use: int,
    generator: torch.Generator | None,
) -> Float[Tensor, "B ..."]:
    """In [0, 1), of this shape for each sample: one stream a seed and use, else one stream for all."""
    if generator is not None or seeds is None:
        return torch.rand(size, *shape, generator=generator)
    own = torch.Generator()
    return torch.stack([torch.rand(shape, generator=own.manual_seed(seed ^ use)) for seed in seeds])


def _hidden(
    keys: Float[Tensor, "B N"], free: Bool[Tensor, "B N"], ratio: Float[Tensor, " B"]
) -> Bool[Tensor, "B N"]:
    count = (free.sum(1) * ratio).round().clamp(min=1)
    order = keys.masked_fill(~free, 2.0).argsort(1).argsort(1)
    return free & (order < count[:, None])


@dataclass(frozen=True, kw_only=True)
class SomeRounds:
    """Orders of an algorithm: a few of the rounds that drew each sample."""

    number: int = 4

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f"number is {self.number}; keep at least 1 round")

    def __call__(self, turn: Turn) -> list[Turn]:
        """The turn with only these rounds counting; the samples' seeds choose."""
        return some_rounds(turn, number=self.number)


@dataclass(frozen=True, kw_only=True)
class FreshMasks:
    """Orders of an algorithm: the finished images at K random ratios, shared by samples of one prompt."""

    number: int = 1
    gather: GroupSeeds = _identity_gather
    """Brings the seeds of all ranks together, so that samples of a prompt may lie on several."""

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f"number is {self.number}; use at least 1 ratio")

    def __call__(self, turn: Turn) -> list[Turn]:
        """K turns to average; the samples' seeds choose, and the smallest one of a prompt its ratios."""
        return fresh_masks(
            turn, shared_ratios(turn.prompt.texts, number=self.number, seeds=self._seeds(turn))
        )

    def _seeds(self, turn: Turn) -> dict[str, int] | None:
        if turn.prompt.seeds is None:
            return None
        mine: dict[str, int] = {}
        for text, seed in zip(turn.prompt.texts, turn.prompt.seeds, strict=True):
            mine[text] = min(seed, mine.get(text, seed))
        everyone = self.gather(mine)
        return {text: min(part[text] for part in everyone if text in part) for text in mine}
