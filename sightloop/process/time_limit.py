"""Time limits: what waits for others ends with the name of what was waited for, and where."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import FrameType

from sightloop.late import late
from sightloop.process import ranks
from sightloop.terminal import one_line

REWARD_SECONDS = 1800.0
_SECONDS: ContextVar[float] = ContextVar("seconds that a reward may take", default=REWARD_SECONDS)
_INSIDE: ContextVar[bool] = ContextVar("a limit runs already", default=False)
_place_in_user_code = late("sightloop.process.faults:place_in_user_code")
_GRACE_SECONDS = 5.0
"""What waits inside a library that hears no signals is given so long, then the process ends."""


class _TooLong(BaseException):
    """No error, so that nothing that catches errors keeps it."""


@contextmanager
def reward_timeout(seconds: float) -> Iterator[None]:
    """Inside, each call of a reward or judge may take so long; 0 = for ever.

    Raises:
        ValueError: no such number.
    """
    if not 0 <= seconds < math.inf:
        raise ValueError(f"--reward-timeout-seconds is {seconds:g}; give seconds, or 0 for none")
    token = _SECONDS.set(seconds)
    try:
        yield
    finally:
        _SECONDS.reset(token)


@contextmanager
def limited(what: str, *, at_most: float = math.inf) -> Iterator[None]:
    """Around a call of the reward or judge `what`, or of something that needs no more than `at_most` seconds.

    Raises:
        ValueError: it took too long; where in the user's own files is said.
    """
    seconds, main = min(_SECONDS.get() or math.inf, at_most), threading.main_thread()
    if seconds == math.inf or _INSIDE.get() or threading.current_thread() is not main:
        yield
        return
    places: list[str] = []
    begun = threading.get_ident()

    def too_long(_number: int, frame: FrameType | None) -> None:
        places.append(_place_in_user_code(frame))
        raise _TooLong

    def sentence() -> str:
        where = f" ({places[0]})" if places and places[0] else ""
        if seconds == at_most:
            return f"{what} took longer than {seconds:g} s{where}: it comes to no end"
        return (
            f"{what} took longer than {seconds:g} s{where}; mend it, give it longer with "
            "--reward-timeout-seconds, or 0 for no limit"
        )

    def write(text: str) -> None:
        with suppress(OSError, ValueError):
            os.write(sys.stderr.fileno(), f"sightloop: {one_line(text)}\n".encode())

    def end() -> None:
        others, code = ranks.watch(), 2  # As after any mistake that the user can mend.
        if others is not None:
            os._exit(others.conclude(sentence(), code, say=write))
        write(sentence())
        os._exit(code)

    last = threading.Timer(seconds + _GRACE_SECONDS, end)
    first = threading.Timer(seconds, lambda: signal.pthread_kill(begun, signal.SIGUSR2))
    before = signal.signal(signal.SIGUSR2, too_long)
    inside = _INSIDE.set(True)
    for timer in (first, last):
        timer.daemon = True
        timer.start()
    try:
        yield
    except _TooLong:
        raise ValueError(sentence()) from None
    finally:
        first.cancel()
        last.cancel()
        # One that is on its way would end the process under the usual handler.
        first.join()
        _INSIDE.reset(inside)
        signal.signal(signal.SIGUSR2, before)
