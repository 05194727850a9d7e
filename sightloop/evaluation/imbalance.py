"""Drawing and understanding side by side: does a model that draws a prompt right also answer about it right?

The test is UniRL's (arXiv 2505.23380): every prompt is drawn, judged by GenEval, and the model is asked about
its own image. The released code counts three outcomes, as it asks only where the drawing is right; here all
four are kept. What is called imbalance below is our reading of those counts, each share under its own name.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightloop.evaluation.intervals import Interval, bootstrap_interval, paired_difference

Flags = Sequence[bool] | NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """How many images were drawn right or wrong, and answered about right or wrong."""

    both: int
    only_drawn: int
    only_answered: int
    neither: int

    @property
    def total(self) -> int:
        """All images."""
        return self.both + self.only_drawn + self.only_answered + self.neither


@dataclass(frozen=True, kw_only=True)
class Imbalance:
    """How far apart drawing and understanding are; 95% intervals by drawing prompts."""

    outcomes: Outcomes
    drawn: Interval
    """Share drawn right."""
    answered: Interval
    """Share answered right."""
    both: Interval
    only_drawn: Interval
    """Share drawn right and answered wrong."""
    only_answered: Interval
    """Share answered right and drawn wrong."""
    answered_if_drawn: Interval | None
    """Share answered right among those drawn right: UniRL's understanding. None = none was drawn right."""
    drawn_if_answered: Interval | None
    """Share drawn right among those answered right. None = none was answered right."""
    gap: Interval
    """Share answered right minus share drawn right."""


def outcomes_of(drawn: Flags, answered: Flags) -> Outcomes:
    """The 2 x 2 table.

    >>> outcomes_of([True, True, False], [True, False, False])
    Outcomes(both=1, only_drawn=1, only_answered=0, neither=1)

    Raises:
        ValueError: not one answer an image.
    """
    right, answered_right = _pair(drawn, answered)
    return Outcomes(
        both=int((right & answered_right).sum()),
        only_drawn=int((right & ~answered_right).sum()),
        only_answered=int((~right & answered_right).sum()),
        neither=int((~right & ~answered_right).sum()),
    )


def imbalance(
    drawn: Flags, answered: Flags, *, prompts: Sequence[Hashable], resamples: int = 10_000, seed: int = 0
) -> Imbalance:
    """All shares; `prompts` names the prompt of each image, whose images are drawn together.

    Raises:
        ValueError: no images, or not one answer and one prompt an image.
    """
    right, answered_right = _pair(drawn, answered)
    if len(prompts) != len(right):
        raise ValueError(f"{len(prompts)} prompts for {len(right)} images; give one an image")

    def share(flags: NDArray[np.bool_], among: NDArray[np.bool_]) -> Interval | None:
        rows = np.flatnonzero(among).tolist()
        if not rows:
            return None
        groups = [prompts[row] for row in rows]
        return bootstrap_interval(
            flags[rows].astype(np.float64), groups=groups, resamples=resamples, seed=seed
        )

    def of_all(flags: NDArray[np.bool_]) -> Interval:
        return bootstrap_interval(flags.astype(np.float64), groups=prompts, resamples=resamples, seed=seed)

    return Imbalance(
        outcomes=outcomes_of(right, answered_right),
        drawn=of_all(right),
        answered=of_all(answered_right),
        both=of_all(right & answered_right),
        only_drawn=of_all(right & ~answered_right),
        only_answered=of_all(~right & answered_right),
        answered_if_drawn=share(answered_right, right),
        drawn_if_answered=share(right, answered_right),
        gap=paired_difference(
            right.astype(np.float64),
            answered_right.astype(np.float64),
            groups=prompts,
            resamples=resamples,
            seed=seed,
        ),
    )


def _pair(drawn: Flags, answered: Flags) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    right, answered_right = np.asarray(drawn, dtype=bool), np.asarray(answered, dtype=bool)
    if right.shape != answered_right.shape or right.ndim != 1:
        raise ValueError(
            f"{right.shape} drawings and {answered_right.shape} answers; give one answer an image, in lists"
        )
    return right, answered_right
