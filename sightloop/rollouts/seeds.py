"""Seeds of single samples, from what they are samples of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

_STRIDE = 0x9E3779B97F4A7C15
"""Odd, so that the samples of one prompt get distinct seeds."""


def image_seed(text: str, number: int, seed: int = 0) -> int:
    """The seed of a prompt's image of this number.

    >>> image_seed("a photo of a dog", 0) == image_seed("a photo of a dog", 1)
    False
    """
    digest = hashlib.sha256(f"{seed}\n{number}\n{text}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def repeated_seeds(seeds: Sequence[int], number: int, *, first: int = 0) -> list[int]:
    """Seeds of `number` samples of each prompt, from the one of the prompt; samples are counted from `first`.

    >>> one, other = repeated_seeds([7], 2)
    >>> one == 7, repeated_seeds([7], 1, first=1) == [other]
    (True, True)
    """
    return [(seed + (first + k) * _STRIDE) % 2**63 for seed in seeds for k in range(number)]


def further_seed(seed: int, purpose: int) -> int:
    """The seed of a further draw about a sample, for a purpose that has a number of its own."""
    return (seed ^ (purpose * _STRIDE)) % 2**63
