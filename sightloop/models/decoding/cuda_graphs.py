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


def repeat_step(step: Callable[[], object], times: int, device: torch.device) -> None:
    """Run a step so many times; where the device can, all but the first ones as one recorded graph each."""
    if not accelerator.can_record(device) or times <= _WARM_UP:
        for _ in range(times):
            step()
        return
    accelerator.warmed_up(step, _WARM_UP, device)
    # Recording runs nothing, so every step is run exactly once.
    replay = accelerator.recorded(step)
    for _ in range(times - _WARM_UP):
        replay()
