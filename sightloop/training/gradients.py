"""How the gradients of an update's losses are added up, over micro-batches and ranks."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from sightloop.training import distributed
from sightloop.types import Rollout


class GradientSum(Protocol):
    """Takes the losses of one micro-batch after another and leaves their gradient in `.grad`."""

    def backward(self, weighted: Tensor, part: Rollout) -> None:
        """Go back through the weighted loss of each token of these rows."""
        ...

    def join(self) -> dict[str, float]:
        """Put the sum over all ranks into `.grad`, beside what lies there; what was found out, by name."""
        ...


class PlainGradients:
    """The gradient of the sum of all losses: one backward pass a micro-batch."""

    def __init__(self, parameters: list[nn.Parameter], step: int = 0, number: int = 0) -> None:
        """Of these parameters; the same in every step."""
        self._parameters = parameters

    def backward(self, weighted: Tensor, part: Rollout) -> None:
        """One pass for all tokens."""
        weighted.sum().backward()

    def join(self) -> dict[str, float]:
        """The sum over ranks."""
        distributed.sum_gradients(self._parameters)
        return {}
