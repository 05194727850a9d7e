"""Janus (transformers' `JanusForConditionalGeneration`) as a policy that draws and answers.

Janus: arXiv 2410.13848, Janus-Pro: arXiv 2501.17811. Vision tower, its aligner and the VQ model stay frozen.
What learns is low-rank adapters over the language model, or the language model with the two parts that read
and write codes. transformers' own `generate` can neither draw without guidance nor tell log-probabilities, so
drawing is done here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import (
    JanusForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from sightloop.models.checkpointing import Recomputation, no_dropout
from sightloop.models.decoding.code_likelihood import (
    code_log_probs,
    relaxed_codes,
    require_relaxable,
    unit_exponentials,
)
from sightloop.models.decoding.sampling import token_log_probs
from sightloop.models.decoding.token_pieces import Pieces, token_batch
from sightloop.models.deduplicate import image_keys
from sightloop.models.janus.answers import JanusAnswers
from sightloop.models.janus.body import JanusBody
from sightloop.models.janus.conversation import JanusStrings, changed, strings_of_processor
from sightloop.models.janus.images import ImagePreparation, JanusImages
from sightloop.models.janus.prompts import JanusPrompts
from sightloop.models.janus.sampling import JanusDrawing
from sightloop.models.lora import Adapters
from sightloop.models.mixed_precision import MixedPrecision, keep_frozen_in
from sightloop.models.only_numbers import require_drawn
from sightloop.models.prompt_strings import answer_ids
from sightloop.models.transformers_internals import attention_of
from sightloop.types import Images, Prompt, Sampling, Tokens, TokenScores, Turn

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class JanusSettings:
    """What of Janus learns, and how it reads prompts."""

    trained: Literal["lora", "full"] = "lora"
    """Adapters over the language model, or the language model itself."""
    lora_rank: int = 16
    lora_alpha: float | None = None
    """None = twice the rank."""
    lora_targets: tuple[str, ...] = LORA_TARGETS
    """Last names of the adapted linear layers. They are looked for in the language model alone."""
    generation_head: bool = True
    """Full training: what turns hidden states into codes learns too."""
    generation_aligner: bool = True
    """Full training: what turns codes into the language model's input learns too."""
    embeddings: bool = False
    """Full training: embeddings of words and codes and the head for words learn too."""
    guidance: float | None = None
    """Of drawings; None = as the checkpoint's generation_config says, 5 where it says nothing."""
    drawing_template: str | None = None
    """The string that asks for an image, with `{prompt}`; None = the checkpoint's."""
    answer_template: str | None = None
    """The string that asks about an image, with `{image}` and `{prompt}`; None = the checkpoint's."""
    frame: tuple[str, str] = ("<begin_of_image>", "<end_of_image>")
    """Tokens before and after an image."""

    def __post_init__(self) -> None:
        if self.trained not in ("lora", "full"):
            raise ValueError(f"trained is {self.trained!r}; use 'lora' or 'full'")
        if self.trained == "lora" and self.embeddings:
            raise ValueError("embeddings learn with trained='full' only; adapters leave them frozen")


_OFFICIAL_GUIDANCE = 5.0


class FullPart(nn.Module):
    """What full training changes; it shares its tensors with the model."""

    def __init__(self, model: Any, settings: JanusSettings) -> None:
        super().__init__()
        core = model.model
        self.layers, self.norm = core.language_model.layers, core.language_model.norm
        if settings.generation_head:
            self.generation_head = core.generation_head
        if settings.generation_aligner:
            self.generation_aligner = core.generation_aligner
        if settings.embeddings:
            self.embed_tokens, self.lm_head = core.language_model.embed_tokens, model.lm_head
            self.generation_embeddings = core.generation_embeddings


