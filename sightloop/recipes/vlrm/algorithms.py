"""VLRM's algorithms by name, one row each: what the command line offers and what a run with them needs.

Light to import: settings read it before any network is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sightloop.late import late


@dataclass(frozen=True, kw_only=True)
class AlgorithmRow:
    """An algorithm of captions."""

    made_by: Callable[..., Any]
    """Its class; called with `under`, `reduce` and the settings that it takes."""
    takes: tuple[Literal["gamma", "objective", "average_over"], ...] = ()
    """Settings of the recipe that it has a use for; the others are refused."""
    has_critic: bool = False
    """Also called with `critic`, `critic_batch` and `value_weight`; its `critic_pass` comes before credit."""
    greedy_baseline: bool = False
    """The greedy caption of each image is judged, too (`Rollout.baseline`)."""
    compares_captions: bool = False
    """Needs several captions an image."""


ALGORITHMS: dict[str, AlgorithmRow] = {
    "a2c": AlgorithmRow(
        made_by=late("sightloop.algorithms.a2c:A2C"),
        takes=("gamma", "objective", "average_over"),
        has_critic=True,
    ),
    "scst": AlgorithmRow(made_by=late("sightloop.algorithms.baselines:SCST"), greedy_baseline=True),
    "greedy-baseline": AlgorithmRow(
        made_by=late("sightloop.algorithms.baselines:GreedyBaseline"),
        takes=("objective", "average_over"),
        greedy_baseline=True,
    ),
    "group": AlgorithmRow(
        made_by=late("sightloop.algorithms.baselines:GroupBaseline"),
        takes=("gamma", "objective", "average_over"),
        compares_captions=True,
    ),
}
