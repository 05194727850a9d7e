"""Who sees whom in Show-o's sequences: text left to right, images in both directions.

True = the query (row) may look at the key (column). All masks have a dimension for the heads.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor


def causal(length: int, device: torch.device | None = None) -> Bool[Tensor, "1 1 L L"]:
    """Each position sees itself and what is before it."""
    return torch.ones(1, 1, length, length, dtype=torch.bool, device=device).tril()


def drawing_mask(
    is_pad: Bool[Tensor, "B L"], *, first: int, last: int | None = None
) -> Bool[Tensor, "B 1 L L"]:
    """Text left to right; the image, from position `first` to `last` (None = the end), sees everything.

    Behind the last pad nobody sees pads. Pads see the pads before them, so that no row is empty.
    """
    length = is_pad.shape[1]
    place = torch.arange(length, device=is_pad.device)
    in_image = (place >= first) & (place <= (length - 1 if last is None else last))
    seen = causal(length, is_pad.device) | in_image[:, None]
    last_pad = (place * is_pad).amax(1)
    behind = (place > last_pad[:, None])[:, None, :, None]
    return seen & ~(behind & is_pad[:, None, None, :])


def answer_mask(
    length: int, *, last: int, first: int = 0, device: torch.device | None = None
) -> Bool[Tensor, "1 1 L L"]:
    """Left to right, and everybody sees the positions `first` to `last`.

    With codes that is all up to the image's end mark; with features of a vision tower only these.
    """
    place = torch.arange(length, device=device)
    return causal(length, device) | ((place >= first) & (place <= last))
