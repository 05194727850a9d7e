"""CLIP Recall: does a caption find its picture among all others?

Protocol of IC3 (arXiv 2302.01328) as VLRM uses it (arXiv 2404.01911, section 5): cosine of CLIP embeddings, rank =
1 + the number of pictures strictly closer to the caption than its own, captions cut at 300 characters and then at
the tokens CLIP can read, pictures resized to the shorter side and cropped at the centre.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
import transformers
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel, PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from sightloop.types import Evaluation

Ties = Literal["optimistic", "pessimistic", "expected"]
MAX_CHARACTERS = 300
_BLOCK = 512


def rank_texts(
    images: Float[Tensor, "N d"],
    texts: Float[Tensor, "M d"],
    target: Int[Tensor, " M"] | None = None,
    *,
    ties: Ties = "optimistic",
    block: int = _BLOCK,
) -> Float[Tensor, " M"]:
    """The rank of each text's own picture among all pictures, 1 the best.

    `target` names the row of a text's picture; None = the same row. Ties count for the text (optimistic, the
    protocol's), against it, or half (expected). Memory is bounded by `block` rows of similarities.

    Raises:
        ValueError: an embedding is not finite, or a target lies outside.
    """
    images, texts = _sound(images, "image"), _sound(texts, "text")
    target = _targets(target, len(images), len(texts)).to(images.device)
    ranks = torch.empty(len(texts), device=images.device)
    for start in range(0, len(texts), block):
        rows = slice(start, start + block)
        similarity = texts[rows] @ images.T
        # Own similarity from the same matrix: computed apart it would differ in the last digit and lose to itself.
        own = similarity.gather(1, target[rows, None])
        ranks[rows] = _ranks((similarity > own).sum(1), (similarity == own).sum(1) - 1, ties)
    return ranks


def rank_images(
    images: Float[Tensor, "N d"],
    texts: Float[Tensor, "M d"],
    target: Int[Tensor, " M"] | None = None,
    *,
    block: int = _BLOCK,
) -> Float[Tensor, " K"]:
    """The optimistic rank of each picture's best own text among all texts, for the pictures that have a text."""
    images, texts = _sound(images, "image"), _sound(texts, "text")
    target = _targets(target, len(images), len(texts)).to(images.device)
    described = target.unique()
    ranks = []
    for rows in described.split(block):
        similarity = images[rows] @ texts.T
        own = similarity.masked_fill(target[None] != rows[:, None], -torch.inf).amax(1, keepdim=True)
        ranks.append((similarity > own).sum(1).float() + 1)
    return torch.cat(ranks)


def recall_metrics(ranks: Float[Tensor, " M"]) -> dict[str, float]:
    """Mean reciprocal rank, mean and median rank, and the share of ranks within 1, 5 and 10 (fractions of 1).

    >>> recall_metrics(torch.tensor([1.0, 4.0]))["mrr"]
    0.625
    """
    ranks = ranks.double()
    metrics = {"mrr": ranks.reciprocal().mean().item(), "mean_rank": ranks.mean().item()}
    metrics["median_rank"] = ranks.quantile(0.5).item()
    return metrics | {f"recall@{k}": (ranks <= k).double().mean().item() for k in (1, 5, 10)}


def share_of_ties(
    images: Float[Tensor, "N d"], texts: Float[Tensor, "M d"], target: Int[Tensor, " M"] | None = None
) -> float:
    """Share of texts for which another picture is exactly as close as their own."""
    best = rank_texts(images, texts, target, ties="optimistic")
    worst = rank_texts(images, texts, target, ties="pessimistic")
    return (best != worst).float().mean().item()


def _sound(embeddings: Tensor, kind: str) -> Tensor:
    if not torch.isfinite(embeddings).all():
        row = int((~torch.isfinite(embeddings)).any(1).nonzero()[0])
        raise ValueError(f"{kind} embedding {row} is not finite; every comparison with it would count as a hit")
    # Half precision makes ties, and ties count as hits.
    return embeddings.float() if embeddings.dtype in (torch.float16, torch.bfloat16) else embeddings


def _targets(target: Tensor | None, num_images: int, num_texts: int) -> Tensor:
    if target is None:
        if num_images != num_texts:
            raise ValueError(f"{num_images} images and {num_texts} texts; name each text's image with `target`")
        return torch.arange(num_texts)
    if len(target) != num_texts or int(target.min()) < 0 or int(target.max()) >= num_images:
        raise ValueError(f"target must name one of {num_images} images for each of {num_texts} texts")
    return target


