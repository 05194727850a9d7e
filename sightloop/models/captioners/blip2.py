"""BLIP-2 (OPT) as a captioning policy: frozen tower and language model, trainable queries, Q-Former and
projection.

The tower sees an image once (`encode_images`); sampler, scorer, critic and judge read its features from the
`Images`. Everything after it is composed from transformers' own modules, because its `generate` always starts
from pixels and its `forward` always computes the logits of every position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import Blip2ForConditionalGeneration, PreTrainedTokenizerBase
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from sightloop import accelerator
from sightloop.models.captioners.last_layer import READ_FROM, read_in_part
from sightloop.models.captioners.opt_steps import OptSteps
from sightloop.models.checkpointing import Recomputation, no_dropout
from sightloop.models.decoding.beams import Rules, write_texts
from sightloop.models.decoding.sampling import TextDecoder, alone, draw_tokens, like_lengths, token_log_probs
from sightloop.models.decoding.static_texts import FixedDecoder, StaticTexts
from sightloop.models.decoding.token_pieces import Pieces, token_batch
from sightloop.models.only_numbers import require_numbers
from sightloop.models.open import ModelRole, is_blip2, open_model
from sightloop.models.protocols import Contexts, ValuePosition
from sightloop.models.transformers_internals import Cache, cache_argument
from sightloop.models.written_text import text_ids
from sightloop.types import Images, Prompt, Sampling, Tokens, TokenScores, Turn

BLIP2 = ModelRole(
    what="a BLIP-2 captioner",
    fits=is_blip2,
    model=Blip2ForConditionalGeneration,
    # Half precision would round the weights that are trained, before the first step.
    exact=("query_tokens", "qformer", "language_projection"),
    text=lambda config: config.text_config,
    images=BlipImageProcessorPil,
)
TOWER = "blip2.vision"
"""Key of the tower's features, before its last LayerNorm: models that share them apply their own."""
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


