"""What happens to a run of the matrix: killed, stopped, out of disk, damaged; at seeded moments."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightloop.training import checkpoint, loop
from sightloop.training.run_files import Run

_PATIENCE_SECONDS = 300
Chance = random.Random


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """One way to be disturbed."""

    inside: Callable[[Chance], None] | None = None
    """Prepares the process that will be hit."""
    outside: Callable[[int, Path, Chance, float], None] | None = None
    """Hits a process, given its run and how long an undisturbed one trains, in seconds."""
    after: Callable[[Path, Chance], None] | None = None
    """Done to the run before it goes on."""
    codes: tuple[int, ...] = (-signal.SIGKILL,)
    """How the process may end."""
    needs_disk: bool = False
    """The run has a disk of its own."""


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _accumulating(chance: Chance) -> None:
    """Dies in one of the backward passes."""
    left, whole = chance.randint(2, 5), loop._backward  # pyright: ignore[reportPrivateUsage]

    def counted(*words: Any) -> Any:
        nonlocal left
        left -= 1
        found = whole(*words)
        return found if left else _die()

    loop._backward = counted  # pyright: ignore[reportPrivateUsage]


def _writing(chance: Chance) -> None:
    """Dies at one of the moments at which the second checkpoint reaches the disk."""
    saves, left, whole = 0, chance.randint(1, 10), checkpoint.write_checkpoint
    replace, flush = os.replace, os.fsync

    def heard(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            return _die() if left == 0 else function(*words, **options)

        return call

    def write(*words: Any, **options: Any) -> Any:
        nonlocal saves
        saves += 1
        if saves < 2:
            return whole(*words, **options)
        os.replace, os.fsync = heard(replace), heard(flush)
        whole(*words, **options)
        return _die()

    checkpoint.write_checkpoint = write


def _evaluating(chance: Chance) -> None:
    """Dies a moment after an evaluation began."""
    left, moment, whole = chance.randint(1, 2), chance.uniform(0.001, 0.1), Run.working
    signal.signal(signal.SIGALRM, _die)

    def working(self: Run, what: str) -> None:
        nonlocal left
        whole(self, what)
        left -= "evaluation" in what
        if not left:
            signal.setitimer(signal.ITIMER_REAL, moment)

    Run.working = working


def _after_saves(_: Chance) -> None:
    """Dies once two checkpoints are there."""
    saves, whole = 0, Run.save

    def save(self: Run, step: int, what: Any) -> None:
        nonlocal saves
        whole(self, step, what)
        saves += 1
        if saves == 2:
            _die()

    Run.save = save


def _damage(run: Path, chance: Chance) -> None:
    newest = max((run / "checkpoints").glob("step_*"))
    file = chance.choice(sorted(newest.iterdir()))
    data = bytearray(file.read_bytes())
    way = chance.randrange(3)
    if way == 0:
        data[chance.randrange(len(data))] ^= 1
    elif way == 1:
        del data[chance.randrange(len(data)) :]
    else:
        data = bytearray(len(data))
    file.write_bytes(data)


def _sends(number: signal.Signals) -> Callable[[int, Path, Chance, float], None]:
    def send(process: int, run: Path, chance: Chance, seconds: float) -> None:
        _wait_for(run / "metrics.jsonl", process)
        time.sleep(chance.random() * seconds)
        os.kill(process, number)

    return send


def _fill(process: int, run: Path, chance: Chance, seconds: float) -> None:
    _wait_for(run / "checkpoints" / "step_000002", process)
    with open(run.parent / "filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(1 << 16))
        except OSError:
            return


def _make_room(run: Path, chance: Chance) -> None:
    (run.parent / "filler").unlink()


def _wait_for(path: Path, process: int) -> None:
    started = time.monotonic()
    while not path.exists() and time.monotonic() - started < _PATIENCE_SECONDS:
        if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)


def own_disk(place: Path, mib: int) -> Path | None:
    """A small disk mounted at `place`; None where this computer's user may not."""
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(place)], capture_output=True
    )
    return None if done.returncode else place


def give_back(place: Path) -> None:
    """Unmount what `own_disk` mounted."""
    subprocess.run(["umount", str(place)], check=True)
    shutil.rmtree(place)


DISTURBANCES = {
    "SIGKILL at a random moment": Disturbance(outside=_sends(signal.SIGKILL)),
    "SIGKILL during accumulation": Disturbance(inside=_accumulating),
    "SIGKILL in a checkpoint's write": Disturbance(inside=_writing),
    "SIGKILL in an evaluation": Disturbance(inside=_evaluating),
    "SIGTERM at a random moment": Disturbance(outside=_sends(signal.SIGTERM), codes=(0,)),
    "full disk": Disturbance(outside=_fill, after=_make_room, codes=(2,), needs_disk=True),
    "damaged newest checkpoint": Disturbance(inside=_after_saves, after=_damage),
}
