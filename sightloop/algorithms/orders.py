"""In which orders of unmasking the codes of a drawing are scored.

A masked decoder has no single likelihood of a picture: it depends on which codes are known when another is
predicted. Three answers, all of them ways to fill a turn's mask and rounds (`decode_step`: a code is
predicted from those of earlier rounds, -1 is known from the start):

- as it was drawn (`true_rounds`): the exact likelihood of the draws, at the cost of one pass a round;
- some of these rounds (`some_rounds`): cheaper, on average the same;
- the finished picture with codes hidden anew (`fresh_masks`): what masked training itself scores, one pass
  for each ratio, and nothing of how the picture was drawn.

The orders live in the data, so policy, reference and old policy score the same ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sightloop.types import Turn


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
    over all codes, not equal on average: rounds with few codes then weigh more than their share.

    Raises:
        ValueError: no rounds are asked for, or the turn does not say which there were.
    """
    if number < 1:
        raise ValueError(f"number is {number}; keep at least 1 round")
    tokens = true_rounds(turn)[0].tokens
    assert tokens.decode_step is not None
    steps = tokens.decode_step.masked_fill(~tokens.mask, -1)
    count = int(steps.max()) + 1
    keys = torch.rand(len(turn), count, generator=generator).to(steps.device)
    present = (steps[:, :, None] == torch.arange(count, device=steps.device)).any(1)
    order = keys.masked_fill(~present, 2.0).argsort(1).argsort(1)
    kept = present & (order < number)
    mask = tokens.mask & kept.gather(1, steps.clamp(min=0))
    return [replace(turn, tokens=replace(tokens, mask=mask))]


def shared_ratios(
    groups: list[str], *, number: int, generator: torch.Generator | None = None
) -> Float[Tensor, "K B"]:
    """K random shares of hidden codes: cos(pi t / 2) of uniform t, as in masked training.

    Samples with the same entry in `groups` share them, so that their likelihoods can be compared; UniRL's
    training code shares one over the batch.

    Raises:
        ValueError: no ratio is asked for.
    """
    if number < 1:
        raise ValueError(f"number is {number}; use at least 1 ratio")
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    progress = torch.rand(number, len(places), generator=generator)
    return torch.cos(progress * math.pi / 2)[:, [places[group] for group in groups]]


def fresh_masks(
    turn: Turn, ratios: Float[Tensor, "K B"], *, generator: torch.Generator | None = None
) -> list[Turn]:
    """The picture with codes hidden anew, once for each of K ratios; the hidden codes count.

    Codes that did not count stay known. At least one code of a sample that has any is hidden.
    """
    tokens = turn.tokens
    turns: list[Turn] = []
    for ratio in ratios.to(tokens.ids.device):
        keys = torch.rand(tokens.ids.shape, generator=generator).to(tokens.ids.device)
        hidden = _hidden(keys, tokens.mask, ratio)
        steps = torch.where(hidden, 0, torch.full_like(tokens.ids, -1))
        hidden_tokens = replace(tokens, mask=hidden, decode_step=steps, log_probs=None, one_hot=None)
        turns.append(replace(turn, tokens=hidden_tokens))
    return turns


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
        """The turn with only these rounds counting; the global generator chooses."""
        return some_rounds(turn, number=self.number)


@dataclass(frozen=True, kw_only=True)
class FreshMasks:
    """Orders of an algorithm: the finished pictures at K random ratios, shared by samples of one prompt."""

    number: int = 1

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f"number is {self.number}; use at least 1 ratio")

    def __call__(self, turn: Turn) -> list[Turn]:
        """K turns to average; the global generator chooses."""
        return fresh_masks(turn, shared_ratios(turn.prompt.texts, number=self.number))
