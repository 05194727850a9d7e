"""Steps of fixed shapes, which a device may record once and replay without a program between its kernels.

A step reads and writes the same tensors every time and asks nothing of the host. Elsewhere the same step is
simply called again, so what a replay must give can be tested on any machine. The recording itself was written
after torch's documentation of CUDA graphs and was not measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from sightloop import accelerator

_WARM_UP = 2
"""Steps that run as they are before one is recorded: libraries set themselves up in the first ones."""


class RepeatedStep:
    """A step that is run again and again, after the first times as a recorded graph where the device can."""

    def __init__(self, step: Callable[[], object], device: torch.device) -> None:
        self._step = step
        self._device = device
        self._warm_up = _WARM_UP
        """Runs that are left before one is recorded."""
        self._replay: Callable[[], None] | None = None

    def __call__(self, times: int) -> None:
        """Run it so many times more."""
        if not accelerator.can_record(self._device):
            for _ in range(times):
                self._step()
            return
        first = min(times, self._warm_up)
        if first:
            accelerator.warmed_up(self._step, first, self._device)
            self._warm_up -= first
        if times > first and self._replay is None:
            # Recording runs nothing, so every step is run exactly once.
            self._replay = accelerator.recorded(self._step)
        for _ in range(times - first):
            assert self._replay is not None
            self._replay()


def repeat_step(step: Callable[[], object], times: int, device: torch.device) -> None:
    """Run a step so many times and then never again."""
    RepeatedStep(step, device)(times)
