"""CLIPScore and RefCLIPScore (arXiv 2104.08718): how well a caption fits its image, without ranking.

Differences from the paper: none in the formulas; the encoder is any CLIP model, and figures of different
encoders do not compare (the paper's are of ViT-B/32).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from sightloop.evaluation.protocol import protocol_hash
from sightloop.models.clip import ClipEncoder, ClipImages
from sightloop.types import Evaluation

PREFIX = "A photo depicts "
WEIGHT = 2.5


def clip_score(
    encoder: ClipEncoder,
    images: Float[Tensor, "N d"] | ClipImages,
    captions: Sequence[str],
    *,
    references: Sequence[Sequence[str]] | None = None,
) -> Evaluation:
    """`clip_score` of each caption and the image of its row, 0 to 2.5; `ref_clip_score` with references.

    Raises:
        ValueError: not one image and, where given, one list of references a caption.
    """
    embedded = images if isinstance(images, Tensor) and images.is_floating_point() else encoder.images(images)
    if len(embedded) != len(captions):
        raise ValueError(f"{len(embedded)} images and {len(captions)} captions; give one caption an image")
    texts = _prefixed(encoder, captions)
    scores = WEIGHT * (embedded.float().to(texts.device) * texts).sum(1).clamp(min=0)
    per_sample = {"clip_score": scores.tolist()}
    if references is not None:
        if len(references) != len(captions) or not all(references):
            raise ValueError(f"{len(captions)} captions need as many lists of at least one reference")
        agreement = _agreement(encoder, texts, references)
        # The harmonic mean; 0 where both are.
        total = (scores + agreement).clamp(min=torch.finfo(torch.float32).tiny)
        per_sample["ref_clip_score"] = (2 * scores * agreement / total).tolist()
    protocol = encoder.protocol | {"prefix": PREFIX, "captions": str(len(captions))}
    return Evaluation(
        metrics={name: fmean(values) for name, values in per_sample.items()},
        per_sample=per_sample,
        protocol=protocol | {"hash": protocol_hash(protocol)},
    )


def _prefixed(encoder: ClipEncoder, texts: Sequence[str]) -> Float[Tensor, "N d"]:
    return encoder.texts([PREFIX + text for text in texts], max_characters=None)


def _agreement(
    encoder: ClipEncoder, texts: Float[Tensor, "N d"], references: Sequence[Sequence[str]]
) -> Float[Tensor, " N"]:
    """The largest cosine of each caption with one of its references, at least 0."""
    answers = _prefixed(encoder, [text for row in references for text in row])
    owner = torch.tensor([place for place, row in enumerate(references) for _ in row], device=texts.device)
    cosines = (answers * texts[owner]).sum(1)
    return torch.zeros_like(texts[:, 0]).scatter_reduce(0, owner, cosines, "amax")
