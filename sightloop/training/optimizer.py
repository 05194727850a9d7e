"""Adam over the trainable parts, linear warm-up and decay, clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import torch
from torch import nn

from sightloop.training import distributed
from sightloop.training.schedule import Schedule


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """What of a trainable part is optimized and saved: the parameters that require gradients."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def make_optimizer(trainable: Mapping[str, nn.Module], schedule: Schedule) -> torch.optim.Adam:
    """One group a trainable part, no weight decay (Paper: section 3.6).

    Raises:
        ValueError: a part has nothing to train, or holds it in half precision, where small updates vanish.
    """
    groups = []
    for name, module in trainable.items():
        parameters = trained_parameters(module)
        if not parameters:
            raise ValueError(f"trainable part {name!r} has no parameter that requires a gradient")
        if any(parameter.dtype != torch.float32 for parameter in parameters):
            raise ValueError(
                f"trainable part {name!r} is not in float32, and updates of 1e-5 vanish in half precision; "
                "call .float() on it"
            )
        peak = schedule.learning_rate_of(name)
        groups.append({"params": parameters, "lr": peak, "peak": peak, "name": name})
    return SpreadAdam(groups) if schedule.shard_optimizer else torch.optim.Adam(groups)


class SpreadAdam(torch.optim.Adam):
    """Adam whose moments lie on one rank each: their owner updates a parameter and hands it to the others."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups)
        self._parameters = list(chain.from_iterable(group["params"] for group in self.param_groups))
        self.owners = owners_of([each.numel() for each in self._parameters], distributed.num_ranks())

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update what this rank owns, and take from the others what they do."""
        pairs = [
            (each, owner)
            for each, owner in zip(self._parameters, self.owners, strict=True)
            if each.grad is not None
        ]
        for parameter, owner in pairs:
            if owner != distributed.rank():
                parameter.grad = None
        super().step(closure)
        distributed.hand_out(pairs)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what this rank owns of a state, whoever owned it before."""
        mine = {
            place: moments
            for place, moments in state_dict["state"].items()
            if self.owners[place] == distributed.rank()
        }
        super().load_state_dict({**state_dict, "state": mine})


def owners_of(sizes: Sequence[int], num_ranks: int) -> list[int]:
    """A rank for each size, so that all have about as much: the largest goes first to who has least.

    >>> owners_of([1, 5, 2, 2], 2)
    [1, 0, 1, 1]
    """
    loads, owners = [0] * num_ranks, [0] * len(sizes)
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        owners[place] = loads.index(min(loads))
        loads[owners[place]] += sizes[place]
    return owners


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, schedule: Schedule) -> None:
    """The rate of the step-th update, counted from 1: peak * step / warmup_steps, then the peak or a decay
    that would reach 0 one step after the last.
    """
    if step <= schedule.warmup_steps:
        share = step / schedule.warmup_steps
    else:
        done = (step - schedule.warmup_steps - 1) / max(1, schedule.steps - schedule.warmup_steps)
        left = {"none": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        share = left[schedule.decay]
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


def clip_gradients(
    optimizer: torch.optim.Optimizer, clip: Literal["value", "norm", "none"], clip_at: float
) -> dict[str, float]:
    """Clip each trainable part by itself; the gradient norms before clipping, by name.

    Raises:
        ValueError: the loss does not reach a part.
    """
    norms: dict[str, float] = {}
    for group in optimizer.param_groups:
        parameters = group["params"]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            raise ValueError(
                f"trainable part {group['name']!r} received no gradient: the algorithm's loss does not use it"
            )
        norm = torch.nn.utils.get_total_norm(gradients)
        norms[group["name"]] = float(norm)
        if clip == "value":
            torch.nn.utils.clip_grad_value_(parameters, clip_at)
        elif clip == "norm":
            torch.nn.utils.clip_grads_with_norm_(parameters, clip_at, norm)
    return norms
