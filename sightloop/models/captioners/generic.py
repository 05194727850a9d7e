"""Any image-text-to-text model of transformers as a captioning policy that trains low-rank adapters.

The model runs composed from its parts, the frozen tower once an image (`from_parts.py`), or as a whole from
pixels in every pass (`end_to_end.py`). Adapters off = the reference; a critic reads the reference and brings
adapters of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from sightloop.models.captioners.end_to_end import WholeModel
from sightloop.models.captioners.from_parts import ComposedModel
from sightloop.models.captioners.prompt_reader import PromptReader
from sightloop.models.checkpointing import Recomputation, no_dropout
from sightloop.models.decoding.beams import Rules
from sightloop.models.decoding.sampling import token_log_probs
from sightloop.models.decoding.token_pieces import Pieces
from sightloop.models.lora import Adapters
from sightloop.models.only_numbers import require_numbers
from sightloop.models.open import IMAGE_TO_TEXT, open_model
from sightloop.models.protocols import Contexts, ValuePosition
from sightloop.models.written_text import text_ids
from sightloop.terminal import say
from sightloop.types import Images, Prompt, Sampling, Tokens, TokenScores, Turn

ANY_SIZE = 448
"""Side of the images in pixels for models that take any size."""
_FOLDED_AT_MOST = 2**28
"""Adapted weights that are copied to draw faster: 1 GiB in float32."""


@dataclass(frozen=True, kw_only=True)
class CaptionerSettings:
    """How a captioner reads prompts and images, and what of it is trained."""

    lora_alpha: float | None = None
    """None = twice the rank."""
    lora_targets: tuple[str, ...] | None = None
    """Last names of the adapted linear layers (`q_proj`); None = all of the language model."""
    template: str | None = None
    """The whole prompt, with `{prompt}` and the model's image token in it; None = the model's chat
    template, or the image and then the prompt where it has none."""
    image_size: int | None = None
    """Side of the images in pixels; None = as the vision tower's configuration says."""
    reuse_features: bool = True
    """Run the frozen tower once an image, where the model can be composed that way; False runs the whole
    model in every pass."""


