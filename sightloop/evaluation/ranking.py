"""Ranks of right answers by similarity, in blocks: which texts find their image, which images their text.

Similarities are float32 dot products (cosines if the rows have length one). A similarity is compared only
with others of the same matrix product: computed apart, a right answer would differ in the last digit and lose
to itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sightloop.accelerator import in_float64

Ties = Literal["optimistic", "pessimistic", "expected"]
CUTOFFS = (1, 5, 10)
_SHARE_OF_TIED: dict[Ties, float] = {"optimistic": 0.0, "pessimistic": 1.0, "expected": 0.5}
_MAX_ROWS = 512
_MAX_CELLS = 2**23


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """How many wrong candidates are closer than the right one, and how many are exactly as close."""

    closer: Int[Tensor, " Q"]
    tied: Int[Tensor, " Q"]

    def places(self, ties: Ties = "optimistic") -> Float[Tensor, " Q"]:
        """The rank of each right answer, 1 the best; ties count for it, against it, or half (expected).

        >>> ranks = Ranks(closer=torch.tensor([0, 2]), tied=torch.tensor([1, 0]))
        >>> ranks.places().tolist(), ranks.places("pessimistic").tolist(), ranks.places("expected").tolist()
        ([1.0, 3.0], [2.0, 3.0], [1.5, 3.0])

        Raises:
            ValueError: another word for the ties.
        """
        if ties not in _SHARE_OF_TIED:
            raise ValueError(f"ties is {ties!r}; use one of {', '.join(map(repr, _SHARE_OF_TIED))}")
        closer, tied = in_float64(self.closer), in_float64(self.tied)
        return 1 + closer + _SHARE_OF_TIED[ties] * tied

    @property
    def share_of_ties(self) -> float:
        """Share of the right answers that a wrong one equals exactly."""
        return in_float64(self.tied > 0).mean().item()


def rank_texts(
    images: Float[Tensor, "N d"], texts: Float[Tensor, "M d"], target: Int[Tensor, " M"] | None = None
) -> Ranks:
    """The rank of each text's own image among all images (text to image).

    `target` names the row of each text's image; None = the same row.

    Raises:
        ValueError: nothing to rank, an embedding that is not finite, or a target outside the images.
    """
    images, texts = _checked(images, "image"), _checked(texts, "text")
    target = _targets(target, len(images), len(texts)).to(images.device)
    closer, tied = torch.empty_like(target), torch.empty_like(target)
    for rows in _blocks(len(texts), len(images)):
        similarity = texts[rows] @ images.T
        own = similarity.gather(1, target[rows, None])
        closer[rows] = _count(similarity > own)
        tied[rows] = _count(similarity == own) - 1
    return Ranks(closer=closer, tied=tied)


def rank_images(
    images: Float[Tensor, "N d"], texts: Float[Tensor, "M d"], target: Int[Tensor, " M"] | None = None
) -> Ranks:
    """The rank of each image's closest own text among all texts (image to text).

    Only images that have a text are ranked, in the order of their rows; own texts never compete.

    Raises:
        ValueError: as for `rank_texts`.
    """
    images, texts = _checked(images, "image"), _checked(texts, "text")
    target = _targets(target, len(images), len(texts)).to(images.device)
    described, place = target.unique(return_inverse=True)
    order = place.argsort(stable=True)
    # Texts of the k-th described image: order[ends[k - 1]:ends[k]].
    ends = place.bincount().cumsum(0)
    closer, tied = torch.empty_like(described), torch.empty_like(described)
    for rows in _blocks(len(described), len(texts)):
        similarity = images[described[rows]] @ texts.T
        first = int(ends[rows.start - 1]) if rows.start else 0
        own_texts = order[first : int(ends[rows.stop - 1])]
        in_block = place[own_texts] - rows.start
        own = similarity[in_block, own_texts]
        best = torch.full_like(similarity[:, 0], -torch.inf).scatter_reduce(0, in_block, own, "amax")
        as_good = torch.zeros_like(closer[rows]).scatter_add(0, in_block, (own == best[in_block]).long())
        closer[rows] = _count(similarity > best[:, None])
        tied[rows] = _count(similarity == best[:, None]) - as_good
    return Ranks(closer=closer, tied=tied)


def recall_metrics(places: Float[Tensor, " Q"]) -> dict[str, float]:
    """Mean reciprocal rank, mean and median rank, and the share of ranks within 1, 5 and 10 (fractions of 1).

    >>> recall_metrics(torch.tensor([1.0, 4.0]))["mrr"]
    0.625
    """
    values = in_float64(places)
    ordered = values.sort().values
    middle = ordered[[(len(ordered) - 1) // 2, len(ordered) // 2]]
    metrics = {"mrr": values.reciprocal().mean(), "mean_rank": values.mean(), "median_rank": middle.mean()}
    metrics |= {f"recall@{k}": (values <= k).double().mean() for k in CUTOFFS}
    return {name: value.item() for name, value in metrics.items()}


def recall_values(places: Float[Tensor, " Q"]) -> dict[str, list[float]]:
    """What `recall_metrics` averages, for the figures that are means of bounded values."""
    values = in_float64(places)
    hits = {f"recall@{k}": (values <= k).double().tolist() for k in CUTOFFS}
    return {"mrr": values.reciprocal().tolist(), **hits}


def _checked(embeddings: Tensor, kind: str) -> Tensor:
    """Float32, because half precision makes ties and ties count as hits."""
    if not len(embeddings):
        raise ValueError(f"no {kind} embeddings to rank")
    values = embeddings.float()
    # One sum instead of a mask as large as the input; a finite input may still overflow it.
    if not torch.isfinite(values.sum()) and not torch.isfinite(values).all():
        row = int((~torch.isfinite(values)).any(1).nonzero()[0])
        raise ValueError(f"{kind} embedding {row} is not finite; it would compare as better than everything")
    return values


def _targets(target: Tensor | None, num_images: int, num_texts: int) -> Tensor:
    if target is None:
        if num_images != num_texts:
            raise ValueError(
                f"{num_images} images and {num_texts} texts; name each text's image with `target`"
            )
        return torch.arange(num_texts)
    if len(target) != num_texts:
        raise ValueError(f"target names images for {len(target)} of {num_texts} texts; name one for each")
    low, high = int(target.min()), int(target.max())
    if low < 0 or high >= num_images:
        raise ValueError(f"target names image {low if low < 0 else high}; rows are 0 to {num_images - 1}")
    return target.long()


def _blocks(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Slices of rows so that a block of similarities takes at most 32 MiB (one row at the least)."""
    step = max(1, min(_MAX_ROWS, _MAX_CELLS // num_columns))
    return (slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step))


def _count(mask: Bool[Tensor, "R C"]) -> Int[Tensor, " R"]:
    if mask.device.type != "cpu":
        return mask.sum(1)
    # torch sums booleans several times slower than numpy sums the same bytes.
    return torch.from_numpy(mask.numpy().view("uint8").sum(1, dtype="int64"))
