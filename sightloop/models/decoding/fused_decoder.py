"""Parts of a decoder run without gradient in few operations, from its weights as they are now.

While tokens are drawn one at a time, a device computes each operation faster than a program can ask for it.
The parts here ask less often: layers that read the same input write side by side into one tensor, their
adapters are joined, a product adds to what is there, queries and keys are turned together. Weights are read
where they lie; only adapters, which are small, are laid together, anew for each text or image.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sightloop.models.lora import hooked_adapters
from sightloop.models.transformers_internals import hooks_of

Turns = tuple[Tensor, Tensor]
"""Cosines and signed sines of positions, to be read by `turn`."""


def is_plain(decoder: nn.Module) -> bool:
    """Whether its parts do their own work with weights that are here, and this library's adapters, alone.

    Sharded and quantized weights, other libraries' adapters and hooks need the parts' own `forward`.
    """
    return all(map(_is_plain, decoder.modules()))


def _is_plain(part: nn.Module) -> bool:
    return (
        all(hooked_adapters(hook) is not None for hook in hooks_of(part))
        and not any(type(weight).__name__ == "DTensor" for weight in part.parameters(recurse=False))
        and (type(part) is nn.Linear or not isinstance(part, nn.Linear))
    )


def product_dtype(weight: Tensor) -> torch.dtype:
    """What products with a weight are computed in: its own precision, or that of an autocast around."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


class Scratch:
    """Tensors that are written and read at once, so that all layers can share them."""

    def __init__(self) -> None:
        self.held: dict[tuple[int, int], Tensor] = {}

    def of(self, like: Tensor, width: int) -> Tensor:
        """As many rows as `like` has; what it held is gone."""
        size = (len(like), width)
        if size not in self.held:
            self.held[size] = like.new_empty(size)
        return self.held[size]


class SideBySide:
    """Linear layers that read the same input, with the adapters that are on, as they are now."""

    def __init__(self, scratch: Scratch, *linears: nn.Linear) -> None:
        self.scratch = scratch
        self.dtype = product_dtype(linears[0].weight)
        self.weights = [linear.weight.detach().t().to(self.dtype) for linear in linears]
        biases = [linear.bias for linear in linears]
        self.biases = [None if bias is None else bias.detach().to(self.dtype) for bias in biases]
        ends = [0]
        for linear in linears:
            ends.append(ends[-1] + linear.out_features)
        self.slices = [slice(*pair) for pair in pairwise(ends)]
        self.width = ends[-1]
        self.down, self.up = self._joined(linears)

    def _joined(self, linears: Sequence[nn.Linear]) -> tuple[Tensor | None, Tensor | None]:
        downs: list[Tensor] = []
        ups: list[tuple[slice, Tensor]] = []
        for linear, columns in zip(linears, self.slices, strict=True):
            for adapters, key in filter(None, map(hooked_adapters, hooks_of(linear))):
                if adapters.active:
                    downs.append(adapters.down[key].detach())
                    ups.append((columns, adapters.scale * adapters.up[key].detach().t()))
        if not downs:
            return None, None
        down = torch.cat(downs).t().to(self.dtype)
        up = down.new_zeros(down.shape[1], self.width)
        first = 0
        for columns, part in ups:
            up[first : first + len(part), columns] = part.to(self.dtype)
            first += len(part)
        return down, up

    def __call__(self, inputs: Float[Tensor, "N h"]) -> Float[Tensor, "N w"]:
        """What the layers give, side by side; to be read before layers of this width are called again."""
        inputs = inputs.to(self.dtype)
        out = self.scratch.of(inputs, self.width)
        for weight, bias, columns in zip(self.weights, self.biases, self.slices, strict=True):
            if bias is None:
                torch.mm(inputs, weight, out=out[:, columns])
            else:
                torch.addmm(bias, inputs, weight, out=out[:, columns])
        return self._adapt(out, inputs)

    def add_to(self, total: Float[Tensor, "N w"], inputs: Float[Tensor, "N h"]) -> None:
        """Add what the one layer gives without its bias to `total`, in place."""
        if total.dtype == self.dtype:
            self._adapt(total.addmm_(inputs, self.weights[0]), inputs)
        else:
            total += self._adapt(inputs @ self.weights[0], inputs)

    def _adapt(self, out: Tensor, inputs: Tensor) -> Tensor:
        if self.down is not None and self.up is not None:
            out.addmm_(inputs @ self.down, self.up)
        return out


