"""What reaches the emulated accelerator, and when the host would wait for it, counted by line of the library.

A launch is an operation that a device would start a kernel or a copy for: views and allocations are free.
The host waits where a program wants to know what the device computed (`.item()`, `.tolist()`, `bool()`,
`nonzero`, indexing with a mask, copies to the CPU). Copies to the device are counted by themselves: on CUDA
they wait too unless they are `non_blocking`. Composed operations count by their parts as far as torch
composes them for every device; attention counts as one.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
import transformers
from torch import Tensor

import sightloop
from benchmarks.emulated_accelerator import NAME, Operation, watched_by

_FREE = {"empty", "empty_strided", "empty_permuted", "resize_", "set_", "_local_scalar_dense"}
_WAITING = {
    "_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim",
    "unique_consecutive", "bincount", "_linalg_check_errors",
}  # fmt: skip
_BY_MASK = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers by place; a place is "phase file:line", without a phase where none was named."""

    launches: Counter[str] = field(default_factory=Counter[str])
    waits: Counter[str] = field(default_factory=Counter[str])
    uploads: Counter[str] = field(default_factory=Counter[str])
    """Copies to the device for which a CUDA host waits too."""

    def phase(self, name: str) -> Counts:
        """The numbers of one phase, by "file:line"."""
        mine = {
            what: Counter(
                {
                    place.removeprefix(f"{name} "): number
                    for place, number in getattr(self, what).items()
                    if place.startswith(f"{name} ")
                }
            )
            for what in ("launches", "waits", "uploads")
        }
        return Counts(**mine)


_phases: list[str] = []


@contextmanager
def phase(name: str) -> Iterator[None]:
    """What happens inside counts under this name; the innermost one holds."""
    _phases.append(name)
    try:
        yield
    finally:
        _phases.pop()


@contextmanager
def counted() -> Iterator[Counts]:
    """Counts what happens inside."""
    counts = Counts()

    def watch(operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if operation.is_view:
            return
        place = _place()
        if operation.name not in _FREE:
            counts.launches[place] += 1
        if operation.name == "copy_":
            target, source = args[0], args[1]
            if target.device.type != NAME:
                counts.waits[place] += 1
            elif source.device.type != NAME and not _is_non_blocking(args, kwargs):
                counts.uploads[place] += 1
        elif _waits(operation, args, kwargs):
            counts.waits[place] += 1

    with watched_by(watch):
        yield counts


def _is_non_blocking(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return bool(args[2] if len(args) > 2 else kwargs.get("non_blocking", False))


def _waits(operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if operation.name == "repeat_interleave":
        return kwargs.get("output_size") is None
    if operation.name not in _BY_MASK:
        return operation.name in _WAITING
    places: list[Tensor | None] = args[1]
    masks = [place for place in places if place is not None and place.dtype in (torch.bool, torch.uint8)]
    if not masks:
        # Places on the CPU are copied over.
        return any(place is not None and place.device.type != NAME for place in places)
    # One number under one mask is filled in without looking where.
    value = args[2] if len(args) > 2 else None
    return not (isinstance(value, Tensor) and value.numel() == 1 and len(places) == 1)


_PACKAGES = tuple(f"{package.__path__[0]}/" for package in (sightloop, transformers))


def _place() -> str:
    """The innermost line of the library, or else of transformers, that runs now."""
    # Of the operation itself: this function, the watcher, the backend's two functions come before it.
    frames = [sys._getframe(3)]
    if threading.current_thread() is not threading.main_thread():
        # A backward pass runs in a thread of its own: who asked for it waits in the main one.
        frames.append(sys._current_frames()[threading.main_thread().ident or 0])
    where = next(
        (line for package in _PACKAGES for frame in frames for line in _lines(frame, package)), "elsewhere"
    )
    return f"{_phases[-1]} {where}" if _phases else where


def _lines(frame: FrameType | None, package: str) -> Iterator[str]:
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(package):
            yield f"{path.removeprefix(package)}:{frame.f_lineno}"
        frame = frame.f_back
