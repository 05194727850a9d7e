"""The language model of Janus on embedded rows, its inputs for words and codes, and its head for codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sightloop.models.janus.fused_llama import LeanLlama
from sightloop.models.transformers_internals import Cache, attention_of, cache_argument, roomy_cache

_FEW_ROWS, _LARGE_LAYER = 16, 2**22
"""Rows, and weights of a layer: beyond the second it does not fit into caches."""


def places_of(mask: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Positions of rows that are padded on the left."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def few_rows(layer: nn.Linear, rows: Float[Tensor, "R h"]) -> Float[Tensor, "R V"]:
    """A layer on some rows. On a CPU a large one is read once if its weights stand on the left."""
    if (
        rows.device.type != "cpu"
        or len(rows) > _FEW_ROWS
        or layer.weight.numel() < _LARGE_LAYER
        or layer.bias is None
    ):
        return layer(rows)
    return torch.addmm(layer.bias[:, None], layer.weight, rows.t()).t().contiguous()


class JanusBody:
    """Embeds, runs and reads out; knows nothing of prompts and images."""

    def __init__(self, model: Any, *, pad: int) -> None:
        self.model = model
        self.pad = pad
        self.num_layers = int(model.config.text_config.num_hidden_layers)
        self.max_positions = int(model.config.text_config.max_position_embeddings)

    @property
    def _core(self) -> Any:
        return self.model.model

    @property
    def dtype(self) -> torch.dtype:
        """What the layers compute in."""
        return self._core.language_model.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self._core.language_model.norm.weight.device

    def words(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T h"]:
        """The input for words."""
        return self._core.language_model.embed_tokens(ids).to(self.dtype)

    def codes(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape h"]:
        """The input for codes."""
        embedded = self._core.generation_embeddings(ids)
        aligner = self._core.generation_aligner
        return aligner(embedded.to(aligner.fc1.weight.dtype)).to(self.dtype)

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"] | None]:
        """Rows of ids, padded on the left, and where they are ids; None where all are."""
        length = max(map(len, rows))
        ids = torch.tensor([[self.pad] * (length - len(row)) + list(row) for row in rows], device=self.device)
        if all(len(row) == length for row in rows):
            return ids, None
        gaps = torch.tensor([length - len(row) for row in rows], device=self.device)
        return ids, torch.arange(length, device=self.device)[None] >= gaps[:, None]

    def run(
        self, embeds: Float[Tensor, "B N h"], mask: Bool[Tensor, "B L"] | None, cache: Cache | None = None
    ) -> Float[Tensor, "B N h"]:
        """Last hidden states of the new positions; `mask` is over those in the cache too."""
        positions = None
        if mask is not None:
            positions = places_of(mask)[:, -embeds.shape[1] :]
        out = self._core.language_model(
            inputs_embeds=embeds,
            attention_mask=None if mask is None else self._seen(mask, embeds.shape[1]),
            position_ids=positions,
            use_cache=cache is not None,
            **cache_argument(cache),
        )
        return out.last_hidden_state

    def _seen(self, mask: Bool[Tensor, "B L"], new: int) -> Bool[Tensor, "B 1 N L"] | Int[Tensor, "B L"]:
        """Who sees whom, written out: of a plain mask transformers asks the device if it hides anything.

        Pads see themselves: of a row that sees nothing some devices' attention makes no number.
        """
        if attention_of(self.model.config.text_config) != "sdpa":
            return mask.long()
        place = torch.arange(mask.shape[1], device=mask.device)
        new_place = place[-new:, None]
        return (place <= new_place) & mask[:, None, None] | (place == new_place)

    def lean(self) -> LeanLlama | None:
        """The language model as it is now in few operations; None where its layers need their own way."""
        decoder = self._core.language_model
        return LeanLlama(decoder) if LeanLlama.fits(decoder) else None

    def code_logits(
        self,
        given: Float[Tensor, "*N h"],
        blank: Float[Tensor, "*N h"] | None = None,
        *,
        guidance: float = 0.0,
    ) -> Float[Tensor, "*N V"]:
        """Logits of codes, in float32; with a blank branch u + g (c - u).

        The head's last layer is linear, so the branches are combined before it and it runs once.
        """
        head = self._core.generation_head
        features = self._before_last(given)
        if blank is not None:
            features = torch.lerp(self._before_last(blank), features, guidance)
        return head.vision_head(features.to(head.vision_head.weight.dtype)).float()

    def drawn_logits(self, hidden: Float[Tensor, "R h"], *, guidance: float, branches: int) -> Tensor:
        """The same for rows of all branches, which go through the head's first layer together."""
        head, features = self._core.generation_head, self._before_last(hidden)
        if branches == 2:
            given, blank = features.chunk(2)
            features = torch.lerp(blank, given, guidance)
        return few_rows(head.vision_head, features.to(head.vision_head.weight.dtype)).float()

    def _before_last(self, hidden: Float[Tensor, "*N h"]) -> Float[Tensor, "*N w"]:
        head = self._core.generation_head
        return head.activation_fn(head.proj_out(hidden.to(head.proj_out.weight.dtype))).float()

    def cache(self, room: int) -> Cache:
        """An empty cache with room for that many positions."""
        return roomy_cache(self.num_layers, room)

    def spread(self, cache: Cache, rows: Int[Tensor, " R"], into: Cache) -> Cache:
        """Copy rows of what one cache holds into another, which is empty and may have more room."""
        layers: Any = zip(cache.layers, into.layers, strict=True)
        for held, free in layers:
            keys, values = (state[:, :, : held.length] for state in (held.keys, held.values))
            free.update(keys[rows], values[rows])
        return into

    def check_length(self, length: int, what: str) -> None:
        """Refuse rows that the positions do not reach.

        Raises:
            ValueError: the row is too long.
        """
        if length > self.max_positions:
            raise ValueError(
                f"{what} takes {length} positions and the model has {self.max_positions}; shorten the prompt"
                " or draw fewer tokens"
            )
