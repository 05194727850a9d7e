"""Running the parts of a transformers Phi model that Show-o needs: a prefix once, then what follows it.

A prefix (a prompt, or an image that is asked about) never sees what comes behind it, so its keys and values
are computed once for each distinct prefix of a batch and joined to those of every row that continues it. They
carry a gradient where one is wanted. Of an image in the making, the first layer's projections are computed
once for each kind of token and shared by all prefixes. The last layer runs only where its output is read.
The head runs on a slice of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PhiForCausalLM

from sightloop.models.show_o.fused_phi import LeanPhi
from sightloop.models.show_o.layout import TokenLayout, right_padded
from sightloop.models.transformers_internals import Cache, StandInCache, attention_of, cache_argument

Contexts = Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """Keys and values of the distinct beginnings of a batch, right-padded."""

    states: tuple[tuple[Float[Tensor, "D heads P d"], Float[Tensor, "D heads P d"]], ...]
    """Of each layer."""
    lengths: Int[Tensor, " D"] | None
    """None where none is padded."""
    row_of: Int[Tensor, " B"]
    """Which beginning each row of the batch has."""

    @property
    def width(self) -> int:
        """Positions with pads."""
        return self.states[0][0].shape[2]

    def rows(self, index: Int[Tensor, " R"]) -> Prefix:
        """For the rows of the batch at `index`."""
        index = index.to(self.row_of.device, non_blocking=True)
        return Prefix(states=self.states, lengths=self.lengths, row_of=self.row_of[index])

    def seen(self) -> Bool[Tensor, "B P"] | None:
        """Which columns of each row are no pads; None if all rows fill them."""
        if self.lengths is None:
            return None
        place = torch.arange(self.width, device=self.lengths.device)
        return (place < self.lengths[:, None])[self.row_of]


class _Recorder(StandInCache):
    """Keeps each layer's first keys and values."""

    def __init__(self) -> None:
        self.states: dict[int, tuple[Tensor, Tensor]] = {}

    def extend(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        # A layer that is recomputed in the backward pass comes by again.
        self.states.setdefault(layer, (keys, values))
        return keys, values


class _Joined(StandInCache):
    """Puts the prefix before the new keys and values."""

    def __init__(self, prefix: Prefix) -> None:
        self.prefix = prefix

    def extend(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        row_of = self.prefix.row_of
        before = self.prefix.states[layer]
        if len(before[0]) == 1:
            before = [states.expand(len(row_of), -1, -1, -1) for states in before]
        else:
            before = [states[row_of] for states in before]
        return torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)


@dataclass(frozen=True, kw_only=True)
class FirstLayerProjections:
    """What the first layer computes from ids and positions alone, whatever is before them."""

    residual: Float[Tensor, "B L h"]
    feed: Float[Tensor, "B L h"]
    """Output of the feed-forward part, which is parallel to attention."""
    query: Float[Tensor, "B heads L d"]
    key: Float[Tensor, "B heads L d"]
    value: Float[Tensor, "B heads L d"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which positions of each row are read, as the last layer needs to know it."""

    order: Int[Tensor, "B U"]
    """Columns, those that are wanted first; rows that want fewer than others have some in vain."""
    ordered: Int[Tensor, " n"]
    """The wanted ones among these, counted over all rows."""
    numbers: Int[Tensor, " n"]
    """The same among all columns."""

    @staticmethod
    def of(mask: Bool[Tensor, "B L"], device: torch.device) -> Wanted:
        """Of positions that are wanted where the mask is True; found on the host."""
        here = mask.cpu()
        counts = here.sum(1)
        width = max(1, int(counts.max()))
        order = (~here).long().argsort(dim=1, stable=True)[:, :width]
        ordered = (torch.arange(width) < counts[:, None]).flatten().nonzero()[:, 0]
        numbers = here.flatten().nonzero()[:, 0]
        return Wanted(order=order.to(device), ordered=ordered.to(device), numbers=numbers.to(device))


class Body:
    """A Phi model with Show-o's vocabulary, run part by part.

    Raises:
        ValueError: the model does not fit the vocabulary, or its attention would misread boolean masks.
    """

    def __init__(self, model: PhiForCausalLM, vocabulary: TokenLayout) -> None:
        if model.config.vocab_size != vocabulary.size:
            raise ValueError(
                f"the model has {model.config.vocab_size} ids and the vocabulary {vocabulary.size}; "
                "they must agree"
            )
        if attention_of(model.config) != "sdpa":
            raise ValueError(
                f"attention is {attention_of(model.config)!r}, which cannot read Show-o's masks; load "
                "the model with attn_implementation='sdpa'"
            )
        self.phi: Any = model.model
        self.head = model.lm_head
        self.vocabulary = vocabulary
        self.recompute: Contexts | None = None
        """Layers are computed anew in the backward pass if given: the contexts of both passes."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.head.weight.device

    def embed(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape h"]:
        """Embeddings of ids."""
        return self.phi.embed_tokens(ids)

    def mix_codes(self, weights: Float[Tensor, "B N K"]) -> Float[Tensor, "B N h"]:
        """Embeddings of codes that are given as weights: a gradient passes to them."""
        first = self.vocabulary.first_code
        table = self.phi.embed_tokens.weight[first : first + self.vocabulary.num_codes]
        return weights.to(table.dtype) @ table

    def __call__(
        self,
        embeds: Float[Tensor, "B Q h"],
        positions: Int[Tensor, "_ Q"],
        *,
        mask: Bool[Tensor, "_ 1 _ K"] | None = None,
        is_causal: bool = False,
        prefix: Prefix | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "B Q h"]:
        """Last hidden states. Without a mask everybody sees everybody, or what is before if `is_causal`."""
        memory = cache if prefix is None else _Joined(prefix)
        return self._run(embeds, positions, mask, is_causal, memory)

    def _run(
        self,
        embeds: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        is_causal: bool,
        memory: StandInCache | Cache | None,
    ) -> Tensor:
        rotary = self.phi.rotary_emb(embeds, positions)
        hidden = self._through(self.phi.layers, embeds, rotary, mask, is_causal, memory)
        return self.phi.final_layernorm(hidden)

    def _through(
        self,
        layers: Any,
        hidden: Tensor,
        rotary: Any,
        mask: Tensor | None,
        is_causal: bool,
        memory: StandInCache | Cache | None,
    ) -> Tensor:
        for layer in layers:
            run = partial(
                layer,
                attention_mask=mask,
                position_embeddings=rotary,
                is_causal=is_causal,
                **cache_argument(memory),
            )
            hidden = self._kept(run, hidden)
        return hidden

    def _kept(self, run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if self.recompute is not None and torch.is_grad_enabled():
            return checkpoint(run, *inputs, use_reentrant=False, context_fn=self.recompute)
        return run(*inputs)

    def lean(self) -> LeanPhi | None:
        """The layers as they are now in few operations; None where they need their own way."""
        return LeanPhi(self.phi) if LeanPhi.fits(self.phi) else None

    # -- images in the making

    def opening(self, ids: Int[Tensor, "B L"], positions: Int[Tensor, "1 L"]) -> FirstLayerProjections:
        """The first layer's part that needs no attention: once for each kind of token, most are the mask."""
        # No wait where the ids are the host's.
        kinds, which = (part.to(self.device) for part in ids.unique(return_inverse=True))
        layer, embeds = self.phi.layers[0], self.embed(kinds)
        normed = layer.input_layernorm(embeds)
        query, key, value = _projected(layer.self_attn, normed[None])
        rotary = self.phi.rotary_emb(embeds, positions)

        def spread(states: Tensor) -> Tensor:
            return states[0].transpose(0, 1)[which].transpose(1, 2)

        return FirstLayerProjections(
            residual=embeds[which],
            feed=layer.mlp(normed)[which],
            query=_turned(spread(query), rotary),
            key=_turned(spread(key), rotary),
            value=spread(value),
        )

    def continued(
        self,
        opening: FirstLayerProjections,
        positions: Int[Tensor, "1 L"],
        wanted: Wanted,
        *,
        prefix: Prefix,
    ) -> Float[Tensor, "n h"]:
        """Last hidden states where they are wanted, row by row; all tokens see the prefix and each other."""
        seen, length = prefix.seen(), opening.residual.shape[1]
        if seen is not None:
            seen = F.pad(seen, (0, length), value=True)[:, None, None]
        layers, memory = self.phi.layers, _Joined(prefix)
        rotary = self.phi.rotary_emb(opening.residual, positions)

        def first(query: Tensor, key: Tensor, value: Tensor, feed: Tensor, residual: Tensor) -> Tensor:
            attention = layers[0].self_attn
            return _attended(attention, query, *memory.update(key, value, 0), seen) + feed + residual

        parts = (opening.query, opening.key, opening.value, opening.feed, opening.residual)
        hidden = self._kept(first, *parts)
        if len(layers) == 1:
            return self.phi.final_layernorm(hidden.flatten(0, 1)[wanted.numbers])
        hidden = self._through(layers[1:-1], hidden, rotary, seen, False, memory)
        last = partial(self._last, order=wanted.order, rotary=rotary, seen=seen, memory=memory)
        hidden = self._kept(last, hidden)
        return self.phi.final_layernorm(hidden.flatten(0, 1)[wanted.ordered])

    def _last(
        self, hidden: Tensor, *, order: Tensor, rotary: Any, seen: Tensor | None, memory: _Joined
    ) -> Tensor:
        number = len(self.phi.layers) - 1
        layer = self.phi.layers[number]
        attention, normed = layer.self_attn, layer.input_layernorm(hidden)
        picked = order[..., None].expand(-1, -1, hidden.shape[-1])
        few = normed.gather(1, picked)
        key, value = (_heads(attention, name, normed) for name in ("key", "value"))
        turns = tuple(part.expand(len(order), -1, -1).gather(1, _as_wide(order, part)) for part in rotary)
        query = _turned(_heads(attention, "query", few), turns)
        keys, values = memory.update(_turned(key, rotary), value, number)
        attended = _attended(attention, query, keys, values, seen)
        return attended + layer.mlp(few) + hidden.gather(1, picked)

    def prefix(
        self,
        embeds: Float[Tensor, "D P h"],
        positions: Int[Tensor, "_ P"],
        *,
        lengths: Int[Tensor, " D"] | None = None,
        row_of: Int[Tensor, " B"],
        mask: Bool[Tensor, "_ 1 P P"] | None = None,
        is_causal: bool = False,
    ) -> Prefix:
        """Keys and values of right-padded beginnings, who see each other as in `__call__`."""
        recorder, layers = _Recorder(), self.phi.layers
        rotary = self.phi.rotary_emb(embeds, positions)
        hidden = self._through(layers[:-1], embeds, rotary, mask, is_causal, recorder)
        # Nobody reads what the last layer makes of them.
        attention, normed = layers[-1].self_attn, layers[-1].input_layernorm(hidden)
        key, value = (_heads(attention, name, normed) for name in ("key", "value"))
        last = (_turned(key, rotary), value)
        states = (*(recorder.states[layer] for layer in range(len(layers) - 1)), last)
        return Prefix(states=states, lengths=lengths, row_of=row_of)

    def text_prefix(
        self, rows: Sequence[Sequence[int]], row_of: Int[Tensor, " B"], *, ends_at: int
    ) -> Prefix:
        """Keys and values of texts whose last token stands at position `ends_at` - 1."""
        counts = torch.tensor([len(row) for row in rows])
        lengths = counts.to(self.device)
        ids = right_padded(rows, self.vocabulary.pad).to(self.device)
        positions = torch.arange(ids.shape[1], device=self.device) + (ends_at - lengths)[:, None]
        return self.prefix(
            self.embed(ids),
            positions,
            lengths=None if int(counts.min()) == ids.shape[1] else lengths,
            row_of=row_of.to(self.device),
            is_causal=True,
        )

    def code_logits(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n K"]:
        """Logits of the codes alone."""
        first = self.vocabulary.first_code
        return self._logits(hidden, slice(first, first + self.vocabulary.num_codes))

    def text_logits(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n V"]:
        """Logits of the text tokens alone; the end token is one of them."""
        return self._logits(hidden, slice(0, self.vocabulary.num_text))

    def logits(self, hidden: Float[Tensor, "*n h"]) -> Float[Tensor, "*n V"]:
        """Logits of the whole vocabulary."""
        return self._logits(hidden, slice(None))

    def _logits(self, hidden: Tensor, part: slice) -> Tensor:
        # A view, not a copy: the head may be trained.
        bias = None if self.head.bias is None else self.head.bias[part]
        logits = F.linear(hidden.to(self.head.weight.dtype), self.head.weight[part], bias)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _heads(attention: Any, part: Literal["query", "key", "value"], normed: Float[Tensor, "B L h"]) -> Tensor:
    """Queries, keys or values by head, normed but not yet turned to their positions."""
    project = {"query": attention.q_proj, "key": attention.k_proj, "value": attention.v_proj}[part]
    states = project(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    if part == "value" or not attention.qk_layernorm:
        return states
    return (attention.q_layernorm if part == "query" else attention.k_layernorm)(states)


def _projected(attention: Any, normed: Float[Tensor, "B L h"]) -> tuple[Tensor, Tensor, Tensor]:
    query, key = _heads(attention, "query", normed), _heads(attention, "key", normed)
    return query, key, _heads(attention, "value", normed)


def _turned(states: Float[Tensor, "B heads L d"], rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions on the first part of each head."""
    cos, sin = (part[:, None] for part in rotary)
    turned, passed = states.split([cos.shape[-1], states.shape[-1] - cos.shape[-1]], -1)
    first, second = turned.chunk(2, -1)
    quarter = torch.cat([-second, first], -1)
    return torch.cat([turned * cos + quarter * sin, passed], -1)


def _attended(
    attention: Any, query: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None
) -> Float[Tensor, "B L h"]:
    found = F.scaled_dot_product_attention(
        query,
        keys,
        values,
        attn_mask=seen,
        scale=attention.scaling,
        enable_gqa=query.shape[1] != keys.shape[1],
    )
    return attention.dense(found.transpose(1, 2).flatten(2))


def _as_wide(order: Int[Tensor, "B U"], part: Float[Tensor, "_ L w"]) -> Int[Tensor, "B U w"]:
    return order[..., None].expand(-1, -1, part.shape[-1])


def no_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a recomputation that depends on nothing."""
    return nullcontext(), nullcontext()
