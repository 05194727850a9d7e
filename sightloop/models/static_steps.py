"""Steps of fixed shapes, which a CUDA device records once and replays without a program between its kernels.

A step reads and writes the same tensors every time and asks nothing of the host. Elsewhere the same step is
simply called again, so what a replay must give can be tested on any machine. The recording itself was written
after torch's documentation of CUDA graphs and was not measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache

from sightloop.models.generation import RoomyLayer

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


class StaticLayer(RoomyLayer):
    """Keys and values of one layer in buffers that are always read whole.

    A tensor says where the next ones go; what is not written yet must be masked.
    """

    def __init__(self, filled: RoomyLayer, room: int, place: Int[Tensor, 1]) -> None:
        super().__init__(room)
        self.place = place
        self.dtype, self.device, self.is_initialized = filled.dtype, filled.device, True
        # Zeros: a mask cannot hide what is not a number.
        self.keys, self.values = (
            torch.nn.functional.pad(states[:, :, : filled.length], (0, 0, 0, room - filled.length))
            for states in (filled.keys, filled.values)
        )
        self.length = room

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the states of one position and return the whole buffers."""
        self.keys.index_copy_(2, self.place, key_states)
        self.values.index_copy_(2, self.place, value_states)
        return self.keys, self.values


def static_cache(filled: Cache, room: int, place: Int[Tensor, 1]) -> Cache:
    """A cache with room for so many positions that begins as another one, which is emptied layer by layer."""
    layers: list[StaticLayer] = []
    while filled.layers:
        layer = filled.layers.pop(0)
        assert isinstance(layer, RoomyLayer)
        layers.append(StaticLayer(layer, room, place))
    return Cache(layers=list(layers))
