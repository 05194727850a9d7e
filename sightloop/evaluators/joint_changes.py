"""Two evaluations of drawing and answering compared: paired differences with intervals by prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sightloop.evaluation.intervals import Interval, paired_difference
from sightloop.quizzes.grammar import CATEGORIES
from sightloop.types import Evaluation

_RESAMPLES = 10_000
_SHARES = {
    "drawn": "drawn right",
    "answered": "answered right about its own drawings",
    "both": "both right",
    "imbalance": "right on one side only",
    "only_drawn": "drawn right, answered wrong",
    "only_answered": "answered right, drawn wrong",
    "gap": "gap: answered right minus drawn right",
}
_CONDITIONAL = {
    "answered_if_drawn": ("answered right, of those drawn right", "drawn"),
    "drawn_if_answered": ("drawn right, of those answered right", "answered"),
}
_FIXED = "answered_fixed"

Flags = NDArray[np.float64]


def changes_of(before: Evaluation, after: Evaluation, *, fixed_prompts: Sequence[str]) -> dict[str, Interval]:
    """`after` minus `before` of every share, by name; prompts are drawn together.

    A conditional share is left out if one of the two has none.
    """
    prompts = [str(sample["source"]) for sample in after.samples]
    found = {
        name: paired_difference(_values(before, name), _values(after, name), groups=prompts)
        for name in _SHARES
    }
    for name, (_, among) in _CONDITIONAL.items():
        change = ratio_difference(
            [(_values(one, "both"), _values(one, among)) for one in (before, after)], prompts
        )
        if change is not None:
            found[name] = change
    if _FIXED in after.per_sample:
        found[_FIXED] = paired_difference(
            before.per_sample[_FIXED], after.per_sample[_FIXED], groups=list(fixed_prompts)
        )
    return found


def _values(evaluation: Evaluation, name: str) -> Flags:
    rows = {key: np.asarray(values, dtype=np.float64) for key, values in evaluation.per_sample.items()}
    if name == "imbalance":
        return rows["only_drawn"] + rows["only_answered"]
    return rows["answered"] - rows["drawn"] if name == "gap" else rows[name]


def ratio_difference(
    pairs: Sequence[tuple[Flags, Flags]], prompts: Sequence[str], *, seed: int = 0
) -> Interval | None:
    """The change of a share among others, the second minus the first of (hits, among) pairs of the same rows.

    None if one has nothing to take a share of. Resamples in which one has nothing are left out.

    >>> hits, among = np.array([1.0, 0.0]), np.ones(2)
    >>> ratio_difference([(hits, among), (among, among)], ["a", "b"]).value
    0.5
    """
    if any(among.sum() == 0 for _, among in pairs):
        return None
    numbers = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    index = [numbers[prompt] for prompt in prompts]
    size = len(numbers)
    counts = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), _RESAMPLES)
    values: list[float] = []
    drawn: list[Flags] = []
    for hits, among in pairs:
        values.append(float(hits.sum() / among.sum()))
        above, below = counts @ np.bincount(index, hits), counts @ np.bincount(index, among)
        drawn.append(np.divide(above, below, out=np.full(_RESAMPLES, np.nan), where=below > 0))
    changes = drawn[1] - drawn[0]
    low, high = np.nanquantile(changes, [0.025, 0.975])
    return Interval(value=values[1] - values[0], low=float(low), high=float(high))


def changes_table(changes: dict[str, Interval]) -> str:
    """Differences as text; a star marks those whose interval leaves out zero."""
    names = _SHARES | {name: label for name, (label, _) in _CONDITIONAL.items()}
    names |= {_FIXED: "answered right about images not its own"}
    lines = [f"{'':<44}change    95% interval by prompt"]
    for name, change in changes.items():
        clear = " *" if change.low > 0 or change.high < 0 else ""
        lines.append(
            f"{names[name]:<44}{change.value:>+6.3f}   [{change.low:+.3f}, {change.high:+.3f}]{clear}"
        )
    return "\n".join([*lines, "* the interval leaves out zero"])


def categories_table(evaluations: dict[str, Evaluation]) -> str:
    """Shares that are right, a row a category, for each model three columns."""
    kinds = ("drawn", "answered", _FIXED)
    titles = {"drawn": "drawn", "answered": "answered", _FIXED: "not its own"}
    shown = [kind for kind in kinds if any(kind in one.metrics for one in evaluations.values())]
    head = f"{'':<16}" + "".join(f"{name:^{13 * len(shown)}}" for name in evaluations)
    lines = [head.rstrip()] if len(evaluations) > 1 else []
    lines.append(f"{'category':<16}" + "".join(f"{titles[kind]:>13}" for _ in evaluations for kind in shown))
    for category in CATEGORIES:
        cells = [one.metrics.get(f"{kind}_{category}") for one in evaluations.values() for kind in shown]
        if any(cell is not None for cell in cells):
            line = "".join(f"{'' if cell is None else format(cell, '.3f'):>13}" for cell in cells)
            lines.append(f"{category:<16}{line}")
    return "\n".join(lines)
