"""An image-text-to-text model run from its parts: the frozen tower once an image, then embedded words.

Not every architecture can be composed that way (images may enter at several layers, or change the attention
mask), so the first use compares with the model's own forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sightloop.models.captioners.end_to_end import distance, images_in
from sightloop.models.captioners.prompt_reader import PromptReader
from sightloop.models.decoding.beams import Rules, write_texts
from sightloop.models.decoding.sampling import Decoder, TextDecoder, alone, draw_tokens
from sightloop.models.deduplicate import distinct, image_keys
from sightloop.models.open import in_one_sentence
from sightloop.models.transformers_internals import (
    Cache,
    cache_argument,
    deep_arguments,
    deep_features,
    growing_cache,
    known_rows,
    reads_deep,
    remembers_by_keys,
    roomy_cache,
    rows_in,
)
from sightloop.types import Images, Prompt, Sampling, Tokens, Turn


@runtime_checkable
class TellsFeatures(Protocol):
    """A model whose features of images can be asked for by themselves."""

    def get_image_features(self, **inputs: Tensor) -> Any:
        """What stands in the places of image tokens."""
        ...


@dataclass(frozen=True, kw_only=True)
class Context:
    """Embedded prompts with their images in place, padded on the left; equal ones once."""

    embeds: Float[Tensor, "D L h"]
    mask: Bool[Tensor, "D L"] | None
    positions: Int[Tensor, "P D L"]
    shift: Int[Tensor, " D"] | int
    """Position of the next token, less the number of tokens before it; one number if all have the same."""
    places: Int[Tensor, " B"]
    """The prompt of each row."""
    ids: Int[Tensor, "D L"]
    """The words, with image tokens in the places of features."""
    slots: Bool[Tensor, "D L"]
    """Where the images are."""
    deep: Float[Tensor, "D N w"]
    """What the first layers add there, side by side; w is 0 for most architectures."""
    are_alike: bool
    """Whether all images have equally many features, N."""

    def shift_of(self, rows: Int[Tensor, " B"]) -> Int[Tensor, "B 1"] | int:
        """The shift of some prompts."""
        return self.shift if isinstance(self.shift, int) else self.shift[rows, None]

    def deep_arguments(self, rows: Int[Tensor, " B"] | None = None, *, new: int = 0) -> dict[str, Any]:
        """For the language model: what its first layers add to these rows, which `new` tokens follow."""
        if not self.deep.shape[2]:
            return {}
        slots, deep = (self.slots, self.deep) if rows is None else (self.slots[rows], self.deep[rows])
        places = torch.arange(deep.shape[1], device=deep.device)
        deep = deep.flatten(0, 1) if self.are_alike else deep[places < slots.sum(1, keepdim=True)]
        layers = deep.split(self.embeds.shape[2], dim=1)
        return deep_arguments(F.pad(slots, (0, new)), list(layers))


class ComposedModel:
    """Draws and reads texts from features of images that were computed once."""

    def __init__(self, model: Any, reader: PromptReader, *, pad: int, stops: tuple[int, ...]) -> None:
        self.model = model
        self.reader = reader
        self.pad = pad
        self.stops = stops
        self.key = f"captioner:{model.config.name_or_path}"
        self.all_ranks_finished: Callable[[bool], bool] = alone
        self.recomputes = False
        """Whether layers are computed anew in the backward pass."""
        self._objection: str | None = None
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
    def encode_images(self, images: Images) -> Images:
        """Add the frozen tower's features; images that have them are returned as they are."""
        if self.key in images.features:
            return images
        return replace(images, features={**images.features, self.key: self._see(images)})

    def _see(self, images: Images) -> Float[Tensor, "B N w"]:
        """What enters the language model: its input, and beside it what its first layers add.

        Behind the features of images that have fewer than others are zeros.
        """
        inputs, places = self.reader.image_inputs(images.pictures())
        seen = self.model.base_model.get_image_features(**inputs)
        entering = [seen.pooler_output]
        if reads_deep(self.model.base_model.get_decoder()):
            entering += deep_features(seen)
        rows = torch.cat([_joined(part) for part in entering], 1)
        if len(rows) != sum(places):
            raise ValueError(
                f"{len(images)} images have {len(rows)} features and {sum(places)} places in their prompts; "
                "the template must name the image token once"
            )
        return pad_sequence(list(rows.split(places)), batch_first=True)

    @torch.no_grad()
    def context(self, prompt: Prompt) -> Context:
        """The prompts, ready for the language model."""
        keys = zip(prompt.texts, image_keys(images_in(prompt)), strict=True)
        firsts, places = distinct(list(keys))
        device = self._head.device
        if len(firsts) < len(places):
            prompt = replace(prompt, seeds=None).rows(torch.tensor(firsts))
        images = images_in(prompt)
        # Most batches ask one question of images of few shapes, so each is padded once and then picked.
        asked = [(text, *size) for text, size in zip(prompt.texts, images.sizes, strict=True)]
        kinds = {kind: place for place, kind in enumerate(dict.fromkeys(asked))}
        each = torch.tensor([kinds[kind] for kind in asked])
        rows = [self.reader.row(*kind) for kind in kinds]
        gaps = torch.tensor([max(len(row.ids) for row in rows) - len(row.ids) for row in rows])
        pairs = list(zip(rows, gaps.tolist(), strict=True))
        ids = torch.stack([F.pad(row.ids, (gap, 0), value=self.pad) for row, gap in pairs])[each]
        positions = torch.stack([F.pad(row.positions, (gap, 0)) for row, gap in pairs], 1)[:, each]
        mask = torch.arange(ids.shape[1]) >= gaps[each, None]
        shifts = torch.tensor([row.shift for row in rows])[each]
        features = images.features.get(self.key)
        features = self._see(images) if features is None else features
        slots = (ids == self.reader.image_token) & mask
        numbers, most = slots.sum(1), features.shape[1]
        if (numbers > most).any() or (images.whole is None and (numbers < most).any()):
            raise ValueError(
                f"an image has {most} features and {int(numbers.max())} places in the prompt; the template "
                "must name the image token once"
            )
        are_alike = bool((numbers == most).all())
        real = (torch.arange(most) < numbers[:, None]).flatten().nonzero()[:, 0]
        # All of it was laid out on the host: the device is asked nothing.
        ids, positions, mask, slots = (
            part.to(device, non_blocking=True) for part in (ids, positions, mask, slots)
        )
        embeds = self.embed(ids)
        features, width = features.to(embeds), embeds.shape[2]
        entering = features[..., :width]
        if not are_alike:
            entering = entering.flatten(0, 1)[real.to(device, non_blocking=True)]
        embeds = embeds.masked_scatter(slots[..., None], entering)
        return Context(
            embeds=embeds,
            mask=mask if gaps.any() else None,
            positions=positions,
            shift=int(shifts[0]) if (shifts == shifts[0]).all() else shifts.to(device, non_blocking=True),
            places=torch.tensor(places).to(device, non_blocking=True),
            ids=ids,
            slots=slots,
            deep=features[..., width:],
            are_alike=are_alike,
        )

    # -- the language model

    def run(
        self,
        embeds: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        cache: Cache | None = None,
        *,
        deep: dict[str, Any] | None = None,
    ) -> Float[Tensor, "B N h"]:
        """Last hidden states; `deep` is what the first layers add (`Context.deep_arguments`)."""
        # The model itself hands these arguments on to its language model, and takes none of them.
        out = (self.model.base_model.get_decoder() if deep else self.model.base_model)(
            inputs_embeds=embeds,
            attention_mask=None if mask is None else mask.long(),
            position_ids=positions[0] if len(positions) == 1 else positions,
            use_cache=cache is not None,
            **cache_argument(cache),
            **(deep or {}),
        )
        return out.last_hidden_state

    def _cache(self) -> Cache:
        return known_rows(growing_cache(self._num_layers))

    def _decoder(self, context: Context) -> Decoder:
        planes = len(context.positions)

        def run(embeds: Tensor, mask: Tensor | None, cache: Cache) -> Tensor:
            size, new = embeds.shape[:2]
            seen = cache.get_seq_length()
            if seen == 0:
                deep = context.deep_arguments()
                hidden = self.run(context.embeds, context.mask, context.positions, cache, deep=deep)
                cache.batch_select_indices(context.places)
                return hidden[context.places]
            rows = rows_in(cache)
            if context.mask is None:
                mask, before = None, torch.arange(seen, seen + new, device=embeds.device).expand(size, new)
            else:
                mask = F.pad(context.mask[rows], (0, seen + new - context.mask.shape[1]), value=True)
                before = mask.long().cumsum(1)[:, -new:] - 1
            return self.run(embeds, mask, (before + context.shift_of(rows)).expand(planes, size, new), cache)

        return cast("Decoder", run)

    def _writer(self, context: Context) -> TextDecoder:
        return TextDecoder(
            decoder=self._decoder(context),
            embed=self.embed,
            head=lambda hidden: hidden @ self._head.T,
            num_layers=self._num_layers,
            ends=self.stops,
            pad=self.pad,
            source=self.model.name_or_path,
            new_cache=lambda layers, room: known_rows(roomy_cache(layers, room)),
            all_ranks_finished=self.all_ranks_finished,
        )

    def draw(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """Draw one text a row."""
        context = self.context(prompt)
        return draw_tokens(
            self._writer(context),
            context.embeds[context.places],
            mask=None,
            sampling=sampling,
            seeds=prompt.seeds,
        )

    def write(self, prompt: Prompt, rules: Rules) -> list[list[int]]:
        """The new tokens of one text a row, written by these rules; all rows ask the same.

        Raises:
            ValueError: the model computes something that is not a number.
        """
        context = self.context(prompt)
        each = context.places
        return write_texts(self._writer(context), context.embeds[each], context.ids[each], rules)

    def hidden(self, turn: Turn) -> tuple[Float[Tensor, "B L h"], int]:
        """Last hidden states of the tokens after those of the prompt or of its end, and the position that
        predicts the first token.
        """
        context, ids = self.context(turn.prompt), turn.tokens.ids
        # A layer that is recomputed in the backward pass would add to its cache twice.
        if len(context.embeds) == len(ids) or (self.recomputes and torch.is_grad_enabled()):
            return self._hidden_at_once(context, ids)
        decoder = self._decoder(context)
        cache = self._cache()
        last = decoder(context.embeds, context.mask, cache)[:, -1:]
        if not ids.shape[1]:
            return last, 0
        return torch.cat([last, decoder(self.embed(ids), None, cache)], 1), 0

    def _hidden_at_once(
        self, context: Context, ids: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B L h"], int]:
        size, new = ids.shape
        length, each = context.embeds.shape[1], context.places
        if context.mask is None:
            mask, real = None, torch.full((size,), length, device=ids.device)
        else:
            mask, real = F.pad(context.mask[each], (0, new), value=True), context.mask.sum(1)[each]
        after = real[:, None] + torch.arange(new, device=ids.device) + context.shift_of(each)
        before = context.positions[:, each]
        positions = torch.cat([before, after.expand(len(before), size, new)], 2)
        embeds = torch.cat([context.embeds[each], self.embed(ids)], 1)
        deep = context.deep_arguments(each, new=new)
        return self.run(embeds, mask, positions, deep=deep), length - 1

    def hidden_of_text(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T h"]:
        """Last hidden states of words without an image."""
        positions = torch.arange(ids.shape[1], device=ids.device).expand(1, *ids.shape)
        return self.run(self.embed(ids), None, positions)

    # -- the check

    @cached_property
    def unfit(self) -> str | None:
        """What speaks against this way before anything is read; None if nothing does."""
        kind = self.model.config.model_type
        if not isinstance(self.model.base_model, TellsFeatures):
            return f"{kind!r} does not tell the features of its images"
        if not remembers_by_keys(self.model):
            return f"{kind!r} remembers more of what it has read than keys and values"
        return None

    @torch.no_grad()
    def objection(self, prompt: Prompt) -> str | None:
        """What speaks against this way: None if the model's own forward pass, the composed one and the one
        with a cache say the same. The first prompt decides.
        """
        if not self._compared:
            self._compared = True
            self._objection = self._compare(prompt)
        return self._objection

    def _compare(self, prompt: Prompt) -> str | None:
        size, generator = images_in(prompt).sizes[0], torch.Generator().manual_seed(0)
        noise = Images(pixels=torch.randint(256, (1, 3, *size), generator=generator, dtype=torch.uint8))
        one = Prompt(texts=prompt.texts[:1], images=noise)
        with in_one_sentence(self.model.name_or_path, "the model"):
            read = self.reader.inputs(one.texts, noise.pictures())
            own = self.model(**read, logits_to_keep=1).logits[:, -1]
        context = self.context(one)
        # A text goes on after its prompt: what the cache holds must be what the whole pass sees.
        ids = torch.full((1, 2), self.stops[0], device=self._head.device)
        composed, start = self._hidden_at_once(context, ids)
        decoder, cache = self._decoder(context), self._cache()
        decoder(context.embeds, None, cache)
        cached = decoder(self.embed(ids), None, cache)
        whole = composed @ self._head.T
        for way, logits, wanted in (
            ("composed", whole[:, start], own),
            ("cached", cached @ self._head.T, whole[:, start + 1 :]),
        ):
            apart = distance(logits, wanted)
            if apart > 1:
                return (
                    f"the {way} pass of {self.model.config.model_type!r} is {apart:.1f} times as far from "
                    "the model's own as rounding explains"
                )
        return None


def _joined(seen: Tensor | Sequence[Tensor]) -> Float[Tensor, "n w"]:
    """Features of all images, one below the other; some models hand them out by image."""
    parts = [seen] if isinstance(seen, Tensor) else seen
    return torch.cat([part.flatten(0, -2) for part in parts])