class Janus(nn.Module):
    """An `ImageGenerator` on Janus and Janus-Pro of any size."""

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin | PreTrainedTokenizerBase,
        *,
        settings: JanusSettings | None = None,
        strings: JanusStrings | None = None,
    ) -> None:
        """`strings` None = those of the processor's chat template, else Janus-Pro's without system prompt."""
        super().__init__()
        settings = JanusSettings() if settings is None else settings
        _check(model)
        self.settings = settings
        self.model: Any = model.eval().requires_grad_(False)
        no_dropout(model)
        given: Any = processor
        self.tokenizer = cast(
            "PreTrainedTokenizerBase", given.tokenizer if isinstance(given, ProcessorMixin) else given
        )
        self.image_codec = JanusImages(model, _preparation(processor))
        self.num_image_tokens = self.image_codec.num_image_tokens
        self.prompts = JanusPrompts(
            self.tokenizer,
            image=self.model.config.image_token_id,
            num_places=self.image_codec.num_places,
            frame=settings.frame,
            strings=changed(
                strings_of_processor(given, self.tokenizer) if strings is None else strings,
                drawing=settings.drawing_template,
                asking=settings.answer_template,
                names=("drawing_template", "answer_template"),
            ),
        )
        self.end = self.prompts.id("eos_token", self.tokenizer.eos_token)
        self.source: str = model.name_or_path or ""
        self.pieces = Pieces(self.tokenizer, end_ids=(self.end,), source=self.source)
        body = JanusBody(model, pad=self.prompts.pad)
        self.drawings = JanusDrawing(
            body, self.prompts, num_tokens=self.num_image_tokens, num_codes=self.image_codec.num_codes
        )
        self.answers = JanusAnswers(body, self.prompts, self.image_codec)
        self._recomputation = Recomputation(self._language)
        self.mixed = MixedPrecision()
        self.adapters: Adapters | None = None
        if settings.trained == "lora":
            alpha = 2 * settings.lora_rank if settings.lora_alpha is None else settings.lora_alpha
            self.adapters = Adapters(self._targets(), rank=settings.lora_rank, alpha=alpha)
            self.adapters.active = True
        self.trainable_module().float().requires_grad_(True)

    # -- the parts

    @property
    def _language(self) -> nn.Module:
        return self.model.model.language_model

    @property
    def _head(self) -> Tensor:
        return self.model.lm_head.weight

    def trainable_module(self) -> nn.Module:
        """What an optimizer may change: the adapters, or the parts that full training names."""
        return FullPart(self.model, self.settings) if self.adapters is None else self.adapters

    def trunk_linears(self) -> dict[str, nn.Linear]:
        """The linear layers of the language model; towers and heads are not among them."""
        parts = self._language.named_modules()
        return {name: part for name, part in parts if isinstance(part, nn.Linear)}

    def _targets(self) -> dict[str, nn.Linear]:
        linears, wanted = self.trunk_linears(), self.settings.lora_targets
        last_names = {name.rsplit(".", 1)[-1] for name in linears}
        unknown = sorted(set(wanted) - last_names)
        if unknown or not wanted:
            raise ValueError(f"lora_targets has {unknown or 'nothing'}; there are {sorted(last_names)}")
        return {name: linear for name, linear in linears.items() if name.rsplit(".", 1)[-1] in wanted}

    def adapters_off(self) -> AbstractContextManager[None]:
        """The model from before training, inside the context.

        Raises:
            ValueError: the language model itself is trained.
        """
        if self.adapters is None:
            raise ValueError("trained='full' has no adapters to switch off; keep a frozen copy instead")
        return self.adapters.switched(False)

    def compute_in(self, dtype: torch.dtype) -> None:
        """Products of what is trained in `dtype` from weights in float32; what stays frozen is kept in it."""
        self.mixed.dtype = dtype
        keep_frozen_in(self.model, dtype)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the language model's layers in the backward pass."""
        self._recomputation.enable(*([] if self.adapters is None else [self.adapters.checkpoint_contexts]))

    def enable_decode_graphs(self) -> None:
        """Draw in steps of fixed shapes; a CUDA device replays a recorded graph for each code (unmeasured).

        Not for sharded weights, which are gathered by the host.

        Raises:
            ValueError: the attention cannot read masks of fixed shapes.
        """
        attention = attention_of(self.model.config.text_config)
        if attention != "sdpa":
            raise ValueError(
                f"attention is {attention!r}, which cannot read masks of fixed shapes; load the model with "
                "attn_implementation='sdpa'"
            )
        self.drawings.is_static = True

    @property
    def all_ranks_finished(self) -> Callable[[bool], bool]:
        """Whether all ranks are done: with sharded weights they must take the same steps."""
        return self.answers.all_ranks_finished

    @all_ranks_finished.setter
    def all_ranks_finished(self, ask: Callable[[bool], bool]) -> None:
        """Ask this before every drawn word."""
        self.answers.all_ranks_finished = ask

    # -- images

    @torch.no_grad()
    def encode_images(self, images: Images) -> Images:
        """Add what the frozen tower sees; images that have it are returned as they are."""
        if self.image_codec.key in images.features:
            return images
        images = replace(images, keys=image_keys(images))
        seen, places = self.image_codec.see(images)
        return replace(images, features={**images.features, self.image_codec.key: seen[places]})

    def understanding_input(self, tokens: Tokens) -> Images:
        """Images of image tokens with what the tower sees: decoded once for all passes."""
        return self.encode_images(self.pixels(tokens))

    def pixels(self, tokens: Tokens) -> Images:
        """Images of image tokens, rounded as the official code rounds them."""
        return self.image_codec.pixels(tokens)

    def image_tokens(self, images: Images) -> Tokens:
        """The codes of images of any size; all count."""
        ids = self.image_codec.codes(images)
        return Tokens(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool))

    # -- the policy

    def default_sampling(self, **changes: Any) -> Sampling:
        """The official distribution for images, temperature 1 over all codes, with the checkpoint's
        guidance."""
        return Sampling(**{"max_tokens": self.num_image_tokens, "guidance": self._guidance(), **changes})

    def _guidance(self) -> float:
        if self.settings.guidance is not None:
            return self.settings.guidance
        saved = self.model.generation_config.guidance_scale
        return _OFFICIAL_GUIDANCE if saved is None else float(saved)

    def sample(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """Draw images or answers; the prompt's seeds decide the draws if given.

        Raises:
            ValueError: the distribution or the prompt does not fit what is wanted.
        """
        require_relaxable(sampling)
        if sampling.decode_steps is not None:
            raise ValueError(f"decode_steps is {sampling.decode_steps}; Janus draws one token after another")
        if prompt.wants == "text":
            _check_words(sampling)
            with torch.no_grad(), self.mixed.active(self._head.device):
                return self.answers.draw(prompt, sampling, head=self._word_logits, ends=(self.end,))
        self._check_drawing(prompt)
        if sampling.max_tokens != self.num_image_tokens:
            raise ValueError(
                f"max_tokens is {sampling.max_tokens}; an image of this model has {self.num_image_tokens}"
            )
        with self.mixed.active(self._head.device):
            tokens = self.drawings.draw(prompt.texts, sampling, prompt.seeds)
        if sampling.relaxation is None:
            return tokens
        self._check_codes(tokens)
        with self._recomputation.active(), self.mixed.active(self._head.device):
            logits = self.drawings.logits(prompt.texts, tokens.ids, sampling)
        noise = unit_exponentials(logits.shape, prompt.seeds, skip=self.num_image_tokens).to(logits.device)
        return replace(tokens, one_hot=relaxed_codes(logits, tokens.ids, noise, sampling=sampling))

    def score(self, turn: Turn, under: Sampling | None = None) -> TokenScores:
        """Log-probabilities under the model's own distribution (None: no guidance), or under that of
        `under`."""
        tokens = turn.tokens
        with self._recomputation.active(), self.mixed.active(self._head.device):
            if turn.prompt.wants == "image":
                self._check_drawing(turn.prompt)
                self._check_codes(tokens)
                log_probs, entropy = self.drawings.scores(turn.prompt.texts, tokens, under)
            else:
                if under is not None:
                    _check_words(under)
                log_probs, entropy = self._answer_scores(turn, under)
        blank = torch.zeros(tokens.mask.shape, device=tokens.mask.device)
        return TokenScores(
            log_probs=blank.masked_scatter(tokens.mask, log_probs),
            entropy=blank.masked_scatter(tokens.mask, entropy),
        )

    def _answer_scores(self, turn: Turn, under: Sampling | None) -> tuple[Tensor, Tensor]:
        mask = turn.tokens.mask
        ids = turn.tokens.ids.masked_fill(~mask, self.prompts.pad)
        hidden = self.answers.hidden(turn.prompt, ids)[mask]
        if self._head.requires_grad:
            return code_log_probs(self._word_logits, (hidden,), ids[mask], under=under, rows_at_once=64)
        return token_log_probs(hidden, self._head, ids[mask], under=under)

    def _word_logits(self, hidden: Float[Tensor, "N h"]) -> Float[Tensor, "N V"]:
        return hidden.to(self._head.dtype) @ self._head.T

    def _check_drawing(self, prompt: Prompt) -> None:
        if prompt.images is not None:
            raise ValueError(
                "Janus draws an image from its first token to its last and keeps none of another; leave "
                "the prompt's images out"
            )

    def _check_codes(self, tokens: Tokens) -> None:
        if tokens.ids.shape[1] > self.num_image_tokens:
            raise ValueError(f"{tokens.ids.shape[1]} tokens; an image has {self.num_image_tokens}")
        outside = (tokens.ids < 0) | (tokens.ids >= self.image_codec.num_codes)
        if bool((outside & tokens.mask).any()):
            counted = tokens.ids[tokens.mask]
            require_drawn(int(counted.min()), self.source, "images")
            raise ValueError(
                f"image tokens are {int(counted.min())} to {int(counted.max())}; there are "
                f"{self.image_codec.num_codes} codes"
            )

    @property
    def templates(self) -> dict[str, str]:
        """The strings around prompts and questions, for records."""
        return self.prompts.strings.described()

    def encode(self, texts: list[str]) -> Tokens:
        """Words of given answers as they stand behind a question, with the end token, right-padded."""
        mark = self.prompts.strings.asking.after
        rows = [[*answer_ids(self.tokenizer, text, behind=mark), self.end] for text in texts]
        return token_batch(rows, pad=self.prompts.pad, device=self._head.device)

    def decode(self, tokens: Tokens) -> list[list[str]]:
        """The text of each word of an answer; the end token has none."""
        return self.pieces(tokens)

    def is_end(self, tokens: Tokens) -> Bool[Tensor, "B T"]:
        """True where a word that counts is the end token."""
        return (tokens.ids == self.end) & tokens.mask


def _check(model: Any) -> None:
    kind: type = type(model)
    if not issubclass(kind, JanusForConditionalGeneration):
        raise ValueError(
            f"{kind.__name__} has no head for image tokens that Janus knows; give a "
            "JanusForConditionalGeneration"
        )
    outputs = model.model.generation_head.vision_head.out_features
    codes = model.config.vq_config.num_embeddings
    if outputs != codes:
        raise ValueError(f"the generation head knows {outputs} codes and the VQ model {codes}")


def _check_words(sampling: Sampling) -> None:
    if sampling.guidance:
        raise ValueError(f"guidance is {sampling.guidance}; it guides images, use 0 for answers")
    if sampling.relaxation is not None:
        raise ValueError(f"relaxation is {sampling.relaxation}; it relaxes images, use None for answers")


def _preparation(processor: Any) -> ImagePreparation:
    if not isinstance(processor, ProcessorMixin):
        return ImagePreparation()
    images: Any = cast("Any", processor).image_processor
    return ImagePreparation(
        mean=tuple(images.image_mean), std=tuple(images.image_std), min_size=int(images.min_size)
    )
