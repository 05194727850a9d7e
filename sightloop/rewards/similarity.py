"""How well a caption fits its image: BLIP-2's image-text matching, and BLIP's.

Differences from the paper (VLRM, arXiv 2404.01911):
1. The matching reward is the mean over queries of the logit of class 1 ("matched"), without softmax: section
   3.4. The formula printed before it (a softmax, class 0) contradicts that text and the values of the tables.
2. Captions longer than `max_text_tokens` are cut; the paper does not say where. 64 keeps a long caption's
   tail.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    Blip2ForImageTextRetrieval,
    BlipForImageTextRetrieval,
    PreTrainedTokenizerBase,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from sightloop.models.only_numbers import require_numbers
from sightloop.models.open import MATCHER, ModelRole, is_matcher, open_model
from sightloop.models.written_text import read_texts
from sightloop.rewards.pixels import Preparation
from sightloop.rewards.samples import chunks, outcome_images
from sightloop.types import Images, Outcome, on_last_token

_MATCHER = ModelRole(
    what=MATCHER,
    fits=lambda config: config.model_type == "blip-2" and is_matcher(config),
    model=Blip2ForImageTextRetrieval,
    # Logits in half precision are too coarse for a reward, and the parts behind the tower are small.
    exact=("query_tokens", "qformer", "word_embeddings", "position_embeddings", "itm_head"),
    text=lambda config: config.qformer_config,
    images=BlipImageProcessorPil,
)
_BLIP_MATCHER = ModelRole(
    what=MATCHER,
    fits=lambda config: config.model_type == "blip" and is_matcher(config),
    model=BlipForImageTextRetrieval,
    exact=("text_encoder", "itm_head"),
    text=lambda config: config.text_config,
    images=BlipImageProcessorPil,
)


class ItmSimilarity:
    """Image-text matching of BLIP-2: the logit of "matched", averaged over the queries (unbounded)."""

    reader = "qformer_config"
    """The part of the configuration that reads texts."""

    def __init__(
        self,
        model: Blip2ForImageTextRetrieval | BlipForImageTextRetrieval,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: BlipImageProcessorPil,
        *,
        max_text_tokens: int = 64,
        batch: int = 64,
    ) -> None:
        """Take a model, its tokenizer and its image processor; `batch` pairs are judged at once.

        Raises:
            ValueError: the model reads no text, or `max_text_tokens` is more than it has positions for.
        """
        reader = getattr(model.config, self.reader)
        if self.reader == "qformer_config" and not reader.use_qformer_text_input:
            raise ValueError(
                "this BLIP-2 has no text branch; use an image-text matching checkpoint (blip2-itm-vit-g)"
            )
        if not 2 < max_text_tokens <= reader.max_position_embeddings:
            most = reader.max_position_embeddings
            raise ValueError(
                f"max_text_tokens is {max_text_tokens}; use 3 to {most}, begin and end token included"
            )
        self.model: Any = model.eval().requires_grad_(False)
        self.tokenizer: Any = tokenizer
        self.preparation = Preparation.of_blip(image_processor)
        self.preparation.require_size(self.model.config.vision_config.image_size)
        self.max_text_tokens = max_text_tokens
        self.batch = batch
        self.tower_key = "itm.vision"
        """Where the images carry the tower's features, taken before its last LayerNorm."""
        self._tower: nn.Module | None = self.model.vision_model
        self._last_norm: nn.LayerNorm = self.model.vision_model.post_layernorm
        self._make_exact()

    def _make_exact(self) -> None:
        # Logits in half precision are too coarse for a reward, and the parts behind the tower are small.
        for part in (self.model.qformer, self.model.embeddings, self.model.itm_head):
            part.float()
        self._queries: Tensor = self.model.query_tokens.float()

    @staticmethod
    def from_pretrained(
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        max_text_tokens: int = 64,
    ) -> ItmSimilarity:
        """Load a folder of the hub's format (or a hub name); the tower in `dtype`, the rest in float32."""
        found = open_model(folder, _MATCHER, _BLIP_MATCHER, dtype=dtype, device=device)
        kind = BlipSimilarity if found.kind == "blip" else ItmSimilarity
        return kind(found.model, found.words, found.images, max_text_tokens=max_text_tokens)

    @property
    def tower(self) -> nn.Module:
        """The judge's own vision tower, to compare with another's.

        Raises:
            ValueError: it was given up for a shared one.
        """
        if self._tower is None:
            raise ValueError(f"the judge has no tower of its own; it reads features under {self.tower_key!r}")
        return self._tower

    def reuse_tower(self, key: str) -> None:
        """Read the features that another model's equal tower leaves under `key`; free the judge's own tower.

        The towers must be equal in all tensors but the last LayerNorm, and their pixels prepared alike.
        """
        self.tower_key = key
        self._tower = self.model.vision_model = None

    @torch.no_grad()
    def encode_images(self, images: Images) -> Images:
        """The same images with the tower's features under `tower_key`."""
        if self.tower_key in images.features:
            return images
        rows = [
            self._see(images.rows(torch.tensor(index))) for index in chunks(range(len(images)), self.batch)
        ]
        return replace(images, features={**images.features, self.tower_key: torch.cat(rows)})

    @torch.no_grad()
    def logits(self, images: Images, texts: list[str]) -> Float[Tensor, " B"]:
        """The logit of "matched" of each image with its text."""
        ids = self._token_ids(texts)
        scores = torch.zeros(len(texts), device=self.model.device)
        # By length, so that a batch holds little padding.
        order = sorted(range(len(texts)), key=lambda row: len(ids[row]))
        for index in chunks(order, self.batch):
            features = self._see(images.rows(torch.tensor(index)))
            scores[index] = self._match(features, [ids[row] for row in index])
        return require_numbers(scores, self.model.name_or_path)

    rewards = logits

    def __call__(self, outcome: Outcome) -> Float[Tensor, "B T"]:
        """The logit on the last token."""
        return on_last_token(self.logits(outcome_images(outcome), outcome.texts()), outcome.tokens)

    def _see(self, images: Images) -> Float[Tensor, "B N v"]:
        device = self.model.device
        features = images.features.get(self.tower_key)
        if features is not None:
            return features.to(device)
        if self._tower is None:
            raise ValueError(f"the images carry no features under {self.tower_key!r}; `look` at them first")
        tower: Any = self._tower
        values = self.preparation.of(images, device).to(self._last_norm.weight.dtype)
        return tower.encoder(inputs_embeds=tower.embeddings(values)).last_hidden_state

    def _match(self, features: Tensor, rows: list[list[int]]) -> Float[Tensor, " B"]:
        device = self.model.device
        longest, num_queries = max(map(len, rows)), self._queries.shape[1]
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
        reach = torch.tensor([num_queries + len(row) for row in rows], device=device)
        attention = (torch.arange(num_queries + longest, device=device)[None] < reach[:, None]).long()
        seen = self._last_norm(features.to(self._last_norm.weight.dtype)).float()
        queries = self._queries.to(device).expand(len(rows), -1, -1)
        hidden = self.model.qformer(
            query_embeds=self.model.embeddings(input_ids=ids, query_embeds=queries),
            query_length=num_queries,
            attention_mask=attention,
            encoder_hidden_states=seen,
        ).last_hidden_state
        return self.model.itm_head(hidden[:, :num_queries]).mean(1)[:, 1]

    def _token_ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        return read_texts(self.tokenizer, texts, truncation=True, max_length=self.max_text_tokens).input_ids


class BlipSimilarity(ItmSimilarity):
    """Image-text matching of BLIP, whose text encoder attends to the image: the logit of "matched"."""

    reader = "text_config"

    def _make_exact(self) -> None:
        for part in (self.model.text_encoder, self.model.itm_head):
            part.float()

    def _match(self, features: Tensor, rows: list[list[int]]) -> Float[Tensor, " B"]:
        device, longest = self.model.device, max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        seen = self._last_norm(features.to(self._last_norm.weight.dtype)).float()
        hidden = self.model.text_encoder(
            input_ids=ids,
            attention_mask=(torch.arange(longest, device=device)[None] < lengths[:, None]).long(),
            encoder_hidden_states=seen,
            encoder_attention_mask=ids.new_ones(seen.shape[:2]),
        ).last_hidden_state
        return self.model.itm_head(hidden[:, 0])[:, 1]
