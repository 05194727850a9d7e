"""A progress bar with the few figures that matter; silent where there is no terminal."""

from __future__ import annotations

import sys

from tqdm import tqdm


class Progress:
    """Reward, length and held-out recall beside the time left."""

    def __init__(self, *, first: int, steps: int, visible: bool) -> None:
        shown = visible and sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=first - 1, unit="step", disable=not shown, dynamic_ncols=True)
        self._figures: dict[str, str] = {}

    def step(self, metrics: dict[str, float]) -> None:
        """One more step is done."""
        self._figures |= {
            "reward": f"{metrics['reward/total']:.2f}",
            "length": f"{metrics['tokens/length']:.1f}",
        }
        self._bar.set_postfix(self._figures, refresh=False)
        self._bar.update()

    def evaluation(self, metrics: dict[str, float]) -> None:
        """Held-out figures are there."""
        if "recall@1" in metrics:
            self._figures["R@1"] = f"{metrics['recall@1']:.3f}"
            self._bar.set_postfix(self._figures)

    def say(self, message: str) -> None:
        """A line above the bar, or a plain line."""
        tqdm.write(message, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()
