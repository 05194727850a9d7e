"""What a command is at, told where it takes long: a line in place on a terminal, else one now and then.

Told on the error stream, so that results can be piped. The innermost work speaks; training tells of itself.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sightloop.process.ranks import is_other_rank
from sightloop.terminal import in_place, say

LOG_SECONDS = 30.0
FIRST_SECONDS = 2.0
"""What takes less is not told."""
_LOOK_SECONDS = 0.5
_BAR = 20
Item = TypeVar("Item")


class LongWork:
    """Something that takes long, with how much of it is done."""

    def __init__(self, what: str, total: int, unit: str, told_after: float) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done = 0
        self._since = time.monotonic()
        self.due = self._since + max(told_after, FIRST_SECONDS)

    def advance(self, number: int = 1) -> None:
        """So many more are done."""
        self._done += number

    @property
    def is_counted(self) -> bool:
        """Whether it is known how much there is to do."""
        return self._total > 0

    def sentence(self, *, with_bar: bool = False) -> str:
        """What is done, how much of it, for how long, and how long it still takes."""
        seconds = time.monotonic() - self._since
        if not self._total:
            some = f"{self._done} {self._unit}, " if self._done else ""
            return f"{self._what}: {some}{_told(seconds)} so far"
        bar = "#" * (_BAR * self._done // self._total)
        line = f"{self._what}: {f'[{bar:.<{_BAR}}] ' if with_bar else ''}{self._done} of {self._total}"
        left = seconds / self._done * (self._total - self._done) if self._done else 0.0
        then = f", about {_told(left)} left" if left else ""
        return f"{line} {self._unit}, {_told(seconds)}{then}"


_STACK: list[LongWork] = []
_SILENT: list[None] = []


@contextmanager
def at_work(what: str, *, total: int = 0, unit: str = "", told_after: float = 0.0) -> Iterator[LongWork]:
    """Around what may take long, and is told from `told_after` seconds on if that is later; whoever counts
    `total` units tells the work how many are done.
    """
    work = LongWork(what, total, unit, told_after)
    if is_other_rank() or threading.current_thread() is not threading.main_thread():
        yield work
        return
    is_outermost = not _STACK
    _STACK.append(work)
    ended = threading.Event()
    teller = threading.Thread(target=_tell, args=(ended,), name="sightloop-long-work", daemon=True)
    if is_outermost:
        teller.start()
    try:
        yield work
    finally:
        # A generator that an error left may end after what it was part of.
        if work in _STACK:
            del _STACK[_STACK.index(work) :]
        if is_outermost:
            ended.set()
            teller.join()
            in_place("")


def counted(items: Iterable[Item], what: str, *, total: int, unit: str) -> Iterator[Item]:
    """The items, one unit each; while they are worked through, how many are done is told."""
    with at_work(what, total=total, unit=unit) as work:
        for item in items:
            yield item
            work.advance()


def how_far() -> str:
    """What is at work now, if it is counted; else "" ."""
    work = _STACK[-1] if _STACK else None
    return work.sentence() if work is not None and work.is_counted else ""


@contextmanager
def speaks_itself() -> Iterator[None]:
    """Around what tells of itself, as training does."""
    _SILENT.append(None)
    try:
        yield
    finally:
        _SILENT.pop()


def _told(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _tell(ended: threading.Event) -> None:
    due = 0.0
    on_terminal = sys.stderr.isatty()
    while not ended.wait(_LOOK_SECONDS):
        work = _STACK[-1] if _STACK else None
        if work is None or _SILENT or time.monotonic() < max(due, work.due):
            continue
        if on_terminal:
            in_place(work.sentence(with_bar=True))
        else:
            say(work.sentence(), is_error=True)
            due = time.monotonic() + LOG_SECONDS
