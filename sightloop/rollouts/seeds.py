"""Seeds of single samples, from what they are samples of."""

from __future__ import annotations

import hashlib


def image_seed(text: str, number: int, seed: int = 0) -> int:
    """The seed of a prompt's picture of this number.

    >>> image_seed("a photo of a dog", 0) == image_seed("a photo of a dog", 1)
    False
    """
    digest = hashlib.sha256(f"{seed}\n{number}\n{text}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
