"""A progress bar with the few figures that matter; where there is no terminal, a line an evaluation."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from sightloop.terminal import one_line

_SHOWN = {"recall@1": "R@1", "drawn": "drawn", "answered_fixed": "answered"}
"""Held-out figures that the bar shows."""


class Progress:
    """Reward, length and held-out figures beside the time left."""

    def __init__(self, *, first: int, steps: int, visible: bool) -> None:
        self._visible = visible
        self._on_terminal = sys.stderr.isatty()
        shown = visible and self._on_terminal
        self._bar = tqdm(total=steps, initial=first - 1, unit="step", disable=not shown, dynamic_ncols=True)
        self._steps = steps
        self._first = first
        self._started = time.monotonic()
        self._figures: dict[str, str] = {}
        self.done = first - 1
        """The last step that is done."""
        self.seconds_a_step = 0.0
        """Of the last step; 0 before one is done."""

    def step(self, metrics: dict[str, float]) -> None:
        """One more step is done."""
        self.done += 1
        self.seconds_a_step = sum(value for name, value in metrics.items() if name.startswith("seconds/"))
        self._figures |= {
            "reward": f"{metrics['reward/total']:.2f}",
            "length": f"{metrics['tokens/length']:.1f}",
        }
        self._bar.set_postfix(self._figures, refresh=False)
        self._bar.update()

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Held-out figures are there."""
        for name, shown in _SHOWN.items():
            if name in metrics:
                self._figures[shown] = f"{metrics[name]:.3f}"
        self._bar.set_postfix(self._figures)
        if not self._on_terminal:
            figures = ", ".join(f"{name} {value}" for name, value in self._figures.items())
            self.say(f"step {step} of {self._steps}{figures and ': ' + figures}{self._time_left(step)}")

    def say(self, message: str) -> None:
        """A line above the bar, or a plain line."""
        if self._visible:
            tqdm.write(one_line(message), file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()

    def _time_left(self, step: int) -> str:
        done = step - self._first + 1
        if done < 1 or step >= self._steps:
            return ""
        minutes = (time.monotonic() - self._started) / done * (self._steps - step) / 60
        return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"
