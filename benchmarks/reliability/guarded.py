"""Work done in a process of its own, which may neither hang, nor eat the memory, nor end in a traceback."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How it ended."""

    code: int | None
    """Exit code; negative = the signal that ended it, None = it did not end in time."""
    said: str
    """Both streams."""
    peak_bytes: int
    """More than its parent had."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What it may take."""

    seconds: float = 120
    cpu_seconds: int = 40
    memory_bytes: int | None = None
    """More than the parent's, asked for, not only used."""


def guarded(work: Callable[[], object], place: Path, limits: Limits = Limits()) -> Outcome:
    """Fork, work in the folder `place`, and look; a child that takes longer is ended."""
    said, told = place / "said.txt", place / "told.json"
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _child(work, place, limits)
    code = _waited(child, started + limits.seconds)
    spoken = said.read_text(encoding="utf-8", errors="backslashreplace") if said.exists() else ""
    peak = json.loads(told.read_text())["peak"] if told.exists() else 0
    said.unlink(missing_ok=True)
    told.unlink(missing_ok=True)
    return Outcome(code=code, said=spoken, peak_bytes=peak, seconds=time.monotonic() - started)


def _child(work: Callable[[], object], place: Path, limits: Limits) -> None:
    code = 70
    gc.freeze()
    # A group of its own, so that no signal of a terminal reaches it.
    os.setpgid(0, 0)
    said = os.open(place / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", errors="backslashreplace") for number in (1, 2))
    os.chdir(place)
    os.environ["TMPDIR"] = tempfile.tempdir = str(place)
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + 5))
    if limits.memory_bytes is not None:
        most = _status("VmSize") + limits.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    # What the parent once held counts as the child's peak until it is reset.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmHWM")
    try:
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        sys.stderr.write(traceback.format_exc())
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
        (place / "told.json").write_text(json.dumps({"peak": _status("VmHWM") - before}))
    os._exit(code)


def _waited(child: int, deadline: float) -> int | None:
    pause = 0.002
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _status(name: str) -> int:
    told = Path("/proc/self/status").read_text().split(f"{name}:")[1]
    return int(told.split()[0]) * 1024
