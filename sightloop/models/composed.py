"""An image-text-to-text model run from its parts: the frozen tower once a picture, then embedded words.

Not every architecture can be composed that way (pictures may enter at several layers, or change the attention
mask), so the first use compares with the model's own forward pass and refuses what differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from sightloop.models.generation import Decoder, RoomyLayer, Writer, draw_tokens
from sightloop.models.reader import PromptReader
from sightloop.models.whole import distance, pictures
from sightloop.types import Images, Prompt, Sampling, Tokens, Turn


@dataclass(frozen=True, kw_only=True)
class Context:
    """Embedded prompts with their pictures in place, padded on the left."""

    embeds: Float[Tensor, "B L h"]
    mask: Bool[Tensor, "B L"] | None
    positions: Int[Tensor, "P B L"]
    shift: int
    """Position of the next token, less the number of tokens before it."""


class ComposedModel:
    """Draws and reads texts from features of pictures that were computed once."""

    def __init__(self, model: Any, reader: PromptReader, *, pad: int, stops: tuple[int, ...]) -> None:
        self.model = model
        self.reader = reader
        self.pad = pad
        self.stops = stops
        self.key = f"captioner:{model.config.name_or_path}"
        self.everyone_done: Callable[[bool], bool] = lambda done: done
        self._compared = False

    @property
    def _head(self) -> Tensor:
        return self.model.get_output_embeddings().weight

    @property
    def _num_layers(self) -> int:
        return int(self.model.config.get_text_config().num_hidden_layers)

    def embed(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T h"]:
        """The language model's input for words."""
        return self.model.get_input_embeddings()(ids)

    # -- seeing

    @torch.no_grad()
    def look(self, images: Images) -> Images:
        """Add the frozen tower's features; pictures that have them are returned as they are."""
        if self.key in images.features:
            return images
        return replace(images, features={**images.features, self.key: self._see(images)})

    def _see(self, images: Images) -> Float[Tensor, "B N h"]:
        inputs = self.reader.picture_inputs(images.pixels)
        seen = self.model.base_model.get_image_features(**inputs).pooler_output
        parts = [seen] if isinstance(seen, Tensor) else seen
        return torch.cat([part.flatten(0, -2) for part in parts]).unflatten(0, (len(images), -1))

    @torch.no_grad()
    def context(self, prompt: Prompt) -> Context:
        """The prompts, ready for the language model."""
        images = pictures(prompt)
        device = self._head.device
        # Most batches ask one question, so each is padded once and then picked.
        texts = {text: place for place, text in enumerate(dict.fromkeys(prompt.texts))}
        each = torch.tensor([texts[text] for text in prompt.texts], device=device)
        rows = [self.reader.row(text, *images.pixels.shape[2:]) for text in texts]
        gaps = [max(len(row.ids) for row in rows) - len(row.ids) for row in rows]
        pairs = list(zip(rows, gaps, strict=True))
        ids = torch.stack([F.pad(row.ids, (gap, 0), value=self.pad) for row, gap in pairs]).to(device)[each]
        positions = torch.stack([F.pad(row.positions, (gap, 0)) for row, gap in pairs], 1).to(device)[:, each]
        mask = (torch.arange(ids.shape[1]) >= torch.tensor(gaps)[:, None]).to(device)[each]
        shifts = {row.shift for row in rows}
        assert len(shifts) == 1, "pictures of one size take equally many positions"
        features = images.features.get(self.key)
        features = self._see(images) if features is None else features
        places = (ids == self.reader.picture_token) & mask
        if int(places.sum()) != features.shape[0] * features.shape[1]:
            raise ValueError(
                f"a picture has {features.shape[1]} features and {int(places.sum()) / len(ids):g} places in "
                "the prompt; the template must name the picture token once"
            )
        embeds = self.embed(ids)
        embeds = embeds.masked_scatter(places[..., None], features.to(embeds))
        return Context(
            embeds=embeds, mask=mask if any(gaps) else None, positions=positions, shift=shifts.pop()
        )

    # -- the language model

    def run(
        self, embeds: Tensor, mask: Tensor | None, positions: Tensor, cache: Cache | None = None
    ) -> Float[Tensor, "B N h"]:
        """Last hidden states."""
        out = self.model.base_model(
            inputs_embeds=embeds,
            attention_mask=None if mask is None else mask.long(),
            position_ids=positions[0] if len(positions) == 1 else positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return out.last_hidden_state

    def _decoder(self, context: Context) -> Decoder:
        planes = len(context.positions)

        def run(embeds: Tensor, mask: Tensor | None, cache: Cache) -> Tensor:
            size, new = embeds.shape[:2]
            seen = cache.get_seq_length()
            if seen == 0:
                return self.run(embeds, mask, context.positions[:, :, :new], cache)
            if mask is None:
                before = torch.arange(seen, seen + new, device=embeds.device).expand(size, new)
            else:
                before = mask.long().cumsum(1)[:, -new:] - 1
            return self.run(embeds, mask, (before + context.shift).expand(planes, size, new), cache)

        return cast("Decoder", run)

    def draw(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """Draw one text a row."""
        context = self.context(prompt)
        writer = Writer(
            decoder=self._decoder(context),
            embed=self.embed,
            head=lambda hidden: hidden @ self._head.T,
            num_layers=self._num_layers,
            ends=self.stops,
            pad=self.pad,
            everyone_done=self.everyone_done,
        )
        return draw_tokens(writer, context.embeds, mask=context.mask, sampling=sampling, seeds=prompt.seeds)

    def hidden(self, turn: Turn) -> tuple[Float[Tensor, "B L h"], int]:
        """Last hidden states over prompt and tokens, and the position that predicts the first token."""
        context, ids = self.context(turn.prompt), turn.tokens.ids
        size, new = ids.shape
        length = context.embeds.shape[1]
        if context.mask is None:
            mask, real = None, torch.full((size,), length, device=ids.device)
        else:
            mask, real = F.pad(context.mask, (0, new), value=True), context.mask.sum(1)
        next_positions = real[:, None] + torch.arange(new, device=ids.device) + context.shift
        positions = torch.cat(
            [context.positions, next_positions.expand(len(context.positions), size, new)], 2
        )
        embeds = torch.cat([context.embeds, self.embed(ids)], 1)
        return self.run(embeds, mask, positions), length - 1

    def hidden_of_text(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T h"]:
        """Last hidden states of words without a picture."""
        positions = torch.arange(ids.shape[1], device=ids.device).expand(1, *ids.shape)
        return self.run(self.embed(ids), None, positions)

    # -- the check

    @torch.no_grad()
    def compare(self, prompt: Prompt) -> None:
        """Once: the model's own forward pass, the composed one and the one with a cache say the same.

        Raises:
            ValueError: they do not.
        """
        if self._compared:
            return
        self._compared = True
        shape, generator = pictures(prompt).pixels.shape[1:], torch.Generator().manual_seed(0)
        noise = torch.randint(256, (1, *shape), generator=generator, dtype=torch.uint8)
        one = Prompt(texts=prompt.texts[:1], images=Images(pixels=noise))
        own = self.model(**self.reader.inputs(one.texts, noise), logits_to_keep=1).logits[:, -1]
        context = self.context(one)
        composed = self.run(context.embeds, None, context.positions)[:, -1]
        length, step = context.embeds.shape[1], self._decoder(context)
        cache = Cache(layers=[RoomyLayer(length) for _ in range(self._num_layers)])
        step(context.embeds[:, :-1], None, cache)
        cached = step(context.embeds[:, -1:], None, cache)[:, -1]
        for way, hidden in (("composed", composed), ("cached", cached)):
            apart = distance(hidden @ self._head.T, own)
            if apart > 1:
                raise ValueError(
                    f"the {way} pass of {self.model.config.model_type!r} is {apart:.1f} times as far from "
                    "the model's own as rounding explains; use CaptionerSettings(reuse_features=False)"
                )
