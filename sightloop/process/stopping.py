"""A run that is asked to stop: what it says, and what of its work is dropped so that it is saved in time.

An interrupt lets the step in flight end. Schedulers count seconds: on their signals the step or evaluation in
flight is dropped whole, wherever it is, and what was there before is saved.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType

from sightloop.process.signals import Ended, handled
from sightloop.terminal import one_line

_SAME_INTERRUPT_SECONDS = 1.0
"""torchrun hands on an interrupt that the terminal has sent to every process already."""


class Dropped(BaseException):
    """The work in flight is given up; no error, so that nothing that catches errors keeps it."""


class Stop:
    """The wishes to stop that a run has received."""

    def __init__(self, *, alone: bool, speaks: bool, after_interrupt: Callable[[], tuple[str, str]]) -> None:
        """`alone`: no other process waits for this one, so work may be dropped at any moment, and not only
        where all processes agree. `after_interrupt` tells when the step in flight ends, and what is lost
        without it.
        """
        self.requested = False
        self.at_once = False
        """The work in flight is to be dropped."""
        self.by_interrupt = False
        self._alone, self._speaks, self._after_interrupt = alone, speaks, after_interrupt
        self.work = ""
        """What the run does: a "step", an "evaluation" or neither."""
        self._droppable = False
        self._first_interrupt = 0.0

    def listening(self) -> AbstractContextManager[None]:
        """While inside, signals are wishes to stop."""
        return handled(self._hear)

    @contextmanager
    def in_flight(self, what: str) -> Iterator[None]:
        """Work that may be dropped: `what` is "step" or "evaluation".

        Raises:
            Dropped: it is, here or anywhere inside.
        """
        self.work, self._droppable = what, True
        try:
            yield
        finally:
            self.work, self._droppable = "", False

    def must_be_whole(self) -> None:
        """What is in flight changes the weights from now on, and is not dropped any more."""
        self._droppable = False

    def drop_if(self, wanted: bool) -> None:
        """Give up what is in flight if all processes agree that it is `wanted`.

        Raises:
            Dropped: it is.
        """
        if wanted and self._droppable:
            raise Dropped

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._hear_interrupt()
        elif not self.at_once:
            self.requested = self.at_once = True
            what = f", without the {self.work} in flight" if self._droppable else ""
            self._say(f"{signal.Signals(number).name}: saving{what}")
        if self._alone:
            self.drop_if(self.at_once)

    def _hear_interrupt(self) -> None:
        now = time.monotonic()
        when, lost = self._after_interrupt()
        if self.by_interrupt and now - self._first_interrupt > _SAME_INTERRUPT_SECONDS:
            self._say(f"stopped at once{lost and ', losing ' + lost}")
            raise Ended(signal.SIGINT)
        if self.by_interrupt:
            return
        self.by_interrupt = self.requested = True
        self._first_interrupt = now
        again = f"again to stop at once{lost and ', losing ' + lost}"
        if self.work == "evaluation":
            self.at_once = True
            self._say(f"stopping now; the evaluation in flight is repeated by --resume; {again}")
        else:
            self._say(f"stopping after this step, {when}; {again}")

    def _say(self, sentence: str) -> None:
        # Not `say`: whatever was being printed when the signal came cannot be entered a second time.
        if self._speaks:
            with suppress(OSError, ValueError):
                os.write(sys.stderr.fileno(), f"\n{one_line(sentence)}\n".encode())
