"""Who trains in a run folder: one process at a time, told by a locked file with its host, number and start.

The system gives the lock of a process that ended back, on its host at least. For other hosts, on file systems
that do not tell them of each other's locks, the owner touches the file every so often: what was not touched
for a while is stale. Whoever only reads needs no lock.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from sightloop.storage.files import object_or_empty
from sightloop.terminal import say

LOCK = "run.lock"
BEAT_SECONDS = 10.0
SILENT_SECONDS = 60.0
"""After so long without a sign, an owner on another host is taken for dead."""


class InUseError(ValueError):
    """Another process trains in the run folder."""


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """This process is the only one that trains in the folder, which exists.

    Raises:
        InUseError: another one does; it is named.
    """
    path = Path(os.path.realpath(folder)) / LOCK
    descriptor = _taken(path, folder)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(descriptor, ended), name="sightloop-lock", daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        # A folder that was removed or replaced meanwhile has another file of that name, or none.
        with suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                path.unlink()
        os.close(descriptor)


def require_unowned(folder: Path) -> None:
    """Look whether anyone trains in the folder.

    Raises:
        InUseError: someone does; the process is named.
    """
    if (folder / LOCK).exists():
        with owned(folder):
            pass


def _taken(path: Path, folder: Path) -> int:
    while True:
        with ExitStack() as undo:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            undo.callback(os.close, descriptor)
            is_locked = _lock(descriptor)
            owner = object_or_empty(path)
            if is_locked is False:
                raise InUseError(_in_use(folder, owner))
            if os.fstat(descriptor).st_ino != _number_of(path):
                # Its owner ended between the two calls and took the file away.
                continue
            if owner and (is_locked is None or owner.get("host") != socket.gethostname()):
                _wait_for_silence(path, folder, owner)
            if owner:
                say(f"{_named(owner)} ended without a word; its lock on {folder} is void", is_error=True)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_oneself()).encode(), 0)
            undo.pop_all()
            return descriptor


def _lock(descriptor: int) -> bool | None:
    """Whether the lock was free; None = this file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _number_of(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _wait_for_silence(path: Path, folder: Path, owner: dict[str, Any]) -> None:
    probe = path.with_name(f"{LOCK}.partial")
    probe.touch()
    # Both times are of the computer that holds the files: clocks may differ.
    age = probe.stat().st_mtime - path.stat().st_mtime
    probe.unlink()
    left = SILENT_SECONDS - age
    if left > 0:
        say(f"waiting {left:.0f} s for a sign of {_named(owner)}", is_error=True)
    seen = path.stat().st_mtime_ns
    until = time.monotonic() + left
    while time.monotonic() < until:
        time.sleep(min(1.0, SILENT_SECONDS / 10))
        if path.stat().st_mtime_ns != seen:
            raise InUseError(_in_use(folder, owner))


def _beat(descriptor: int, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with suppress(OSError):
            os.utime(descriptor)


def _oneself() -> dict[str, Any]:
    started = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return {"host": socket.gethostname(), "process": os.getpid(), "started": started}


def _in_use(folder: Path, owner: dict[str, Any]) -> str:
    return f"{_named(owner)} trains in {folder} already; stop it or let it end, or name another folder"


def _named(owner: dict[str, Any]) -> str:
    if not owner:
        return "another process"
    return f"process {owner.get('process')} on {owner.get('host')}, which started at {owner.get('started')},"
