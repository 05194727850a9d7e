"""Gradients of the turns of a rollout apart: how strong each is, whether they agree, and equal if wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sightloop.accelerator import in_float64
from sightloop.training import distributed
from sightloop.training.gradients import GradientSum, PlainGradients
from sightloop.types import Rollout


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How the gradients of drawing and answering are joined, and how often they are looked at."""

    balance: bool = False
    """Give both the norm that is the mean of theirs before they are added."""
    every: int = 10
    """Steps between measurements; they cost one more backward pass. Balancing measures every step."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"compare_every is {self.every}; use at least 1")

    def __call__(self, parameters: list[nn.Parameter], step: int, number: int) -> GradientSum:
        """The gradients of an update: apart in the first of a step that is looked at, and if balanced."""
        if self.balance or (number == 0 and step % self.every == 0):
            return TurnGradients(parameters, balance=self.balance)
        return PlainGradients(parameters)


class TurnGradients:
    """Collects the gradient of each turn over micro-batches and ranks."""

    def __init__(self, parameters: list[nn.Parameter], *, balance: bool = False) -> None:
        self._parameters = parameters
        self._balance = balance
        self._parts: dict[str, list[Tensor | None]] = {}

    def backward(self, weighted: Tensor, part: Rollout) -> None:
        """One backward pass a turn of the weighted losses per token; nothing is left in `.grad`.

        Raises:
            ValueError: two turns of the rollout are of one kind.
        """
        names = [turn.kind for turn in part.turns]
        if len(set(names)) < len(names):
            raise ValueError(
                f"two turns of the rollout are {names[0]}; compare gradients of one drawing and answer"
            )
        for place, (name, columns) in enumerate(zip(names, part.turn_columns(), strict=True)):
            total = weighted[:, columns].sum()
            if total.requires_grad:
                total.backward(retain_graph=place + 1 < len(names))
            mine = self._parts.setdefault(name, [None] * len(self._parameters))
            for index, parameter in enumerate(self._parameters):
                if parameter.grad is not None:
                    known = mine[index]
                    mine[index] = parameter.grad if known is None else known.add_(parameter.grad)
                    parameter.grad = None

    def join(self) -> dict[str, float]:
        """Put the sum of both turns into `.grad`, over all ranks; norms and cosine by name.

        What lies in `.grad` already belongs to no turn and is added as it is.
        """
        distributed.sum_gradients(self._parameters)
        rest = [parameter.grad for parameter in self._parameters]
        for part in self._parts.values():
            for index, parameter in enumerate(self._parameters):
                parameter.grad = part[index]
            distributed.sum_gradients(self._parameters)
            for index, parameter in enumerate(self._parameters):
                part[index], parameter.grad = parameter.grad, None
        norms = {name: math.sqrt(_product(part, part)) for name, part in self._parts.items()}
        figures = {f"norm_{name}": norm for name, norm in norms.items()}
        live = [norm for norm in norms.values() if norm > 0]
        if len(live) == 2:
            one, other = self._parts.values()
            figures["cosine"] = _product(one, other) / (live[0] * live[1])
        wanted = sum(live) / len(live) if live else 0.0
        for parameter, gradient in zip(self._parameters, rest, strict=True):
            parameter.grad = gradient
        for name, part in self._parts.items():
            scale = wanted / norms[name] if self._balance and norms[name] > 0 else 1.0
            for index, parameter in enumerate(self._parameters):
                gradient = part[index]
                if gradient is not None:
                    scaled = gradient * scale
                    parameter.grad = scaled if parameter.grad is None else parameter.grad.add_(scaled)
        return figures


def _product(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> float:
    """The scalar product of two gradients, in double precision; missing tensors count as 0."""
    total = torch.zeros((), dtype=torch.float64)
    for first, second in zip(one, other, strict=True):
        if first is not None and second is not None:
            total = total + (in_float64(first) * in_float64(second)).sum().cpu()
    return float(total)
