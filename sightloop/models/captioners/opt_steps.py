"""One more position of an OPT decoder behind a cache, in as few operations as it takes.

transformers' own forward pass makes masks and positions anew for every token and keeps what training needs.
A step here is the layers' arithmetic alone: what a frozen decoder without adapters computes for one position.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sightloop.models.transformers_internals import Cache


class OptSteps:
    """A decoder of the plain kind (OPT-350M is another: it norms behind its layers and projects)."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    @staticmethod
    def fits(decoder: Any) -> bool:
        """Whether the decoder is of the plain kind."""
        config = decoder.config
        return (
            config.do_layer_norm_before
            and config.activation_function == "relu"
            and decoder.final_layer_norm is not None
            and decoder.project_in is None
            and decoder.project_out is None
        )

    def placed(self, embeds: Float[Tensor, "B h"], position: int | Int[Tensor, " B"]) -> Float[Tensor, "B h"]:
        """Embedded words at a position each, or all at one."""
        table = self._decoder.embed_positions
        return embeds + table.weight[position + table.offset]

    def at(
        self,
        embeds: Float[Tensor, "B h"],
        position: Int[Tensor, " B"],
        cache: Cache,
        seen: Bool[Tensor, "B L"],
    ) -> Float[Tensor, "B h"]:
        """The last hidden state of embedded words at a position each."""
        return self(self.placed(embeds, position), cache, seen)

    def __call__(
        self, hidden: Float[Tensor, "B h"], cache: Cache, seen: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B h"]:
        """The last hidden state of one new position; `seen` says which of the cache's are attended to."""
        mask = None if seen is None else seen[:, None, None]
        for number, layer in enumerate(self._decoder.layers):
            hidden = self._layer(layer, hidden, cache.layers[number], mask)
        norm = self._decoder.final_layer_norm
        return F.layer_norm(hidden, norm.normalized_shape, norm.weight, norm.bias, norm.eps)

    @staticmethod
    def _layer(layer: Any, hidden: Tensor, cache: Any, mask: Tensor | None) -> Tensor:
        attention, norm = layer.self_attn, layer.self_attn_layer_norm
        normed = F.layer_norm(hidden, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        queries, keys, values = (
            _linear(normed, part).unflatten(1, (attention.num_heads, attention.head_dim))[:, :, None]
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        keys, values = cache.update(keys, values)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=attention.scaling)
        hidden = hidden + _linear(mixed.flatten(1), attention.out_proj)
        norm = layer.final_layer_norm
        normed = F.layer_norm(hidden, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return hidden + _linear(torch.relu(_linear(normed, layer.fc1)), layer.fc2)


def _linear(x: Tensor, part: nn.Linear) -> Tensor:
    # Not the module's call: adapters of a critic hang there, switched off.
    return F.linear(x, part.weight, part.bias)
