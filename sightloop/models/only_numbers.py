"""Values that are not numbers, refused where a model's logits become samples and scores.

Finite weights may still overflow. Asking a device costs a wait, so a sample carries the mark `UNSOUND` where
it has no token, and whoever reads samples on the host refuses it; scores are asked once a batch.
"""

from __future__ import annotations

from typing import NoReturn

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

UNSOUND = -1
"""The id of a token that was drawn from logits which are not numbers."""


def marked(ids: Int[Tensor, "*shape"], sure: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Ids, `UNSOUND` where what they were chosen by (log-probability, highest logit) is no finite number."""
    return torch.where(sure.isfinite(), ids, UNSOUND)


def refuse_values(source: str, what: str) -> NoReturn:
    """Refuse a model that computes something else than numbers.

    Raises:
        ValueError: always; it names the model.
    """
    named = repr(source) if source else "the model"
    raise ValueError(
        f"{named} computes values that are not numbers, so its {what} mean nothing; use float32 if it runs "
        "in half precision, or another checkpoint of it (in training: an earlier one, with a lower learning "
        "rate)"
    )


def require_drawn(lowest: int, source: str, what: str) -> None:
    """Refuse samples whose lowest id is the mark.

    Raises:
        ValueError: as `refuse_values`.
    """
    if lowest == UNSOUND:
        refuse_values(source, what)


def require_numbers(values: Float[Tensor, "*shape"], source: str, what: str = "scores") -> Tensor:
    """The values themselves. Waits for the device.

    Raises:
        ValueError: as `refuse_values`.
    """
    if not bool(values.isfinite().all()):
        refuse_values(source, what)
    return values


def unit_rows(values: Float[Tensor, "B d"], source: str) -> Float[Tensor, "B d"]:
    """Embeddings at length 1. Waits for the device.

    Raises:
        ValueError: as `refuse_values`; also where a length overflows, which would make them 0.
    """
    require_numbers(values.norm(dim=1), source, "embeddings")
    return F.normalize(values, dim=1)


class NumbersOnly(LogitsProcessor):
    """Beside transformers' own loop: whether every step computed numbers, asked once after the last token."""

    def __init__(self) -> None:
        self._highest: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Keep the highest score of a step, which is no number if one of them is none; no wait for it."""
        self._highest.append(scores.amax())
        return scores

    def require(self, source: str, what: str) -> None:
        """Refuse what was written.

        Raises:
            ValueError: as `refuse_values`.
        """
        if self._highest:
            require_numbers(torch.stack(self._highest), source, what)
