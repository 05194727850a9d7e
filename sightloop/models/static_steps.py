"""Steps of fixed shapes, which a CUDA device records once and replays without a program between its kernels.

A step reads and writes the same tensors every time and asks nothing of the host. Elsewhere the same step is
simply called again, so what a replay must give can be tested on any machine. The recording itself was written
after torch's documentation of CUDA graphs and was not measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_WARM_UP = 2
"""Steps that run as they are before one is recorded: libraries set themselves up in the first ones."""


def repeat_step(step: Callable[[], object], times: int, device: torch.device) -> None:
    """Run a step so many times; on a CUDA device all but the first ones as one recorded graph each."""
    if device.type != "cuda" or times <= _WARM_UP:
        for _ in range(times):
            step()
        return
    current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            step()
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Recording runs nothing, so every step is run exactly once.
    with torch.cuda.graph(graph):
        step()
    for _ in range(times - _WARM_UP):
        graph.replay()
