"""The samples of a batch at some places, whatever holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from jaxtyping import Int
from torch import Tensor


def numbers_of(index: Int[Tensor, " N"]) -> list[int]:
    """Row numbers as Python integers."""
    return cast("list[int]", index.tolist())  # pyright: ignore[reportUnknownMemberType]


def picked(value: Any, index: Tensor) -> Any:
    """The samples at `index` of whatever holds a batch: a tensor on any device, a list, several by name.

    What nobody filled, None or an empty list, stays so.
    """
    if value is None:
        return None
    if isinstance(value, Tensor):
        return value[index.to(value.device)]
    if isinstance(value, list):
        return [value[row] for row in numbers_of(index)] if value else []
    if isinstance(value, tuple):
        return tuple(picked(part, index) for part in cast("tuple[Any, ...]", value))
    if isinstance(value, Mapping):
        parts = cast("Mapping[str, Any]", value)
        return {name: picked(part, index) for name, part in parts.items()}
    return value.rows(index)
