"""A progress bar with the few figures that matter; without a terminal, a line every so many seconds."""

from __future__ import annotations

import math
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from tqdm import tqdm

from sightloop.process.long_work import LOG_SECONDS, how_far
from sightloop.terminal import one_line

_EVERY: ContextVar[float] = ContextVar("seconds between lines of progress", default=LOG_SECONDS)
_SHOWN = {"recall@1": "R@1", "drawn": "drawn", "answered_fixed": "answered"}
"""Held-out figures that the bar shows."""


@contextmanager
def logged_every(seconds: float) -> Iterator[None]:
    """Runs inside say where they are so often.

    Raises:
        ValueError: no such number.
    """
    if not 0 < seconds < math.inf:
        raise ValueError(f"--log-every-seconds is {seconds:g}; give a number of seconds above 0")
    token = _EVERY.set(seconds)
    try:
        yield
    finally:
        _EVERY.reset(token)


class Progress:
    """Reward, length and held-out figures beside the time left."""

    def __init__(self, *, first: int, steps: int, visible: bool) -> None:
        self._visible = visible
        self._on_terminal = sys.stderr.isatty()
        shown = visible and self._on_terminal
        self._bar = tqdm(total=steps, initial=first - 1, unit="step", disable=not shown, dynamic_ncols=True)
        self._steps = steps
        self._first = first
        self._started = self._said = time.monotonic()
        self._every = _EVERY.get()
        self._figures: dict[str, str] = {}
        self._work, self._working_since = "", self._started
        self._is_closed = False
        self.done = first - 1
        """The last step that is done."""
        self.seconds_a_step = 0.0
        """Of the last step; 0 before one is done."""
        if visible and not self._on_terminal:
            watched = weakref.ref(self)  # Whoever forgets to close a run hears no more of it.
            threading.Thread(target=_say_of_long_work, args=(watched, self._every), daemon=True).start()

    def working(self, what: str) -> None:
        """What is done from now on: told where it takes long."""
        self._work, self._working_since = what, time.monotonic()

    def step(self, metrics: dict[str, float]) -> None:
        """One more step is done."""
        self._work = ""
        self.done += 1
        self.seconds_a_step = sum(value for name, value in metrics.items() if name.startswith("seconds/"))
        self._figures |= {
            "reward": f"{metrics['reward/total']:.2f}",
            "length": f"{metrics['tokens/length']:.1f}",
        }
        self._bar.set_postfix(self._figures, refresh=False)
        self._bar.update()
        if not self._on_terminal and time.monotonic() - self._said >= self._every:
            memory = metrics.get("memory/peak_gib")
            held = "" if memory is None else f", {memory:.1f} GiB"
            figures = f"{self._listed()}, {self.seconds_a_step:.3g} s a step{held}"
            self.say(f"step {self.done} of {self._steps}: {figures}{self._time_left(self.done)}")

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Held-out figures are there."""
        self._work = ""
        for name, shown in _SHOWN.items():
            if name in metrics:
                self._figures[shown] = f"{metrics[name]:.3f}"
        self._bar.set_postfix(self._figures)
        if not self._on_terminal:
            figures = self._listed()
            self.say(f"step {step} of {self._steps}{figures and ': ' + figures}{self._time_left(step)}")

    def say(self, message: str) -> None:
        """A line above the bar, or a plain line."""
        if self._visible:
            self._said = time.monotonic()
            # A terminal that was closed is no reason to lose a run.
            with suppress(OSError):
                tqdm.write(one_line(message), file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._is_closed = True
        self._bar.close()

    def still_there(self) -> bool:
        """Say what takes long, unless a line came lately; whether there is more to say later."""
        now = time.monotonic()
        if self._work and now - self._said >= self._every and now - self._working_since >= self._every:
            inside = how_far()
            line = f"{self._work}: {now - self._working_since:.0f} s so far"
            self.say(f"{line}, {inside}" if inside else line)
        return not self._is_closed

    def _listed(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self._figures.items())

    def _time_left(self, step: int) -> str:
        done = step - self._first + 1
        if done < 1 or step >= self._steps:
            return ""
        minutes = (time.monotonic() - self._started) / done * (self._steps - step) / 60
        return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"


def _say_of_long_work(watched: weakref.ref[Progress], every: float) -> None:
    while True:
        time.sleep(min(1.0, every))
        progress = watched()
        if progress is None or not progress.still_there():
            return
        del progress
