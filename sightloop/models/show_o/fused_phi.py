"""A Phi decoder run without gradient in few operations, from its weights as they are now.

It reads texts left to right, and images behind such texts whose positions all see each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PhiModel

from sightloop.models.decoding.fused_decoder import (
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


@dataclass(frozen=True, kw_only=True)
class Before:
    """Keys and values of texts, and the rows that continue them."""

    states: list[Float[Tensor, "2 D heads P d"]]
    """Of each layer."""
    row_of: Int[Tensor, " R"]
    """Which text each row continues."""
    mask: Float[Tensor, "R 1 1 K"] | None
    """Added to the scores of texts and images; None where no text is padded."""
    joined: Float[Tensor, "2 R heads K d"]
    """Room for those of one layer: each writes its own here."""

    def join(self, number: int, new: Float[Tensor, "2 R heads L d"]) -> Tensor:
        """A layer's keys and values of texts and of what follows them."""
        states = self.states[number]
        width = states.shape[3]
        torch.index_select(states, 1, self.row_of, out=self.joined[:, :, :, :width])
        self.joined[:, :, :, width:] = new
        return self.joined


class _Layer:
    """One layer: attention and the feed-forward part read the same."""

    def __init__(self, layer: Any, scratch: tuple[Scratch, Scratch]) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.norm = layer.input_layernorm
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.width, self.scale = attention.head_dim, attention.scaling
        self.heads, self.kept, _ = (part.out_features // self.width for part in projections)
        self.read = SideBySide(scratch[0], *projections)
        self.queries, self.keys = (
            SideBySide(scratch[1], projections[0]),
            SideBySide(scratch[0], *projections[1:]),
        )
        self.dense, self.feed = SideBySide(scratch[1], attention.dense), SideBySide(scratch[1], mlp.fc1)
        self.back = SideBySide(scratch[1], mlp.fc2)
        self.bias = attention.dense.bias.detach() + mlp.fc2.bias.detach()
        self.activation = activation_of(mlp.activation_fn)
        self.eps, self.weight, self.shift = None, None, None
        if attention.qk_layernorm:
            norms = [attention.q_layernorm] * self.heads + [attention.k_layernorm] * self.kept
            self.eps = attention.q_layernorm.eps
            self.weight = torch.stack([norm.weight.detach() for norm in norms]).to(self.read.dtype)
            self.shift = torch.stack([norm.bias.detach() for norm in norms]).to(self.read.dtype)

    def normed(self, total: Float[Tensor, "N h"]) -> Float[Tensor, "N h"]:
        return F.layer_norm(
            total, self.norm.normalized_shape, self.norm.weight, self.norm.bias, self.norm.eps
        )

    def place(self, states: Float[Tensor, "B L n d"], turns: Turns, heads: slice) -> None:
        """Norm queries and keys where the model does, and turn them to their positions, in place."""
        if self.weight is not None and self.shift is not None and self.eps is not None:
            plain = F.layer_norm(states, (self.width,), eps=self.eps)
            torch.addcmul(self.shift[heads], plain, self.weight[heads], out=states)
        turn(states[..., : turns[0].shape[-1]], turns)

    def projected(self, normed: Float[Tensor, "N h"], size: int, turns: Turns) -> Float[Tensor, "B L n d"]:
        """Queries, keys and values, by head."""
        states = self.read(normed).view(size, -1, self.heads + 2 * self.kept, self.width)
        self.place(states[:, :, : -self.kept], turns, slice(None))
        return states

    def remembered(self, states: Float[Tensor, "B L n d"]) -> Float[Tensor, "2 B kept L d"]:
        """Of those, what is kept."""
        return states[:, :, -2 * self.kept :].unflatten(2, (2, self.kept)).permute(2, 0, 3, 1, 4)

    def add(
        self, total: Float[Tensor, "N h"], found: Float[Tensor, "N h"], fed: Float[Tensor, "N f"]
    ) -> None:
        """Add what attention and the feed-forward part give, in place."""
        total += self.bias
        self.dense.add_to(total, found)
        self.back.add_to(total, fed)


class LeanPhi:
    """The layers and the last norm of a Phi decoder; adapters that are on are read once, now."""

    def __init__(self, decoder: Any) -> None:
        # Projections are still read when the feed-forward part writes.
        scratch = (Scratch(), Scratch())
        self.layers = [_Layer(layer, scratch) for layer in decoder.layers]
        self.rotary, self.norm = decoder.rotary_emb, decoder.final_layernorm
        self.dtype = product_dtype(self.norm.weight)

    @staticmethod
    def fits(decoder: nn.Module) -> bool:
        """Whether a decoder is a Phi whose parts do nothing else."""
        return type(decoder) is PhiModel and is_plain(decoder)

    def turns(self, positions: Int[Tensor, "_ L"]) -> Turns:
        """The turns of positions."""
        return turns_of(self.rotary, positions, self.norm.weight)

    def before(
        self, states: list[Tensor], row_of: Int[Tensor, " R"], seen: Tensor | None, length: int
    ) -> Before:
        """Texts with room for as many positions behind them; `seen` tells which of each row are no pads."""
        first = states[0]
        mask = None
        if seen is not None:
            hidden = F.pad(~seen[row_of], (0, length), value=False)[:, None, None]
            mask = first.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
        room = (2, len(row_of), first.shape[2], first.shape[3] + length, first.shape[4])
        return Before(states=states, row_of=row_of, mask=mask, joined=first.new_empty(room))

    @torch.no_grad()
    def texts(self, embeds: Float[Tensor, "D P h"], turns: Turns) -> list[Float[Tensor, "2 D heads P d"]]:
        """Keys and values of right-padded texts that are read left to right; `embeds` is overwritten."""
        with without_autocast(embeds.device):
            return self._texts(embeds.flatten(0, 1), len(embeds), turns)

    def _texts(self, total: Float[Tensor, "N h"], size: int, turns: Turns) -> list[Tensor]:
        kept: list[Tensor] = []
        for layer in self.layers:
            normed = layer.normed(total)
            states = layer.projected(normed, size, turns)
            kept.append(layer.remembered(states).contiguous())
            if layer is not self.layers[-1]:
                query = states[:, :, : layer.heads]
                found = attend(query, kept[-1], mask=None, is_causal=True, scale=layer.scale)
                layer.add(total, found, layer.activation(layer.feed(normed)))
        return kept

    @torch.no_grad()
    def image_rows(
        self,
        embeds: Float[Tensor, "B L h"],
        turns: Turns,
        before: Before,
        columns: Int[Tensor, "R U"],
    ) -> Float[Tensor, "N h"]:
        """Last hidden states of some columns of each row, row by row.

        A row that several texts precede is given once: rows of the first text, then those of the next. What
        the first layer makes of it alone is computed once. `embeds` is overwritten.
        """
        with without_autocast(embeds.device):
            total = self._all_but_last(embeds.flatten(0, 1), len(embeds), turns, before)
            rows = total.view(len(before.row_of), -1, total.shape[1])
            return self._last(rows, turns, before, columns)

    def _all_but_last(
        self, total: Float[Tensor, "N h"], size: int, turns: Turns, before: Before
    ) -> Float[Tensor, "M h"]:
        rows, copies = len(before.row_of), len(before.row_of) // size
        for number, layer in enumerate(self.layers[:-1]):
            normed = layer.normed(total)
            states = layer.projected(normed, size if number == 0 else rows, turns)
            fed = layer.activation(layer.feed(normed))
            if number == 0:
                states, fed, total = (
                    states.repeat(copies, 1, 1, 1),
                    fed.repeat(copies, 1),
                    total.repeat(copies, 1),
                )
            found = attend(
                states[:, :, : layer.heads],
                before.join(number, layer.remembered(states)),
                mask=before.mask,
                is_causal=False,
                scale=layer.scale,
            )
            layer.add(total, found, fed)
        return total.repeat(copies, 1) if len(self.layers) == 1 else total

    def _last(self, total: Float[Tensor, "R L h"], turns: Turns, before: Before, columns: Tensor) -> Tensor:
        """The last layer and norm: queries and what follows them where they are read alone."""
        layer, (rows, length, _) = self.layers[-1], total.shape
        places = (columns + torch.arange(0, rows * length, length, device=columns.device)[:, None]).flatten()
        total = total.flatten(0, 1)
        normed = layer.normed(total)
        few, rest = normed.index_select(0, places), total.index_select(0, places)
        keys = layer.keys(normed).view(rows, length, 2 * layer.kept, layer.width)
        layer.place(keys[:, :, : layer.kept], turns, slice(layer.heads, None))
        query = layer.queries(few).view(rows, -1, layer.heads, layer.width)
        cos, sin = (
            part[0].index_select(0, columns.flatten()).view(rows, -1, *part.shape[2:]) for part in turns
        )
        layer.place(query, (cos, sin), slice(layer.heads))
        found = attend(
            query,
            before.join(len(self.layers) - 1, layer.remembered(keys)),
            mask=before.mask,
            is_causal=False,
            scale=layer.scale,
        )
        layer.add(rest, found, layer.activation(layer.feed(few)))
        return F.layer_norm(rest, self.norm.normalized_shape, self.norm.weight, self.norm.bias, self.norm.eps)
