"""Signals that end a command: seen from its beginning on, answered with a sentence and an exit code."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ASKED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""What schedulers and closing terminals send."""
ALL = (signal.SIGINT, *ASKED)
Handler = Callable[[int, FrameType | None], Any]


class Ended(BaseException):
    """A signal ends the command, wherever it is; no error, so that nothing that catches errors keeps it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def code(self) -> int:
        """The exit code of a process that this signal ended."""
        return 128 + self.number


@contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """While inside, all of these signals are the handler's, but for those that the caller had ignored."""
    if threading.current_thread() is not threading.main_thread():
        # Python hands signals to the main thread alone.
        yield
        return
    before = {number: signal.getsignal(number) for number in ALL}
    try:
        for number, known in before.items():
            # `nohup` ignores a closing terminal on purpose.
            if number != signal.SIGHUP or known is not signal.SIG_IGN:
                signal.signal(number, handler)
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, signal.SIG_DFL if known is None else known)


@contextmanager
def ending_the_command(*, once: bool) -> Iterator[list[int]]:
    """While inside, each of these signals raises `Ended`, or the first alone; those that came are listed."""
    came: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1 or not once:
            raise Ended(number)

    with handled(end):
        yield came
