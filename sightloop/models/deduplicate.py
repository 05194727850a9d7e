"""Which rows of a batch are the same, so that what they share is computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

from jaxtyping import Shaped
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
    """A key an image: equal where all pixels, or all tokens that count, are equal.

    The host looks at images that carry no keys: whoever shows the same ones again hands over the keys.
    """
    if images.keys is not None:
        return images.keys
    if isinstance(images, Images):
        return row_keys(images.pixels) if images.whole is None else [_key(each) for each in images.whole]
    return row_keys(images.ids.masked_fill(~images.mask, -1))


def row_keys(rows: Shaped[Tensor, "B ..."]) -> list[bytes]:
    """The same of rows of numbers."""
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows.cpu().numpy()]


def _key(image: Tensor) -> bytes:
    whole = hashlib.blake2b(str(tuple(image.shape)).encode(), digest_size=16)
    whole.update(image.numpy().tobytes())
    return whole.digest()
