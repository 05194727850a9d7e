"""Which numbers a setting takes, written beside its type and checked when a configuration is made.

Light to import: the command line reads settings before any network is loaded.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Iterator
from typing import Annotated, Any

_LARGEST = 2**63 - 1
"""Of whole numbers in libraries below."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """Finite numbers between bounds that belong to it, but `above`."""

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf

    def holds(self, value: float) -> bool:
        """Whether a number is in it."""
        if isinstance(value, int):
            return abs(value) <= _LARGEST and self.least <= value <= self.most and value > self.above
        return math.isfinite(value) and self.least <= value <= self.most and value > self.above

    def __str__(self) -> str:
        """What to use.

        >>> print(Range(least=1), Range(least=0), Range(above=0, most=1), Range(), sep=", ")
        at least 1, 0 or more, more than 0 and at most 1, a finite number
        """
        parts: list[str] = []
        if math.isfinite(self.above):
            parts.append(f"more than {self.above:g}")
        if math.isfinite(self.least):
            parts.append("0 or more" if self.least == 0 else f"at least {self.least:g}")
        if math.isfinite(self.most):
            parts.append(f"at most {self.most:.17g}")
        return " and ".join(parts) or "a finite number"


Count = Annotated[int, Range(least=1)]
"""Of steps, images, tokens."""
CountOrNone = Annotated[int, Range(least=0)]
"""The same, or 0."""
Seed = Annotated[int, Range(least=0, most=2**32 - 1)]
"""What NumPy takes."""
Rank = Annotated[int, Range(least=1, most=4096)]
"""Of adapters; larger than any layer is wide, they take minutes to make and learn no more."""
Weight = Annotated[float, Range()]
"""Of a reward, which may be a penalty."""
NotNegative = Annotated[float, Range(least=0)]
"""Temperatures, guidance, weights of losses."""
Positive = Annotated[float, Range(above=0)]
"""Scales."""
Width = Annotated[float, Range(above=0, most=64)]
"""Of a hidden layer, in widths of the model."""
Fraction = Annotated[float, Range(least=0, most=1)]
"""Shares and thresholds."""
Rate = Annotated[float, Range(above=0, most=1)]
"""Learning rates."""


def require_ranges(settings: Any, at: str = "") -> None:
    """Look at every number of settings and their groups; `at` is the group they stand in.

    Raises:
        ValueError: one is not finite or out of its range, by its name on the command line.
    """
    for name, option, allowed in _numbers_of(type(settings)):
        value = getattr(settings, name)
        if dataclasses.is_dataclass(value):
            require_ranges(value, f"{at}{option}." if option else at)
        elif allowed is not None:
            for number in value if isinstance(value, tuple) else (value,):
                if not isinstance(number, int | float | str | None):
                    raise ValueError(f"{at}{option} is {value!r}, which is no number; use {allowed}")
                if isinstance(number, int | float) and not allowed.holds(number):
                    raise ValueError(f"{at}{option} is {value}; use {allowed}")


@functools.cache
def _numbers_of(kind: type[Any]) -> tuple[tuple[str, str, Range | None], ...]:
    """Fields that hold numbers or groups: their names, those of their options, and what they take."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return tuple(
        (field.name, _option(hints[field.name], field.name), range_of(hints[field.name]))
        for field in dataclasses.fields(kind)
    )


def range_of(hint: Any) -> Range | None:
    """What a setting of this type takes, None where it says nothing."""
    return next((each for each in _metadata(hint) if isinstance(each, Range)), None)


def _option(hint: Any, name: str) -> str:
    # The name that the command line gives it, which may be none.
    named = [vars(each).get("name") for each in _metadata(hint) if dataclasses.is_dataclass(each)]
    return next((each for each in named if isinstance(each, str)), name)


def _metadata(hint: Any) -> Iterator[Any]:
    if typing.get_origin(hint) is typing.Annotated:
        inner, *notes = typing.get_args(hint)
        yield from notes
        yield from _metadata(inner)
    else:
        for option in typing.get_args(hint):
            yield from _metadata(option)
