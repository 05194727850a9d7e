"""Memory that is free but still held by the C library's heap, given back between the phases of a step.

glibc keeps what was freed for later requests of any size, and blocks of changing sizes seldom fit; without
this a step on the CPU holds about twice what lives.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from torch import Tensor, nn

from sightloop import accelerator
from sightloop.training.experiment import Experiment
from sightloop.training.gradients import GradientSum
from sightloop.types import Rollout

Given = ParamSpec("Given")
Made = TypeVar("Made")


def _trimmer() -> ctypes._FuncPointer | None:  # pyright: ignore[reportPrivateUsage]
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        # Another C library than glibc.
        return None


_TRIM = _trimmer()


def give_back() -> None:
    """Return free pages to the system; nothing where there is no glibc or another device does the work."""
    if _TRIM is not None and accelerator.is_cpu():
        _TRIM(0)


def giving_back(experiment: Experiment[Any, Any]) -> Experiment[Any, Any]:
    """The same experiment, which returns free pages after drawing, after each part that a critic reads, and
    after each micro-batch.
    """
    if _TRIM is None:
        return experiment

    def gradients(parameters: list[nn.Parameter], step: int, number: int) -> GradientSum:
        return _Trimmed(experiment.gradients(parameters, step, number))

    if experiment.critic is None:
        return replace(experiment, collect=_then_give_back(experiment.collect), gradients=gradients)
    experiment.trainable["critic"].register_forward_pre_hook(lambda *_: give_back())
    return replace(
        experiment,
        collect=_then_give_back(experiment.collect),
        critic=_then_give_back(experiment.critic),
        gradients=gradients,
    )


def _then_give_back(function: Callable[Given, Made]) -> Callable[Given, Made]:
    def called(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        made = function(*args, **kwargs)
        give_back()
        return made

    return called


class _Trimmed:
    """Gradients that are added up by others, with free pages returned after each micro-batch."""

    def __init__(self, inner: GradientSum) -> None:
        self.inner = inner

    def backward(self, weighted: Tensor, part: Rollout) -> None:
        """As the others do."""
        self.inner.backward(weighted, part)
        give_back()

    def join(self) -> dict[str, float]:
        """As the others do."""
        give_back()
        return self.inner.join()
