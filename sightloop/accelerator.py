"""The device of this process: the only file that knows kinds of accelerators, and what they can do.

`auto` takes what `torch.accelerator` finds (CUDA with ROCm, Intel's XPU, Apple's MPS), else the CPU. What a
device lacks is said here: where memory is not counted the process's own stands for it, and steps are recorded
as graphs on CUDA alone and run as they are elsewhere. Of these devices only the CPU was at hand when this was
written; an emulated one stands for the others in the tests.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_COLLECTIVES = {"cuda": "nccl", "xpu": "xccl"}
"""What joins the ranks' devices; others exchange over the CPU."""
_VISIBLE = {"cuda": "CUDA_VISIBLE_DEVICES", "xpu": "ZE_AFFINITY_MASK"}
_GRAPHS = "SIGHTLOOP_GRAPHS"
"""The environment variable that keeps steps from being recorded, where it is 0."""
_OLD_KIND = "cuda"
"""The name under which older checkpoints keep an accelerator's random state, None where there was none."""
_CPU = torch.device("cpu")
_chosen: list[torch.device] = []
"""The device last chosen, alone; empty before."""


def found() -> list[torch.device]:
    """All accelerators that torch can use here."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return []
    return [torch.device(kind.type, index) for index in range(max(1, torch.accelerator.device_count()))]


def choose(name: str = "auto") -> torch.device:
    """The device of this rank; what runs from now on is timed, measured and trimmed for it.

    Raises:
        ValueError: there is no such device here.
    """
    _chosen[:] = [_named(name)]
    if _chosen[0].type != _CPU.type and len(found()) > 1:
        torch.accelerator.set_device_index(_chosen[0].index)
    return _chosen[0]


def _named(name: str) -> torch.device:
    there = found()
    # Every rank of a computer has a device of its own.
    own = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "auto":
        wanted = torch.device(there[0].type) if there else _CPU
    else:
        try:
            wanted = torch.device(name)
        except RuntimeError:
            raise ValueError(f"device is {name!r}, which torch does not know; {_use(there)}") from None
    if wanted.type == _CPU.type:
        return wanted
    kind = [device for device in there if device.type == wanted.type]
    if not kind:
        raise ValueError(f"device is {name!r}, and torch finds none of that kind here; {_use(there)}")
    index = own if wanted.index is None else wanted.index
    if index >= len(kind):
        whose = "" if wanted.index is not None else f"rank {own} needs {kind[0].type}:{own}; "
        raise ValueError(
            f"device is {name!r}, but {whose}torch finds {len(kind)} of that kind here; {_use(there)}"
        )
    return kind[index]


def _use(there: list[torch.device]) -> str:
    return f"use auto, {', '.join([*map(str, there), 'cpu'])}"


def current() -> torch.device:
    """The device in use: the chosen one, or what `auto` would take."""
    return _chosen[0] if _chosen else _named("auto")


def is_cpu() -> bool:
    """Whether the work is done by the CPU."""
    return current().type == _CPU.type


def synchronize() -> None:
    """Wait until the device has done what was asked of it."""
    if not is_cpu():
        _module(current()).synchronize()


def peak_memory() -> int:
    """Bytes held at most so far: on a device that counts them (CUDA, XPU), else by the process."""
    if current().type in _COLLECTIVES:
        return int(_module(current()).max_memory_allocated(current()))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass(frozen=True, kw_only=True)
class Description:
    """One accelerator."""

    name: str
    memory: tuple[int, int] | None
    """Bytes free and in all; None where the device does not say."""
    bfloat16: bool
    hidden_by: str
    """The environment variable that can leave it out; "" if there is none."""


def described(device: torch.device) -> Description:
    """What is known of an accelerator."""
    module = _module(device)
    counts = device.type in _COLLECTIVES
    free, whole = module.mem_get_info(device) if counts else (0, 0)
    return Description(
        name=str(module.get_device_name(device)) if counts else device.type.upper(),
        memory=(int(free), int(whole)) if counts else None,
        bfloat16=bool(module.is_bf16_supported()) if counts else True,
        hidden_by=_VISIBLE.get(device.type, ""),
    )


def in_float64(values: Tensor) -> Tensor:
    """The same numbers in float64, on the CPU where the device does not know that precision (MPS)."""
    knows = values.device.type == _CPU.type or values.device.type in _COLLECTIVES
    return (values if knows else values.cpu()).double()


def multiply_in_tf32(allowed: bool) -> None:
    """Whether products of float32 matrices may take TF32's ten bits of mantissa; only CUDA has it."""
    torch.backends.cuda.matmul.fp32_precision = "tf32" if allowed else "ieee"


def device_random_state() -> dict[str, Tensor | None]:
    """Where the device's generator stands, by the kind of device."""
    state: dict[str, Tensor | None] = {_OLD_KIND: None}
    return state if is_cpu() else state | {current().type: _module(current()).get_rng_state()}


def set_device_random_state(state: dict[str, Any]) -> None:
    """Put the device's generator where `random_state` found it on such a device."""
    known = state.get(current().type)
    if not is_cpu() and known is not None:
        _module(current()).set_rng_state(known)


def collective_backend() -> str:
    """What `torch.distributed` joins the ranks with."""
    kind = found()[0].type if found() else ""
    return f"cpu:gloo,{kind}:{_COLLECTIVES[kind]}" if kind in _COLLECTIVES else "gloo"


def can_record(device: torch.device) -> bool:
    """Whether steps can be recorded as graphs and replayed; the environment may say no."""
    return device.type == "cuda" and os.environ.get(_GRAPHS, "1") != "0"


def warmed_up(step: Callable[[], object], times: int, device: torch.device) -> None:
    """Run a step so many times beside the device's main work, as recording demands."""
    here, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(here)
    with torch.cuda.stream(side):
        for _ in range(times):
            step()
    here.wait_stream(side)


def recorded(step: Callable[[], object]) -> Callable[[], None]:
    """A step as a graph that replays it; recording runs nothing."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _module(device: torch.device) -> Any:
    return torch.get_device_module(device)
