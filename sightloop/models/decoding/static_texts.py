"""Texts drawn in steps of fixed shapes, which a CUDA device records as a graph and replays from then on.

What a step reads and writes stays where it is, from batch to batch: a graph is recorded in the first batch of
its shape and holds for all later ones. Weights that change in place are seen; others end all graphs. Rows
that have ended stay in the batch until all have: every number of rows would need a graph and a cache of its
own, and a step that reads all weights costs hardly less for fewer rows. The host asks every few tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sightloop.models.decoding.cuda_graphs import RepeatedStep
from sightloop.models.decoding.growing_texts import GrowingTexts
from sightloop.models.decoding.sampling import TextDecoder, draw, uniform_numbers
from sightloop.models.transformers_internals import Cache, refill, roomy_cache, static_cache
from sightloop.types import Sampling, Tokens

KEPT_BYTES = 2**31
"""Most of all caches that stay. Larger batches keep a device busy without graphs, and rows leave them."""
_KEPT_SHAPES = 4
"""A full batch and a last one, drawn by chance and greedily."""


@dataclass(frozen=True, kw_only=True)
class FixedDecoder:
    """A language model that runs one new position of every row in fixed shapes."""

    step: Callable[
        [Float[Tensor, "B h"], Tensor, Cache, Bool[Tensor, "B L"]],
        Float[Tensor, "B h"],
    ]
    """The last hidden states behind embedded words, at a position each, behind a cache of which some
    positions are seen.
    """
    weights: Callable[[], Iterable[Tensor]]
    """All that a step reads."""


class _Shape:
    """All batches of one shape under one distribution."""

    def __init__(
        self,
        writer: TextDecoder,
        decoder: FixedDecoder,
        context: Float[Tensor, "B L h"],
        sampling: Sampling,
    ) -> None:
        rows, read, device = len(context), context.shape[1], context.device
        self._sampling = sampling
        self._read = read
        self._room = read + sampling.max_tokens - 1
        self._ids = torch.zeros(rows, sampling.max_tokens, dtype=torch.long, device=device)
        self._sure = torch.zeros(rows, sampling.max_tokens, device=device)
        self._uniform = torch.zeros(sampling.max_tokens, rows, device=device)
        self._last = torch.zeros(1, dtype=torch.long, device=device)
        """The number of the last token."""
        self._place = torch.zeros_like(self._last)
        """Where it goes in the cache."""
        self._positions = torch.zeros(rows, dtype=torch.long, device=device)
        """Its position in each row, pads left out."""
        self._seen = torch.zeros(rows, self._room, dtype=torch.bool, device=device)
        self._cache: Cache | None = None

        def step() -> None:
            assert self._cache is not None
            words = writer.embed(self._ids.index_select(1, self._last))[:, 0]
            self._seen.index_fill_(1, self._place, True)
            hidden = decoder.step(words, self._positions, self._cache, self._seen)
            for count in (self._last, self._place, self._positions):
                count.add_(1)
            self._put(writer.head(hidden))

        self._step = RepeatedStep(step, device)

    def _put(self, logits: Tensor) -> None:
        """Draw the token whose number is `last`."""
        drawn, sure = draw(logits, self._sampling, self._uniform.index_select(0, self._last)[0])
        self._ids.index_copy_(1, self._last, drawn[:, None])
        self._sure.index_copy_(1, self._last, sure[:, None])

    def draw(
        self,
        writer: TextDecoder,
        context: Float[Tensor, "B L h"],
        mask: Bool[Tensor, "B L"] | None,
        uniform: Float[Tensor, "T B"],
    ) -> Tokens:
        """What `draw_tokens` gives."""
        longest = self._sampling.max_tokens
        filled = roomy_cache(writer.num_layers, self._read)
        hidden = writer.decoder(context, mask, filled)[:, -1]
        if self._cache is None:
            self._cache = static_cache(filled, self._room, self._place)
        else:
            refill(self._cache, filled)
        seen = torch.ones_like(self._seen[:, : self._read]) if mask is None else mask
        self._seen.zero_()[:, : self._read] = seen
        self._positions.copy_(seen.sum(1))
        self._place.fill_(self._read)
        self._last.zero_()
        self._uniform.copy_(uniform)
        self._put(writer.head(hidden))
        texts = GrowingTexts(
            len(context), ends=writer.ends, max_tokens=longest, device=context.device, may_stop=False
        )
        self._append(texts, 0)
        while not (texts.is_time_to_look and not texts.running()) and texts.length < longest:
            first, until = texts.length, texts.next_look
            self._step(until - first)
            for number in range(first, until):
                self._append(texts, number)
        return texts.tokens(writer.pad, has_distribution=self._sampling.temperature > 0)

    def _append(self, texts: GrowingTexts, number: int) -> None:
        texts.append(self._ids[:, number], self._sure[:, number])


class StaticTexts:
    """Draws batches in steps of fixed shapes and keeps the latest shapes."""

    def __init__(self) -> None:
        self._shapes: dict[Hashable, tuple[int, _Shape]] = {}
        """With the bytes of their caches, the latest last."""
        self._weights: list[int] = []

    def __deepcopy__(self, _: dict[int, Any]) -> StaticTexts:
        # A copy of a policy has weights and graphs of its own.
        return StaticTexts()

    def takes(self, writer: TextDecoder, context: Float[Tensor, "B L h"], sampling: Sampling) -> bool:
        """Whether such a batch may be drawn here; that depends on its shape alone."""
        return self._bytes(writer, context, sampling) <= KEPT_BYTES

    @staticmethod
    def _bytes(writer: TextDecoder, context: Tensor, sampling: Sampling) -> int:
        states = len(context) * (context.shape[1] + sampling.max_tokens) * context.shape[2]
        return 2 * writer.num_layers * states * context.element_size()

    @torch.no_grad()
    def draw(
        self,
        writer: TextDecoder,
        decoder: FixedDecoder,
        context: Float[Tensor, "B L h"],
        *,
        mask: Bool[Tensor, "B L"] | None,
        sampling: Sampling,
        seeds: list[int] | None,
    ) -> Tokens:
        """One text a row after `context`, as `draw_tokens` draws it."""
        weights = [tensor.data_ptr() for tensor in decoder.weights()]
        if weights != self._weights:
            self._shapes, self._weights = {}, weights
        kind = context.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else context.dtype
        key = (context.shape, context.device, sampling, precision)
        kept = self._shapes.pop(key, None)
        size = self._bytes(writer, context, sampling)
        # The oldest go before a new one takes memory.
        while self._shapes and (
            len(self._shapes) >= _KEPT_SHAPES
            or sum(each for each, _ in self._shapes.values()) + size > KEPT_BYTES
        ):
            del self._shapes[next(iter(self._shapes))]
        shape = _Shape(writer, decoder, context, sampling) if kept is None else kept[1]
        self._shapes[key] = size, shape
        uniform = uniform_numbers(len(context), sampling.max_tokens, seeds).T.contiguous()
        return shape.draw(writer, context, mask, uniform.to(context.device, non_blocking=True))
