"""Gradients of the turns of a rollout apart: how strong each is, whether they agree, and equal if wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sightloop.accelerator import in_float64
from sightloop.training import distributed
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

    def is_due(self, step: int) -> bool:
        """Whether the gradients of this step are kept apart."""
        return self.balance or step % self.every == 0


def columns_of(rollout: Rollout) -> dict[str, slice]:
    """The columns of credit that belong to each turn, by the name of its side.

    Raises:
        ValueError: two turns belong to one side.
    """
    found: dict[str, slice] = {}
    start = 0
    for turn in rollout.turns:
        width = turn.tokens.mask.shape[1]
        name = "drawing" if turn.prompt.wants == "image" else "answering"
        if name in found:
            raise ValueError(
                f"two turns of the rollout are {name}; compare gradients of one drawing and answer"
            )
        found[name] = slice(start, start + width)
        start += width
    return found


class SideGradients:
    """Collects the gradients of each side over micro-batches and ranks."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._parts: dict[str, list[Tensor | None]] = {}

    def backward(self, weighted: Tensor, columns: dict[str, slice]) -> None:
        """One backward pass a side of the weighted losses per token; nothing is left in `.grad`."""
        names = list(columns)
        for place, name in enumerate(names):
            total = weighted[:, columns[name]].sum()
            if total.requires_grad:
                total.backward(retain_graph=place + 1 < len(names))
            part = self._parts.setdefault(name, [None] * len(self._parameters))
            for index, parameter in enumerate(self._parameters):
                if parameter.grad is not None:
                    mine = part[index]
                    part[index] = parameter.grad if mine is None else mine.add_(parameter.grad)
                    parameter.grad = None

    def join(self, *, balance: bool) -> dict[str, float]:
        """Put the sum of both sides into `.grad`, over all ranks; norms and cosine by name.

        What lies in `.grad` already belongs to no side and is added as it is.
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
            scale = wanted / norms[name] if balance and norms[name] > 0 else 1.0
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
