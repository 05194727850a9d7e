"""CLIP Recall: does a caption find its image among all others?

Protocol of IC3 (arXiv 2302.01328) as VLRM uses it (arXiv 2404.01911, section 5): cosine of CLIP embeddings,
rank = 1 + the number of images strictly closer to the caption than its own, captions cut at 300 characters
and then at the tokens that CLIP can read, images resized to the shorter side and cropped at the center.

Differences from the papers:
1. IC3 averages over the captions of an image, then over images; here every caption weighs the same, which
   is another figure only where images have different numbers of captions.
2. Equal captions are encoded once, so that their ties are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sightloop.evaluation.pairs import CaptionSet
from sightloop.evaluation.protocol import protocol_hash
from sightloop.evaluation.ranking import Ties, rank_images, rank_texts, recall_metrics, recall_values
from sightloop.models.clip import MAX_CHARACTERS, ClipEncoder, ClipImages, SeenImages
from sightloop.types import Evaluation

TOLERATED_TIES = 0.001
"""Share of captions that may tie with a wrong image before the protocol carries a warning."""


def clip_recall(
    encoder: ClipEncoder,
    images: SeenImages | ClipImages,
    captions: Sequence[str],
    *,
    target: Int[Tensor, " M"] | None = None,
    sources: Sequence[str] = (),
    ties: Ties = "optimistic",
) -> Evaluation:
    """CLIP Recall of captions against images, or such as the encoder saw before, both directions.

    `target` names the row of each caption's image (None = the same row), `sources` says where that image
    came from. Figures of image to text begin with `image_`; they come per caption too where all images have
    equally many captions. `cut_by_characters`, `cut_by_tokens` and `share_of_ties` say how far to trust them.

    Raises:
        ValueError: no captions, or captions, images, targets and sources that do not fit together.
    """
    if sources and len(sources) != len(captions):
        raise ValueError(f"{len(sources)} sources for {len(captions)} captions; give one a caption")
    texts = encoder.texts(captions)
    seen = images if isinstance(images, SeenImages) else encoder.see(images)
    embedded = seen.embeddings
    texts = texts.to(embedded.device)
    by_text, by_image = rank_texts(embedded, texts, target), rank_images(embedded, texts, target)
    places, image_places = by_text.places(ties), by_image.places(ties)
    metrics = recall_metrics(places) | _prefixed(recall_metrics(image_places))
    metrics |= encoder.shares_cut(captions) | {"share_of_ties": by_text.share_of_ties}
    per_sample = recall_values(places)
    spread = _for_each_text(image_places, target)
    if spread is not None:
        per_sample |= _prefixed(recall_values(spread))
    protocol = encoder.protocol | {
        "ties": ties,
        "images": str(len(embedded)),
        "image_set": seen.digest,
        "captions": str(len(captions)),
        "text_cut": f"{MAX_CHARACTERS} characters, then {encoder.max_tokens} tokens",
    }
    protocol["hash"] = protocol_hash(protocol)
    if by_text.share_of_ties > TOLERATED_TIES:
        protocol["warning"] = _tie_warning(by_text.share_of_ties, len(captions), ties)
    samples = [
        {"source": source, "caption": caption} for source, caption in zip(sources, captions, strict=False)
    ]
    return Evaluation(metrics=metrics, per_sample=per_sample, samples=samples, protocol=protocol)


def clip_recall_of_files(
    encoder: ClipEncoder, captions: CaptionSet, *, ties: Ties = "optimistic"
) -> Evaluation:
    """CLIP Recall of captions of image files (see `pairs.read_captions`), both directions."""
    return clip_recall(
        encoder,
        captions.images,
        captions.captions,
        target=torch.tensor(captions.target),
        sources=captions.sources,
        ties=ties,
    )


def _prefixed(figures: dict[str, Any]) -> dict[str, Any]:
    return {f"image_{name}": value for name, value in figures.items()}


def _for_each_text(image_places: Tensor, target: Tensor | None) -> Tensor | None:
    """The place of each caption's image; None where their mean would not be the mean over images."""
    if target is None:
        return image_places
    _, row, count = target.to(image_places.device).unique(return_inverse=True, return_counts=True)
    return image_places[row] if bool((count == count[0]).all()) else None


def _tie_warning(share: float, number: int, ties: Ties) -> str:
    effect = {"optimistic": "as won", "pessimistic": "as lost", "expected": "half"}[ties]
    return (
        f"{round(share * number)} of {number} captions are exactly as close to a wrong image as to their "
        f"own and count {effect}; look for images that occur twice and for half-precision embeddings"
    )
