"""What the benchmarks share: clocks by phase, memory of a step, FLOPs, the machine's rate, tables."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, ParamSpec, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

P = ParamSpec("P")
R = TypeVar("R")
MIB, GIB = 2**20, 2**30
_PROCESS = Path("/proc/self")


@dataclass
class Clock:
    """Wall and CPU seconds by phase; a phase inside another is not counted twice."""

    wall: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _open: list[str] = field(default_factory=list)
    _since: tuple[float, float] = (0.0, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens inside as `name`."""
        self._settle()
        self._open.append(name)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def timed(self, name: str, function: Callable[P, R]) -> Callable[P, R]:
        """The same function, each call counted as `name`."""

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with self.phase(name):
                return function(*args, **kwargs)

        return call

    def read(self) -> tuple[dict[str, float], dict[str, float]]:
        """Wall and CPU seconds since the last reading."""
        taken = dict(self.wall), dict(self.cpu)
        self.wall.clear()
        self.cpu.clear()
        return taken

    def _settle(self) -> None:
        now = time.perf_counter(), time.process_time()
        if self._open:
            self.wall[self._open[-1]] += now[0] - self._since[0]
            self.cpu[self._open[-1]] += now[1] - self._since[1]
        self._since = now


def resident() -> int:
    """Bytes of memory that the process holds now, or held at most where that is all the system tells."""
    if (_PROCESS / "statm").exists():
        return int((_PROCESS / "statm").read_text().split()[1]) * resource.getpagesize()
    return peak_resident()


def peak_resident() -> int:
    """Most bytes of memory that the process held since `reset_peak`, or since its start."""
    if (_PROCESS / "status").exists():
        line = next(line for line in (_PROCESS / "status").read_text().splitlines() if "VmHWM" in line)
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak() -> int:
    """Hand freed memory back and start `peak_resident` anew (Linux); what is resident then."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        (_PROCESS / "clear_refs").write_text("5")
    return resident()


def matmul_rate(seconds: float = 0.3) -> float:
    """FLOPs in a CPU second of float32 matrix products of the size of a feed-forward layer."""
    activations, weight = torch.randn(2048, 768), torch.randn(3072, 768)
    torch.mm(activations, weight.T)
    done, started = 0, time.process_time()
    while (spent := time.process_time() - started) < seconds:
        torch.mm(activations, weight.T)
        done += 2 * 2048 * 768 * 3072
    return done / spent


class FlopCounter(TorchDispatchMode):
    """Counts by torch's own formulas, and those of the CPU's attention kernel, which torch leaves out.

    torch's `FlopCounterMode` also follows modules, which fails where a pass without gradient reads trained
    tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and add its FLOPs."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
            self.total += sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
        elif packet is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward:
            self.total += sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4]))
        elif packet in flop_registry:
            self.total += flop_registry[packet](*args, **kwargs, out_val=out)
        return out


def medians(readings: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    names = dict.fromkeys(name for reading in readings for name in reading)
    return {name: median(reading.get(name, 0.0) for reading in readings) for name in names}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * width if column == 0 else "-" * (width - 1) + ":") for column, width in enumerate(widths)]
    return "\n".join([line(head), line(rule), *(line(row) for row in rows)])
