"""A Llama decoder run without gradient in few operations, from its weights as they are now."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LlamaModel

from sightloop.models.decoding.fused_decoder import (
    KeyValues,
    Scratch,
    SideBySide,
    Turns,
    activation_of,
    attend,
    is_plain,
    product_dtype,
    turn,
    turns_of,
)
from sightloop.models.mixed_precision import without_autocast


class _Layer:
    """One layer."""

    def __init__(self, layer: Any, scratch: Scratch) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.norms = (layer.input_layernorm, layer.post_attention_layernorm)
        self.read = SideBySide(scratch, attention.q_proj, attention.k_proj, attention.v_proj)
        self.write = SideBySide(scratch, attention.o_proj)
        self.gates = SideBySide(scratch, mlp.gate_proj, mlp.up_proj)
        self.down = SideBySide(scratch, mlp.down_proj)
        self.activation = activation_of(mlp.act_fn)
        self.width, self.scale = attention.head_dim, attention.scaling
        self.heads = attention.q_proj.out_features // self.width
        self.kept = attention.k_proj.out_features // self.width

    def __call__(
        self,
        total: Float[Tensor, "N h"],
        memory: Tensor,
        *,
        turns: Turns,
        at: slice | Tensor,
        mask: Tensor | None,
        is_causal: bool,
    ) -> None:
        """Add to the hidden states of new positions, and their keys and values to the memory, in place."""
        size = memory.shape[1]
        read = self.read(_normed(self.norms[0], total)).view(size, -1, self.heads + 2 * self.kept, self.width)
        turn(read[:, :, : -self.kept], turns)
        new = read[:, :, self.heads :].unflatten(2, (2, self.kept)).permute(2, 0, 3, 1, 4)
        if isinstance(at, slice):
            memory[:, :, :, at] = new
            memory = memory[:, :, :, : at.stop]
        else:
            memory.index_copy_(3, at, new)
        query = read[:, :, : self.heads]
        found = attend(query, memory, mask=mask, is_causal=is_causal, scale=self.scale)
        _add(self.write, total, found)
        gate, up = self.gates(_normed(self.norms[1], total)).chunk(2, 1)
        _add(self.down, total, self.activation(gate) * up)


class LeanLlama:
    """The layers and the last norm of a Llama decoder; adapters that are on are read once, now."""

    def __init__(self, decoder: Any) -> None:
        scratch = Scratch()
        self.layers = [_Layer(layer, scratch) for layer in decoder.layers]
        self.rotary, self.norm = decoder.rotary_emb, decoder.norm
        self.dtype = product_dtype(self.norm.weight)

    @staticmethod
    def fits(decoder: nn.Module) -> bool:
        """Whether a decoder is a Llama whose parts do nothing else."""
        return type(decoder) is LlamaModel and is_plain(decoder)

    def memory(self, rows: int, room: int) -> KeyValues:
        """Of no positions yet."""
        first = self.layers[0]
        shape = (rows, first.kept, room, first.width)
        return KeyValues.blank(len(self.layers), shape, self.dtype, self.norm.weight.device)

    def turns(self, positions: Int[Tensor, "_ L"]) -> Turns:
        """The turns of positions."""
        return turns_of(self.rotary, positions, self.norm.weight)

    @torch.no_grad()
    def __call__(
        self,
        embeds: Float[Tensor, "B L h"],
        memory: KeyValues,
        *,
        turns: Turns,
        at: slice | Int[Tensor, 1],
        mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Float[Tensor, "B L h"]:
        """Last hidden states of new positions, which are written to the memory `at` their place.

        `mask` is added to the scores of all positions up to there, or of the whole room if the place is a
        tensor. `embeds` is overwritten.
        """
        total = embeds.flatten(0, 1)
        with without_autocast(total.device):
            for layer, states in zip(self.layers, memory.states, strict=True):
                layer(total, states, turns=turns, at=at, mask=mask, is_causal=is_causal)
        return _normed(self.norm, total).view(embeds.shape)


def _normed(norm: Any, states: Float[Tensor, "N h"]) -> Float[Tensor, "N h"]:
    return F.rms_norm(states, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _add(layer: SideBySide, total: Tensor, inputs: Tensor) -> None:
    layer.add_to(total, inputs)
    if layer.biases[0] is not None:
        total += layer.biases[0]
