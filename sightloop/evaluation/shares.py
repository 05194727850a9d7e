"""Shares of sums, such as precision over all captions, with values per sample that give them an interval."""

from __future__ import annotations

from collections.abc import Sequence

Sum = Sequence[int] | Sequence[float]


def ratio_of_sums(parts: Sum, wholes: Sum, *, empty: float) -> tuple[float, list[float]]:
    """The share of all parts in all wholes, and how each sample moves it; `empty` if there is no whole.

    A share of sums is no mean. Linearised (W. Cochran, Sampling Techniques, 1977, chapter 6) it is one, with
    the same variance to first order, so that intervals of means apply.

    >>> ratio_of_sums([1, 0], [1, 3], empty=1.0)
    (0.25, [0.625, -0.125])
    """
    whole = sum(wholes)
    if not whole:
        return empty, [empty] * len(parts)
    share, mean = sum(parts) / whole, whole / len(wholes)
    return share, [share + (part - share * out_of) / mean for part, out_of in zip(parts, wholes, strict=True)]