def _ranks(closer: Tensor, tied: Tensor, ties: Ties) -> Tensor:
    share = {"optimistic": 0.0, "pessimistic": 1.0, "expected": 0.5}[ties]
    return 1 + closer.float() + share * tied.float()


class ClipEncoder:
    """Any CLIP model of transformers as the eyes of the evaluation."""

    def __init__(
        self, model: CLIPModel, words: PreTrainedTokenizerBase, pictures: CLIPImageProcessorPil, *, name: str
    ) -> None:
        self.model: Any = model.eval().requires_grad_(False)
        self.words = words
        self.pictures = pictures
        self.name = name
        self.size = int(pictures.crop_size["height"])

    @staticmethod
    def from_pretrained(
        folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> ClipEncoder:
        """Load a folder of the hub's format (or a hub name)."""
        model: Any = CLIPModel.from_pretrained(folder, dtype=dtype)
        words = AutoTokenizer.from_pretrained(folder)
        pictures = CLIPImageProcessorPil.from_pretrained(folder)
        return ClipEncoder(model.to(device), words, pictures, name=Path(folder).name)

    @torch.no_grad()
    def images(self, pixels: Tensor, *, batch: int = 64) -> Float[Tensor, "N d"]:
        """Unit embeddings of uint8 pictures (N, 3, H, W), prepared by the model's own processor."""
        rows = []
        for chunk in pixels.split(batch):
            values = self.pictures(list(chunk.cpu().numpy()), return_tensors="pt", input_data_format="channels_first")
            prepared = values["pixel_values"].to(self.model.device, self.model.dtype)
            rows.append(self.model.get_image_features(pixel_values=prepared).pooler_output.float())
        return F.normalize(torch.cat(rows), dim=1)

    @torch.no_grad()
    def texts(self, captions: list[str], *, batch: int = 256) -> Float[Tensor, "N d"]:
        """Unit embeddings of captions, cut as the protocol says."""
        rows = []
        for chunk in _chunks([caption[:MAX_CHARACTERS] for caption in captions], batch):
            encoded = self.words(
                chunk, padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
            ).to(self.model.device)
            out = self.model.get_text_features(
                input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]
            )
            rows.append(out.pooler_output.float())
        return F.normalize(torch.cat(rows), dim=1)

    def shares_cut(self, captions: list[str]) -> dict[str, float]:
        """Share of captions cut by characters, and of those cut by tokens after that."""
        short = [caption[:MAX_CHARACTERS] for caption in captions]
        lengths = [len(ids) for ids in self.words(short)["input_ids"]]
        return {
            "cut_by_characters": sum(len(c) > MAX_CHARACTERS for c in captions) / len(captions),
            "cut_by_tokens": sum(length > self._max_tokens for length in lengths) / len(captions),
        }

    @property
    def _max_tokens(self) -> int:
        return int(self.model.config.text_config.max_position_embeddings)


def _chunks(items: list[str], size: int) -> Iterator[list[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def clip_recall(
    encoder: ClipEncoder,
    images: Float[Tensor, "N d"],
    captions: list[str],
    target: Int[Tensor, " M"] | None = None,
    *,
    ties: Ties = "optimistic",
) -> Evaluation:
    """CLIP Recall of captions against the embeddings of their pictures (`encoder.images`), both directions.

    The figures `share_of_ties`, `cut_by_characters` and `cut_by_tokens` say how far the rest can be trusted.
    """
    if not captions:
        raise ValueError("no captions to evaluate")
    texts = encoder.texts(captions).to(images.device)
    ranks = rank_texts(images, texts, target, ties=ties)
    own = {f"image_{name}": value for name, value in recall_metrics(rank_images(images, texts, target)).items()}
    metrics = recall_metrics(ranks) | own | encoder.shares_cut(captions)
    metrics["share_of_ties"] = share_of_ties(images, texts, target)
    per_sample = {f"recall@{k}": (ranks <= k).double().tolist() for k in (1, 5, 10)}
    protocol = {
        "encoder": encoder.name,
        "ties": ties,
        "images": str(len(images)),
        "captions": str(len(captions)),
        "image_preparation": f"shorter side to {encoder.size}, centre crop",
        "text_cut": f"{MAX_CHARACTERS} characters, then tokens",
        "transformers": transformers.__version__,
    }
    return Evaluation(
        metrics=metrics,
        per_sample=per_sample | {"mrr": ranks.double().reciprocal().tolist()},
        protocol=protocol | {"hash": protocol_hash(protocol)},
    )


def protocol_hash(protocol: dict[str, str]) -> str:
    """A short name for exactly this protocol: figures of different hashes do not compare."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:12]