class GenericCaptioner(nn.Module):
    """A `Captioner` on any transformers model that reads an image and writes text."""

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        lora_rank: int = 16,
        settings: CaptionerSettings | None = None,
    ) -> None:
        super().__init__()
        settings = CaptionerSettings() if settings is None else settings
        self.model: Any = model.eval().requires_grad_(False)
        no_dropout(model)
        self.settings = settings
        self.tokenizer = cast("Any", processor).tokenizer
        config = model.config.to_dict()
        self.image_token: int = config.get("image_token_id") or config.get("image_token_index") or -1
        self._check(self.model)
        self.image_size: int = settings.image_size or _side(config["vision_config"].get("image_size"))
        self.hidden_size = int(model.config.get_text_config().hidden_size)
        self._read_special_tokens()
        self.source: str = model.name_or_path or ""
        self.pieces = Pieces(self.tokenizer, end_ids=self.ends, source=self.source)
        reader = PromptReader(
            processor, model.base_model, image_token=self.image_token, template=settings.template
        )
        self._whole = WholeModel(model, reader, pad=self.pad, stops=self.stops)
        self._composed = ComposedModel(model, reader, pad=self.pad, stops=self.stops)
        self._way: ComposedModel | WholeModel = self._composed if settings.reuse_features else self._whole
        self._adapted = self._targets(settings.lora_targets)
        alpha = 2 * lora_rank if settings.lora_alpha is None else settings.lora_alpha
        self.adapters = Adapters(self._adapted, rank=lora_rank, alpha=alpha)
        self._sharded = False
        self._recomputation = Recomputation(self._language)

    @staticmethod
    def from_pretrained(
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        lora_rank: int = 16,
        settings: CaptionerSettings | None = None,
    ) -> GenericCaptioner:
        """Load a folder of the hub's format (or a hub name); frozen weights in `dtype`, adapters in float32.

        Raises:
            ValueError: the checkpoint is not a whole image-to-text model, or none that can be driven.
        """
        found = open_model(folder, IMAGE_TO_TEXT, dtype=dtype)
        captioner = GenericCaptioner(found.model, found.processor, lora_rank=lora_rank, settings=settings)
        return captioner.to(device)

    def _check(self, model: Any) -> None:
        kind = model.config.model_type
        if model.base_model is model or self.image_token < 0:
            raise ValueError(
                f"{kind!r} does not place its images among the prompt's tokens; it needs a captioner "
                "of its own (BLIP-2 has models/captioners/blip2.py)"
            )
        head = model.get_output_embeddings()
        if not isinstance(head, nn.Linear) or head.bias is not None:
            raise ValueError(
                f"the language-model head of {kind!r} is not a plain matrix; it cannot be scored"
            )

    def _read_special_tokens(self) -> None:
        tokenizer = self.tokenizer
        ends: int | list[int] | None = self.model.generation_config.eos_token_id
        if ends is None:
            ends = tokenizer.eos_token_id
        if ends is None:
            raise ValueError("neither generation_config nor tokenizer names an end token")
        self.ends: tuple[int, ...] = tuple(ends) if isinstance(ends, list) else (ends,)
        self.end: int = tokenizer.eos_token_id if tokenizer.eos_token_id in self.ends else self.ends[0]
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(self.end)
        self.pad: int = tokenizer.convert_tokens_to_ids(tokenizer.pad_token)
        self.begin: int = self.end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        # A drawn image token has no image behind it: a text that asks for one stops there, unfinished.
        self.stops = (*self.ends, self.image_token)

    def _targets(self, names: tuple[str, ...] | None) -> dict[str, nn.Linear]:
        linears = self.trunk_linears()
        if names is None:
            return linears
        last_names = {name: name.rsplit(".", 1)[-1] for name in linears}
        unknown = sorted(set(names) - set(last_names.values()))
        if unknown:
            raise ValueError(f"lora_targets has {unknown}; there are {sorted(set(last_names.values()))}")
        return {name: linear for name, linear in linears.items() if last_names[name] in names}

    # -- the parts

    @property
    def _language(self) -> nn.Module:
        return self.model.base_model.get_decoder()

    @property
    def _head(self) -> Tensor:
        return self.model.get_output_embeddings().weight

    @property
    def all_ranks_finished(self) -> Callable[[bool], bool]:
        """Whether all ranks are done: with sharded weights they must take the same steps."""
        return self._composed.all_ranks_finished

    @all_ranks_finished.setter
    def all_ranks_finished(self, ask: Callable[[bool], bool]) -> None:
        """Ask this before every drawn token."""
        self._composed.all_ranks_finished = ask
        self._whole.sharded = True
        self._sharded = True

    def prompt_text(self, prompt: str) -> str:
        """What the processor reads for a prompt, the image's place in it."""
        return self._composed.reader.text(prompt)

    def begins(self, text: str) -> bool:
        """Whether such a text starts with the begin token, so that the processor must not add one."""
        return self._composed.reader.begins(text)

    def trainable_module(self) -> Adapters:
        """The trainable part: the policy's adapters."""
        return self.adapters

    def trunk_linears(self) -> dict[str, nn.Linear]:
        """All linear layers of the language model, the head not among them."""
        head = self.model.get_output_embeddings()
        parts = self._language.named_modules()
        return {name: part for name, part in parts if isinstance(part, nn.Linear) and part is not head}

    def shard_units(self) -> list[nn.Module]:
        """The frozen layers whose weights may be spread over ranks."""
        return cast("list[nn.Module]", list(self._recomputation.layers))

    def enable_gradient_checkpointing(self, contexts: Contexts | None = None) -> None:
        """Recompute layers in the backward pass; `contexts` restores a critic's adapters there."""
        own = self.adapters.checkpoint_contexts
        self._recomputation.enable(*([own] if contexts is None else [own, contexts]))
        self._composed.recomputes = True

    @torch.no_grad()
    def encode_images(self, images: Images) -> Images:
        """Add the frozen tower's features; images that have them are returned as they are."""
        return self._composed.encode_images(images) if self._chosen() is self._composed else images

    def _chosen(self, prompt: Prompt | None = None) -> ComposedModel | WholeModel:
        """The way in which this model runs, which its parts and the first prompt decide."""
        objection = None
        if self._way is self._composed:
            objection = self._composed.unfit
            if objection is None and prompt is not None:
                objection = self._composed.objection(prompt)
        if objection is not None:
            say(
                f"{objection}: it runs whole in every pass, its vision tower too, which takes longer",
                is_error=True,
            )
            self._way = self._whole
        return self._way

    def _settled(self, prompt: Prompt) -> ComposedModel | WholeModel:
        """The same, once it is known that what this way writes it also reads."""
        way = self._chosen(prompt)
        if way is self._whole:
            self._whole.compare(prompt)
        return way

    def _hidden(self, turn: Turn) -> tuple[Float[Tensor, "B L h"], int]:
        way = self._settled(turn.prompt)
        with self._recomputation.active():
            return way.hidden(turn)

    @contextmanager
    def _folded(self) -> Iterator[None]:
        """Adapters on inside, as part of the weights where that is exact and cheap.

        A small model spends most of its time on calls, and adapters are more than half of them.
        """
        weights = [linear.weight for linear in self._adapted.values()]
        exact = all(weight.dtype == torch.float32 for weight in weights)
        if self._sharded or not exact or sum(map(torch.numel, weights)) > _FOLDED_AT_MOST:
            with self.adapters.switched(True):
                yield
            return
        frozen = [weight.data for weight in weights]
        pairs = zip(self.adapters.up.values(), self.adapters.down.values(), strict=True)
        try:
            for weight, (up, down) in zip(weights, pairs, strict=True):
                weight.data = torch.addmm(weight.data, up, down, alpha=self.adapters.scale)
            with self.adapters.switched(False):
                yield
        finally:
            for weight, data in zip(weights, frozen, strict=True):
                weight.data = data

    # -- the policy

    @torch.no_grad()
    def sample(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """Draw captions; the prompt's seeds decide the draws if given."""
        way = self._settled(prompt)
        with self._folded():
            return way.draw(prompt, sampling)

    def score(self, turn: Turn, under: Sampling | None = None) -> TokenScores:
        """Log-probabilities under the model's own distribution (None), or under a temperature and top-k."""
        tokens, mask = turn.tokens, turn.tokens.mask
        shorter = replace(turn, tokens=Tokens(ids=tokens.ids[:, :-1], mask=mask[:, :-1]))
        with self.adapters.switched(True):
            hidden, start = self._hidden(shorter)
        predicting = hidden[:, start : start + mask.shape[1]]
        return self._scores(predicting, tokens, under)

    @torch.no_grad()
    def reference_log_probs(self, tokens: Tokens) -> Float[Tensor, "B T"]:
        """What the language model says of the text alone, adapters off, after its begin token.

        Models without a begin token start from their end token, as texts do in pretraining.
        """
        ids = F.pad(tokens.ids[:, :-1], (1, 0), value=self.begin)
        scores = self._scores(self._composed.hidden_of_text(ids), tokens, None)
        return require_numbers(scores.log_probs, self.source)

    def _scores(self, hidden: Tensor, tokens: Tokens, under: Sampling | None) -> TokenScores:
        mask = tokens.mask
        log_probs, entropy = token_log_probs(hidden[mask], self._head, tokens.ids[mask], under=under)
        blank = torch.zeros(mask.shape, device=mask.device)
        return TokenScores(
            log_probs=blank.masked_scatter(mask, log_probs), entropy=blank.masked_scatter(mask, entropy)
        )

    def hidden_states(self, turn: Turn, position: ValuePosition = "pre") -> Float[Tensor, "B T h"]:
        """Last hidden state before (`pre`) or after (`post`) each token; the policy's adapters are off."""
        with self.adapters.switched(False):
            hidden, start = self._hidden(turn)
        first = start if position == "pre" else start + 1
        return hidden[:, first : first + turn.tokens.ids.shape[1]]

    def encode(self, texts: list[str]) -> Tokens:
        """Words of given captions with the end token, right-padded."""
        rows = [[*text_ids(self.tokenizer, text), self.end] for text in texts]
        longest, device = max(map(len, rows)), self._head.device
        ids = torch.tensor([row + [self.pad] * (longest - len(row)) for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        return Tokens(ids=ids, mask=torch.arange(longest, device=device)[None] < lengths[:, None])

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
        """Captions by beam search; 1 beam and no n-gram rule is greedy."""
        asked = Prompt(texts=[prompt] * len(images), images=images)
        rules = Rules(
            beams=beams,
            no_repeat_ngram=no_repeat_ngram,
            min_tokens=min_tokens,
            max_tokens=max_tokens,
            never=(self.image_token,),
        )
        way = self._chosen(asked)
        with self._folded():
            ids = way.write(asked, rules)
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def _side(told: int | list[int] | tuple[int, ...] | None) -> int:
    """The side of square images for a tower that tells one number, height and width, or nothing."""
    return (max(told) if isinstance(told, list | tuple) else told) or ANY_SIZE
