"""Which rows of a batch are the same, so that what they share is computed once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from sightloop.types import Images, Tokens


def distinct(keys: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """The first row of each key, and for every row the number of its key.

    >>> distinct(["a", "b", "a"])
    ([0, 1], [0, 1, 0])
    """
    firsts: dict[Hashable, int] = {}
    rows: list[int] = []
    for row, key in enumerate(keys):
        if key not in firsts:
            firsts[key] = len(firsts)
            rows.append(row)
    return rows, [firsts[key] for key in keys]


def image_keys(images: Images | Tokens) -> list[bytes]:
    """A key a picture: equal exactly where all pixels, or all tokens that count, are equal."""
    if isinstance(images, Images):
        return [row.contiguous().numpy().tobytes() for row in images.pixels.cpu()]
    return _row_keys(images.ids.masked_fill(~images.mask, -1))


def _row_keys(ids: Int[Tensor, "B T"]) -> list[bytes]:
    return [row.numpy().tobytes() for row in ids.to("cpu", torch.int64).contiguous()]