class Bridge(nn.Module):
    """What VLRM trains and ships: query tokens, Q-Former, language projection, by their published names."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.query_tokens = model.query_tokens
        self.qformer = model.qformer
        self.language_projection = model.language_projection


class Blip2Captioner(nn.Module):
    """A `Captioner` on transformers' BLIP-2 with an OPT language model."""

    tower_key = TOWER
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        model: Blip2ForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: BlipImageProcessorPil,
    ) -> None:
        super().__init__()
        text: Any = model.config.text_config
        if text.model_type != "opt":
            raise ValueError(
                f"this BLIP-2 has a language model of the kind {text.model_type!r}, and only those with OPT "
                "can be driven; name one such as Salesforce/blip2-opt-2.7b"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.image_size = int(image_processor.size["height"])
        scale = (image_processor.image_mean, image_processor.image_std)
        mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in scale)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)
        self.all_ranks_finished: Callable[[bool], bool] = alone
        self._static_texts = StaticTexts()
        self._is_static: bool | None = None
        generation: Any = model.generation_config
        self.hidden_size = int(text.hidden_size)
        self.bos = int(_first(generation.bos_token_id, text.bos_token_id))
        self.pad = int(_first(generation.pad_token_id, text.pad_token_id))
        ends = _first(generation.eos_token_id, text.eos_token_id)
        self.ends: tuple[int, ...] = tuple(ends) if isinstance(ends, list) else (int(ends),)
        self.source: str = model.name_or_path or ""
        self.pieces = Pieces(tokenizer, end_ids=self.ends, source=self.source)
        self._language_layers = Recomputation(model.language_model)
        self._qformer_layers = Recomputation(model.qformer)
        self._freeze()
        read_in_part(self._decoder.layers[-1])

    @staticmethod
    def from_pretrained(
        folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Blip2Captioner:
        """Load a folder of the hub's format (or a hub name); frozen parts in `dtype`, the rest in float32.

        Raises:
            ValueError: the folder does not hold a whole BLIP-2 model with an OPT language model.
        """
        found = open_model(folder, BLIP2, dtype=dtype)
        return Blip2Captioner(found.model, found.words, found.images).to(device)

    def _freeze(self) -> None:
        self.model.requires_grad_(False)
        no_dropout(self.model)
        self.trainable_module().float().requires_grad_(True)

    def trainable_module(self) -> Bridge:
        """The trainable parts; they share their tensors with the model."""
        return Bridge(self.model)

    def enable_gradient_checkpointing(self, contexts: Contexts | None = None) -> None:
        """Recompute layers in the backward pass; `contexts` restore what they depended on (adapters)."""
        self._language_layers.enable(*([] if contexts is None else [contexts]))
        self._qformer_layers.enable()

    # -- seeing

    @torch.no_grad()
    def encode_images(self, images: Images) -> Images:
        """Add the tower's features under `TOWER`; images that have them are returned as they are."""
        if TOWER in images.features:
            return images
        return replace(images, features={**images.features, TOWER: self._tower(images.pixels)})

    def _tower(self, pixels: Tensor) -> Float[Tensor, "B N v"]:
        tower = self.model.vision_model
        values = (pixels.to(self.pixel_mean.device).float() / 255 - self.pixel_mean) / self.pixel_std
        embedded = tower.embeddings(values.to(tower.post_layernorm.weight.dtype))
        return tower.encoder(inputs_embeds=embedded).last_hidden_state

    def _image_prefix(self, images: Images) -> Float[Tensor, "B Q h"]:
        features = images.features.get(TOWER)
        if features is None:
            with torch.no_grad():
                features = self._tower(images.pixels)
        features = self.model.vision_model.post_layernorm(features).float()
        queries = self.model.query_tokens.expand(len(features), -1, -1)
        with self._qformer_layers.active():
            seen = self.model.qformer(query_embeds=queries, encoder_hidden_states=features).last_hidden_state
        return self.model.language_projection(seen).to(self._decoder.embed_tokens.weight.dtype)

    # -- the language model

    @property
    def _decoder(self) -> Any:
        return self.model.language_model.model.decoder

    @property
    def _head(self) -> Tensor:
        return self.model.language_model.lm_head.weight

    def _embed(self, ids: Tensor) -> Tensor:
        return self._decoder.embed_tokens(ids)

    def _context(self, prompt: Prompt) -> tuple[Float[Tensor, "B L h"], Bool[Tensor, "B L"] | None]:
        """Image, begin token and prompt text of each row, left-padded; no mask if nothing is padded."""
        if not isinstance(prompt.images, Images):
            raise ValueError("a caption needs images: Prompt.images is not an Images value")
        prefix = self._image_prefix(prompt.images)
        rows = [[self.bos, *self._text_ids(text)] for text in prompt.texts]
        longest = max(map(len, rows))
        ids = torch.tensor([[self.pad] * (longest - len(row)) + row for row in rows], device=prefix.device)
        texts = self._embed(ids)
        if all(len(row) == longest for row in rows):
            return torch.cat([prefix, texts], 1), None
        mask = torch.ones(len(rows), prefix.shape[1] + longest, dtype=torch.bool, device=prefix.device)
        context = torch.cat([prefix, texts], 1)
        order = torch.arange(context.shape[1], device=prefix.device)
        for index, row in enumerate(rows):
            gap = longest - len(row)
            mask[index, :gap] = False
            # The gap between image and text moves to the left end.
            moved = torch.cat([order[prefix.shape[1] : prefix.shape[1] + gap], order[: prefix.shape[1]]])
            context[index, : prefix.shape[1] + gap] = context[index, moved]
        return context, mask

    def _text_ids(self, text: str) -> list[int]:
        return text_ids(self.tokenizer, text)

    def _run(
        self, embeds: Tensor, mask: Tensor | None, cache: Cache | None = None, *, first: int = 0
    ) -> Tensor:
        """Last hidden states from the position `first` on."""
        # transformers takes the cache from a layer that is recomputed, so such a layer runs in full.
        recomputed = self._language_layers.enabled and torch.is_grad_enabled()
        out = self._decoder(
            inputs_embeds=embeds,
            attention_mask=None if mask is None else mask.long(),
            use_cache=cache is not None,
            **cache_argument(cache),
            **({READ_FROM: first} if first and not recomputed else {}),
        )
        return out.last_hidden_state[:, first - embeds.shape[1] :]

    def _read(self, turn: Turn, *, through_bridge: bool) -> Float[Tensor, "B L h"]:
        """The hidden state before the first token and after each one, T + 1 positions; where no gradient is
        asked for, 0 behind the last token that counts.
        """
        if torch.is_grad_enabled():
            return self._read_rows(turn, through_bridge=through_bridge)
        size, width = turn.tokens.ids.shape
        hidden = self._head.new_zeros(size, width + 1, self._head.shape[1])
        for rows, length in like_lengths(turn.tokens.mask):
            part = turn.rows(rows)
            shorter = Tokens(ids=part.tokens.ids[:, :length], mask=part.tokens.mask[:, :length])
            hidden[rows, : length + 1] = self._read_rows(replace(part, tokens=shorter), through_bridge=False)
        return hidden

    def _read_rows(self, turn: Turn, *, through_bridge: bool) -> Float[Tensor, "B L h"]:
        with torch.set_grad_enabled(through_bridge and torch.is_grad_enabled()):
            context, mask = self._context(turn.prompt)
        embeds = torch.cat([context, self._embed(turn.tokens.ids)], 1)
        if mask is not None:
            mask = F.pad(mask, (0, turn.tokens.ids.shape[1]), value=True)
        with self._language_layers.active():
            return self._run(embeds, mask, first=context.shape[1] - 1)

    # -- the policy

    def sample(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """Draw captions; the prompt's seeds decide the draws if given."""
        with torch.no_grad():
            context, mask = self._context(prompt)
        writer, steps, seeds = self._writer(), self._steps(), prompt.seeds
        is_static = accelerator.can_record(context.device) if self._is_static is None else self._is_static
        if steps is None or not is_static or not self._static_texts.takes(writer, context, sampling):
            return draw_tokens(writer, context, mask=mask, sampling=sampling, seeds=seeds)
        decoder = FixedDecoder(step=steps.at, weights=self.model.language_model.parameters)
        return self._static_texts.draw(writer, decoder, context, mask=mask, sampling=sampling, seeds=seeds)

    def enable_decode_graphs(self, on: bool = True) -> None:
        """Draw in steps of fixed shapes, or never do; by default a CUDA device does, which replays a recorded
        graph for each token (unmeasured). Sharded weights, which are gathered by the host, never do.
        """
        self._is_static = on

    def _steps(self) -> OptSteps | None:
        # Sharded weights are whole only inside their layers' own calls.
        by_steps = OptSteps.fits(self._decoder) and self.all_ranks_finished is alone
        return OptSteps(self._decoder) if by_steps else None

    def _writer(self) -> TextDecoder:
        steps = self._steps()

        def decode(embeds: Tensor, mask: Tensor | None, cache: Cache) -> Tensor:
            if steps is not None and embeds.shape[1] == 1:
                position = cache.get_seq_length() if mask is None else mask.sum(1) - 1
                return steps(steps.placed(embeds[:, 0], position), cache, mask)[:, None]
            return self._run(embeds, mask, cache, first=embeds.shape[1] - 1)

        return TextDecoder(
            decoder=decode,
            embed=self._embed,
            head=lambda hidden: hidden @ self._head.T,
            num_layers=len(self._decoder.layers),
            ends=self.ends,
            pad=self.pad,
            source=self.source,
            all_ranks_finished=self.all_ranks_finished,
        )

    def score(self, turn: Turn, under: Sampling | None = None) -> TokenScores:
        """Log-probabilities under the model's own distribution (None), or under a temperature and top-k."""
        mask = turn.tokens.mask
        hidden = self._read(_without_last(turn), through_bridge=True)
        return _scattered(
            mask, *token_log_probs(hidden[mask], self._head, turn.tokens.ids[mask], under=under)
        )

    @torch.no_grad()
    def reference_log_probs(self, tokens: Tokens) -> Float[Tensor, "B T"]:
        """What the frozen language model says of the text alone, after its begin token."""
        mask = tokens.mask
        read = torch.cat([torch.full_like(tokens.ids[:, :1], self.bos), tokens.ids[:, :-1]], 1)
        hidden = self._head.new_zeros(*mask.shape, self._head.shape[1])
        for rows, length in like_lengths(mask):
            hidden[rows, :length] = self._run(self._embed(read[rows, :length]), None)
        found = _scattered(mask, *token_log_probs(hidden[mask], self._head, tokens.ids[mask]))
        return require_numbers(found.log_probs, self.source)

    def encode(self, texts: list[str]) -> Tokens:
        """Words of given captions with the end token, right-padded."""
        rows = [[*self._text_ids(text), self.ends[0]] for text in texts]
        return token_batch(rows, pad=self.pad, device=self._head.device)

    def decode(self, tokens: Tokens) -> list[list[str]]:
        """The text of each token up to the end token, which has none."""
        return self.pieces(tokens)

    def is_end(self, tokens: Tokens) -> Bool[Tensor, "B T"]:
        """True where a token that counts is an end token."""
        return torch.isin(tokens.ids, torch.tensor(self.ends, device=tokens.ids.device)) & tokens.mask

    @torch.no_grad()
    def write(
        self,
        images: Images,
        *,
        prompt: str = "",
        beams: int = 5,
        no_repeat_ngram: int = 2,
        min_tokens: int = 4,
        max_tokens: int = 60,
    ) -> list[str]:
        """Captions by beam search; the defaults are the paper's (table 2). 1 beam and no n-gram rule is
        greedy.
        """
        context, _ = self._context(Prompt(texts=[prompt] * len(images), images=images))
        read = [self.bos, *self._text_ids(prompt)]
        # Embeddings stand for them; the n-gram rule reads the prompt's words here.
        before = torch.tensor([self.pad] * (context.shape[1] - len(read)) + read, device=context.device)
        rules = Rules(
            beams=beams, no_repeat_ngram=no_repeat_ngram, min_tokens=min_tokens, max_tokens=max_tokens
        )
        ids = write_texts(self._writer(), context, before.expand(len(images), -1), rules)
        written = [[id for id in row if id not in self.ends] for row in ids]
        return [text.strip() for text in self.tokenizer.batch_decode(written, skip_special_tokens=True)]

    # -- the critic's trunk

    def trunk_linears(self) -> dict[str, nn.Linear]:
        """All six linear layers of every OPT layer."""
        return self.linears_of(self.model)

    @staticmethod
    def linears_of(model: Blip2ForConditionalGeneration) -> dict[str, nn.Linear]:
        """The same of a model that is no policy (yet)."""
        named = model.language_model.model.decoder.layers.named_modules()
        return {
            name: part
            for name, part in named
            if isinstance(part, nn.Linear) and name.rsplit(".", 1)[-1] in LORA_TARGETS
        }

    def shard_units(self) -> list[nn.Module]:
        """The frozen layers whose weights may be spread over ranks."""
        return [*self.model.vision_model.encoder.layers, *self._decoder.layers]

    @property
    def tower(self) -> nn.Module:
        """The frozen vision tower."""
        return self.model.vision_model

    def prepares_like(self, mean: tuple[float, ...], std: tuple[float, ...], size: int) -> bool:
        """Whether pixels are prepared as another network wants them, so that tower features can be shared."""
        ours = (self.pixel_mean.flatten().tolist(), self.pixel_std.flatten().tolist())
        close = all(
            abs(one - other) < 1e-4
            for numbers, others in zip(ours, (mean, std), strict=True)
            for one, other in zip(numbers, others, strict=True)
        )
        return close and size == self.image_size

    def hidden_states(self, turn: Turn, position: ValuePosition = "pre") -> Float[Tensor, "B T h"]:
        """Last hidden state before (`pre`) or after (`post`) each token; no gradient into the bridge."""
        if position == "pre":
            return self._read(_without_last(turn), through_bridge=False)
        return self._read(turn, through_bridge=False)[:, 1:]


def _without_last(turn: Turn) -> Turn:
    # Nothing is predicted from the last token.
    tokens = turn.tokens
    return replace(turn, tokens=Tokens(ids=tokens.ids[:, :-1], mask=tokens.mask[:, 1:]))


def _first(*values: Any) -> Any:
    for value in values:
        if value is not None:
            return value
    raise ValueError(
        "the checkpoint names no begin, end or padding token in generation_config or text_config"
    )


def _scattered(mask: Tensor, log_probs: Tensor, entropy: Tensor) -> TokenScores:
    blank = torch.zeros(mask.shape, device=mask.device)
    return TokenScores(
        log_probs=blank.masked_scatter(mask, log_probs), entropy=blank.masked_scatter(mask, entropy)
    )
