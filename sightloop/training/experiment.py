"""What a recipe hands to the loop: everything that a run needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor, nn

from sightloop.training.gradients import GradientSum, PlainGradients
from sightloop.training.schedule import Schedule
from sightloop.types import Algorithm, CriticPass, Evaluation, Policy, Rollout

Batch = TypeVar("Batch", covariant=True)
AnyPolicy = TypeVar("AnyPolicy", bound=Policy)
AnyBatch = TypeVar("AnyBatch")


class Batches(Protocol[Batch]):
    """An endless stream of batches that can say where it stands, in plain data that JSON can hold.

    It keeps its own random numbers: draws from a global generator would differ after a resume.
    """

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Experiment(Generic[AnyPolicy, AnyBatch]):
    """Everything a run needs, wired up by a recipe."""

    policy: AnyPolicy
    trainable: dict[str, nn.Module]
    """What is optimized and saved: "policy", and "critic" where there is one."""
    batches: Batches[AnyBatch]
    collect: Callable[[AnyPolicy, AnyBatch], Rollout]
    algorithm: Algorithm
    critic: Callable[[Rollout], CriticPass] | None = None
    """Values a rollout before its credit is computed, and learns from it; None = the algorithm needs none."""
    evaluators: Mapping[str, Callable[[AnyPolicy], Evaluation]]
    schedule: Schedule
    updates: int = 1
    """Updates from one rollout; more than 1 needs an algorithm with an old policy, and no relaxation."""
    extra_state: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """What changes without an optimizer and is saved all the same: a moving average."""
    gradients: Callable[[list[nn.Parameter], int, int], GradientSum] = PlainGradients
    """How the gradients of an update are added up, from parameters, step and number of the update in it."""

    def __post_init__(self) -> None:
        if self.updates < 1:
            raise ValueError(f"updates is {self.updates}; use at least 1")
        wanted = self.schedule.best_metric
        if self.evaluators and wanted is not None and wanted.partition("/")[0] not in self.evaluators:
            raise ValueError(
                f"best_metric is {wanted!r}, but no evaluator has that name; use None, or EVALUATOR/METRIC "
                f"with one of {', '.join(self.evaluators)}"
            )
