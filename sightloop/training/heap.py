"""Memory that is free but still held by the C library's heap, given back between the phases of a step.

glibc keeps what was freed for later requests of any size, and blocks of changing sizes seldom fit; without
this a step on the CPU holds about twice what lives.
"""

from __future__ import annotations

import ctypes
import sys

from sightloop import accelerator


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
