"""Named rewards with weights, added up per token; each one's share stays visible for the log."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sightloop.process.time_limit import limited
from sightloop.types import Judge, Outcome, Reward, on_last_token

Scale = Literal["raw", "group"]
SCALES: tuple[Scale, ...] = ("raw", "group")
_EPS = 1e-4


def combine(rewards: Mapping[str, Reward], weights: Mapping[str, float], *, scale: Scale = "raw") -> Judge:
    """One judge from named rewards; a weight of 0 measures a reward without using it.

    With `scale` "group" each reward first gets mean 0 and standard deviation 1 among the samples of a prompt
    that are judged together, so that weights compare like with like. The parts stay raw.

    Raises:
        ValueError: no reward, a reward without a weight, a weight without a reward, or a weight that is not a
            number; when judging: a reward that is not finite, not one number a token, or not 0 where masked.
    """
    if not rewards:
        raise ValueError("no rewards; name at least one")
    if scale not in SCALES:
        raise ValueError(f"scale is {scale!r}; use one of {', '.join(SCALES)}")
    _require_names("weights", weights, known=rewards, kind="reward")
    _require_names("rewards", rewards, known=weights, kind="weight")
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise ValueError(f"the weight of reward {name!r} is {weight}; use a finite number")

    def judge(outcome: Outcome) -> tuple[Tensor, dict[str, Tensor]]:
        mask = outcome.tokens.mask
        total = torch.zeros(mask.shape, device=mask.device)
        parts: dict[str, Tensor] = {}
        everything: dict[str, Tensor] = {}
        for name, reward in rewards.items():
            with limited(f"reward {name!r}"):
                earned = everything[name] = reward(outcome).to(mask.device).float()
            _require_shape(name, earned, mask)
            scaled = earned if scale == "raw" else standardized_in_group(earned, outcome)
            total = total + weights[name] * scaled
            parts[name] = earned.sum(1)
        # One look at all of them: a device is waited for once.
        if everything and bool(torch.stack([_unsound(one, mask) for one in everything.values()]).any()):
            for name, earned in everything.items():
                _require_sound(name, earned, outcome)
        return total, parts

    return judge


def standardized_in_group(earned: Float[Tensor, "B T"], outcome: Outcome) -> Float[Tensor, "B T"]:
    """A reward whose totals have mean 0 and standard deviation 1 (n - 1) in each group; 0 if a group agrees.

    Tokens keep their own rewards, divided by the deviation; the mean is taken off the last one.

    Raises:
        ValueError: the outcome has no groups.
    """
    if outcome.group is None:
        raise ValueError('scale is "group", but the outcome has no groups; use "raw" for samples without')
    totals = earned.sum(1)
    group = outcome.group.to(earned.device)
    same = (group[:, None] == group[None, :]).to(earned.dtype)
    size = same.sum(1)
    mean = (same * totals).sum(1) / size
    variance = (same * (totals[None] - mean[:, None]).square()).sum(1) / (size - 1).clamp(min=1)
    deviation = variance.sqrt() + _EPS
    return earned / deviation[:, None] - on_last_token(mean / deviation, outcome.tokens)


def _require_names(given_as: str, names: Collection[str], *, known: Collection[str], kind: str) -> None:
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
            raise ValueError(f"{given_as} name {name!r}, which has no {kind}; {hint}")


def _unsound(earned: Tensor, mask: Tensor) -> Bool[Tensor, ""]:
    return (~earned.isfinite() | ((earned != 0) & ~mask)).any()


def _require_shape(name: str, earned: Tensor, mask: Tensor) -> None:
    if earned.shape != mask.shape:
        shape, wanted = tuple(earned.shape), tuple(mask.shape)
        raise ValueError(
            f"reward {name!r} has shape {shape}, not one number a token {wanted}; see on_last_token"
        )


def _require_sound(name: str, earned: Tensor, outcome: Outcome) -> None:
    mask = outcome.tokens.mask
    for wrong, why in (
        (~earned.isfinite(), "is not finite"),
        ((earned != 0) & ~mask, "is not 0 on a masked token"),
    ):
        if wrong.any():
            row, token = (int(index) for index in wrong.nonzero()[0])
            source = outcome.sources[row] if outcome.sources else f"row {row}"
            raise ValueError(
                f"reward {name!r} {why}: {earned[row, token].item()} at token {token} of {source}, "
                f"caption {outcome.texts()[row]!r}"
            )
