"""A run that is asked to stop: what it says, and what of its work is dropped so that it is saved in time.

An interrupt lets the step in flight end. Schedulers count seconds: on their signals the step or evaluation in
flight is dropped whole, wherever it is, and what was there before is saved. What one rank is sent, all are.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType

from sightloop.process import ranks
from sightloop.process.ranks import Dropped
from sightloop.process.signals import Ended, handled
from sightloop.terminal import one_line

_SAME_INTERRUPT_SECONDS = 1.0
"""torchrun hands on an interrupt that the terminal has sent to every process already."""


class Stop:
    """The wishes to stop that a run has received."""

    def __init__(self, *, speaks: bool, after_interrupt: Callable[[], tuple[str, str]]) -> None:
        """`after_interrupt` tells when the step in flight ends, and what is lost without it."""
        self.requested = False
        self.at_once = False
        """The work in flight is to be dropped."""
        self.by_interrupt = False
        self.committed = False
        """The weights may be others than before the step in flight, which is done or will be."""
        self._speaks, self._after_interrupt = speaks, after_interrupt
        self.work = self._why = ""
        """What the run does: a "step", an "evaluation" or neither. Why it stops."""
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
            self.drop_if_asked()
            yield
        finally:
            self.work, self._droppable = "", False

    def commit(self, any_rank: Callable[[bool], bool]) -> None:
        """The step in flight changes the weights from now on, and is not dropped any more: all ranks agree.

        Raises:
            Dropped: a rank was asked to stop before.
        """
        if self.committed:
            return
        self._droppable, self.committed = False, True
        others = ranks.watch()
        if others is not None:
            others.committed = True
        if any_rank(self.at_once):
            self.committed = False
            raise Dropped

    def completed(self) -> None:
        """The step is done, and what it changed is noted."""
        self.committed = False
        others = ranks.watch()
        if others is not None:
            others.committed = False

    def drop_if_asked(self) -> None:
        """Give up what is in flight if a signal wants it.

        Raises:
            Dropped: it does.
        """
        if self.at_once and self._droppable:
            raise Dropped

    def say_why(self) -> None:
        """With several ranks, what is said on a scheduler's signal, which may also tell that a rank died."""
        if self._why and ranks.watch() is not None:
            self._say(self._why)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        others = ranks.watch()
        if others is not None:
            others.heard.add(number)
        if others is not None and others.problem is not None:
            self.requested = self.at_once = True
        elif number == signal.SIGINT:
            self._hear_interrupt()
        elif not self.at_once:
            self.requested = self.at_once = True
            what = f", without the {self.work} in flight" if self._droppable else ""
            self._why = f"{signal.Signals(number).name}: saving{what}"
            if others is None:
                self._say(self._why)
        if others is not None and self.at_once and others.dropping_since is None:
            others.dropping_since = time.monotonic()
        self.drop_if_asked()

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