def turns_of(rotary: nn.Module, positions: Int[Tensor, "_ L"], like: Tensor) -> Turns:
    """The turns of positions, as for states like `like`; they broadcast over the heads."""
    cos, sin = rotary(like, positions)
    half = sin.shape[-1] // 2
    signed = torch.cat([-sin[..., :half], sin[..., half:]], -1)
    return cos[:, :, None], signed[:, :, None]


def turn(states: Float[Tensor, "B L heads w"], turns: Turns) -> None:
    """Turn heads to their positions, in place."""
    cos, sin = turns
    torch.addcmul(states * cos, states.roll(states.shape[-1] // 2, -1), sin, out=states)


class KeyValues:
    """Keys and values of all layers, with room for what is to come."""

    def __init__(self, states: list[Tensor]) -> None:
        self.states = states
        """Of each layer: keys and values, rows, heads, positions."""

    @staticmethod
    def blank(
        layers: int, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
    ) -> KeyValues:
        """For so many rows, heads and positions; zeros, because a mask cannot hide what is not a number."""
        return KeyValues([torch.zeros(2, *shape, dtype=dtype, device=device) for _ in range(layers)])

    def spread(self, rows: Int[Tensor, " R"], length: int, room: int) -> KeyValues:
        """Rows of the first positions in a memory of their own, with room; this one is emptied."""
        spread: list[Tensor] = []
        while self.states:
            held = self.states.pop(0)[:, :, :, :length]
            wide = held.new_zeros(2, len(rows), held.shape[2], room, held.shape[4])
            wide[:, :, :, :length] = held[:, rows]
            spread.append(wide)
        return KeyValues(spread)


def attend(
    query: Float[Tensor, "B L heads w"],
    memory: Float[Tensor, "2 B kept K w"],
    *,
    mask: Tensor | None,
    is_causal: bool,
    scale: float,
) -> Float[Tensor, "N h"]:
    """What queries find in the memory, heads side by side, one row a query."""
    size, length, heads, width = query.shape
    keys, values = memory.unbind()
    kept = keys.shape[1]
    if length == 1:
        # The queries that share a key are one batch of queries.
        packed = query.reshape(size, kept, heads // kept, width)
        found = F.scaled_dot_product_attention(packed, keys, values, attn_mask=mask, scale=scale)
        return found.reshape(size, heads * width)
    found = F.scaled_dot_product_attention(
        query.transpose(1, 2), keys, values,
        attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=kept != heads,
    )  # fmt: skip
    return found.transpose(1, 2).reshape(size * length, heads * width)


def hidden_where(hidden: Bool[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """What is added to scores: minus infinity where a position is hidden."""
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)


def left_to_right(mask: Bool[Tensor, "B L"], dtype: torch.dtype) -> Float[Tensor, "B 1 L L"]:
    """Everybody sees what is before it and no pad; pads see themselves, so that no row is empty."""
    place = torch.arange(mask.shape[1], device=mask.device)
    before, itself = place <= place[:, None], place == place[:, None]
    return hidden_where(~(before & mask[:, None] | itself), dtype)[:, None]


def activation_of(part: Any) -> nn.Module:
    """The activation itself, or the same in one operation where transformers writes it out in eight."""
    return nn.GELU(approximate="tanh") if type(part).__name__ == "NewGELUActivation" else part
