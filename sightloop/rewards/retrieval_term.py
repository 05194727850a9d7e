"""VLRM-RS's retrieval term (arXiv 2404.01911, eq. 5): how well a caption and its image stand out.

It compares the captions of `contrast` neighboring rows; the paper does not say how many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sightloop.rewards.clip_family import ClipSimilarity
from sightloop.rewards.samples import outcome_images
from sightloop.types import Outcome, on_last_token


def retrieval_term(cosine: Float[Tensor, "N N"], *, eps: float = 1e-6) -> Float[Tensor, " N"]:
    """VLRM-RS's eq. 5: how well each pair on the diagonal stands out among N, to mean 0 and std 1 (n - 1).

    `cosine[i, j]` is of image i and caption j, without temperature. All 0 if the pairs do not differ by
    more than the share `eps` of their mean.

    Raises:
        ValueError: N is less than 2.

    >>> retrieval_term(torch.tensor([[0.9, 0.1], [0.1, 0.1]]))
    tensor([ 0.7071, -0.7071])
    >>> retrieval_term(torch.ones(3, 3))
    tensor([0., 0., 0.])
    """
    if len(cosine) < 2:
        raise ValueError(f"the retrieval term compares captions with each other; {len(cosine)} is too few")
    found = cosine.log_softmax(0).diagonal() + cosine.log_softmax(1).diagonal()
    # The term ignores the scale of the products, and near 1 they keep their digits.
    product = (found - found.max()).exp()
    spread = product.std()
    term = (product - product.mean()) / spread.clamp(min=torch.finfo(cosine.dtype).tiny)
    return term.where(spread > eps * product.mean(), 0.0)


@dataclass(frozen=True, kw_only=True)
class RetrievalReward:
    """A reward: the retrieval term of each caption, on its last token."""

    clip: ClipSimilarity
    contrast: int | None = None
    """Neighboring rows that are compared with each other; None = all rows that are judged together."""
    gather: Callable[[Tensor], list[Tensor]] | None = None
    """What the ranks hold, in their order: the rows of all of them are compared; None = only those here."""
    rank: int = 0
    """This one among them."""
    logit_scale: float = 1.0  # Paper: eq. 5 has plain cosines
    """Factor on the cosines before the softmaxes: an inverse temperature."""

    def __post_init__(self) -> None:
        if self.logit_scale <= 0:
            raise ValueError(f"logit_scale is {self.logit_scale}; use a positive factor (the paper: 1)")
        if self.contrast is not None and self.contrast < 2:
            raise ValueError(f"contrast is {self.contrast}; use None for all rows or at least 2")

    @torch.no_grad()
    def __call__(self, outcome: Outcome) -> Float[Tensor, "B T"]:
        """The term on the last token.

        Raises:
            ValueError: the rows cannot be cut into groups of `contrast`.
        """
        embedded = self.clip.image_embeddings(outcome_images(outcome))
        captions = self.clip.text_embeddings(outcome.texts())
        own = slice(0, len(outcome.tokens))
        if self.gather is not None:
            parts = [part.to(embedded) for part in self.gather(torch.stack([embedded, captions]).cpu())]
            embedded, captions = torch.cat(parts, 1)
            before = sum(part.shape[1] for part in parts[: self.rank])
            own = slice(before, before + len(outcome.tokens))
        size, rows = self.contrast or len(embedded), len(embedded)
        if rows % size:
            raise ValueError(
                f"{rows} captions cannot be cut into groups of {size}; change contrast or the batch"
            )
        groups = [slice(first, first + size) for first in range(0, rows, size)]
        terms = [retrieval_term(self.logit_scale * embedded[g] @ captions[g].T) for g in groups]
        return on_last_token(torch.cat(terms)[own], outcome.tokens)


def open_retrieval(
    name: str,
    *,
    dtype: torch.dtype,
    device: torch.device,
    **settings: Any,
) -> RetrievalReward:
    """The reward by the CLIP of a folder or hub name."""
    clip = ClipSimilarity.from_pretrained(name, dtype=dtype, device=device)
    return RetrievalReward(clip=clip, **settings)
