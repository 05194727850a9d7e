"""What all captioners over models of transformers share: adapters, likelihoods, words in and out.

A subclass knows how its model is run (a `Way`). Adapters off = the reference; a critic reads the reference
and brings adapters of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from sightloop.models.checkpointing import Recomputation, no_dropout
from sightloop.models.decoding.beams import Rules
from sightloop.models.decoding.sampling import token_log_probs
from sightloop.models.decoding.token_pieces import Pieces, token_batch
from sightloop.models.lora import Adapters, adaptable, is_transposed
from sightloop.models.only_numbers import require_numbers
from sightloop.models.protocols import Contexts, ValuePosition
from sightloop.models.written_text import text_ids
from sightloop.types import Images, Prompt, Sampling, Tokens, TokenScores, Turn

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
    """Side of square images in pixels; None = images in their own shapes, as the model's processor makes
    its input of them."""
    reuse_features: bool = True
    """Run the frozen tower once an image, where the model can be composed that way; False runs the whole
    model in every pass."""


class Way(Protocol):
    """One way to run a model on prompts with images."""

    def draw(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """Draw one text a row."""
        ...

    def write(self, prompt: Prompt, rules: Rules) -> list[list[int]]:
        """The new tokens of one text a row, written by these rules; all rows ask the same."""
        ...

    def hidden(self, turn: Turn) -> tuple[Float[Tensor, "B L h"], int]:
        """What the head reads, up to the last token, and the position that predicts the first one."""
        ...


class AdaptedCaptioner(nn.Module):
    """The part of a `Captioner` that is the same for every model of transformers."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any, settings: CaptionerSettings) -> None:
        super().__init__()
        self.model: Any = model.eval().requires_grad_(False)
        no_dropout(model)
        self.tokenizer = tokenizer
        self.settings = settings
        self.source: str = model.name_or_path or ""
        self.never: tuple[int, ...] = ()
        """Tokens that are never written."""
        self._sharded = False

    def _end_with(self, ends: int | Sequence[int] | None) -> None:
        """Settle which tokens end a text, None = the tokenizer's, and which fills up rows.

        Raises:
            ValueError: nobody names an end token.
        """
        tokenizer = self.tokenizer
        if ends is None:
            ends = tokenizer.eos_token_id
        if ends is None:
            raise ValueError("neither generation_config nor tokenizer names an end token")
        self.ends: tuple[int, ...] = (ends,) if isinstance(ends, int) else tuple(ends)
        self.end: int = tokenizer.eos_token_id if tokenizer.eos_token_id in self.ends else self.ends[0]
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(self.end)
        self.pad: int = tokenizer.convert_tokens_to_ids(tokenizer.pad_token)
        self.pieces = Pieces(tokenizer, end_ids=self.ends, source=self.source)

    def _adapt(self, rank: int) -> None:
        """Give the language model adapters to learn with."""
        self._adapted = self._targets(self.settings.lora_targets)
        alpha = 2 * rank if self.settings.lora_alpha is None else self.settings.lora_alpha
        self.adapters = Adapters(self._adapted, rank=rank, alpha=alpha)
        self._recomputation = Recomputation(self._language)

    def _targets(self, names: tuple[str, ...] | None) -> dict[str, nn.Module]:
        linears = self.trunk_linears()
        if names is None:
            return linears
        last_names = {name: name.rsplit(".", 1)[-1] for name in linears}
        unknown = sorted(set(names) - set(last_names.values()))
        if unknown:
            raise ValueError(f"lora_targets has {unknown}; there are {sorted(set(last_names.values()))}")
        return {name: linear for name, linear in linears.items() if last_names[name] in names}

    # -- what a subclass knows

    @property
    def _language(self) -> nn.Module:
        """The language model, whose linear layers adapters sit on."""
        raise NotImplementedError

    def _writing_way(self, prompt: Prompt) -> Way:
        """The way to write about these prompts."""
        raise NotImplementedError

    def _reading_way(self, prompt: Prompt) -> Way:
        """The same, once it is known that what it writes it also reads."""
        return self._writing_way(prompt)

    def usage(self, base: str, prompt: str, decoding: Mapping[str, int]) -> list[str]:
        """Lines of Python that caption `image` with peft, the adapters in FOLDER, over the model `base`."""
        raise NotImplementedError

    def _hidden_of_text(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T h"]:
        """What the head reads before each word of a text alone, without an image."""
        raise NotImplementedError

    # -- the parts

    @property
    def _head(self) -> nn.Linear:
        return self.model.get_output_embeddings()

    def trainable_module(self) -> nn.Module:
        """The trainable part: the policy's adapters."""
        return self.adapters

    @property
    def trunk(self) -> nn.Module:
        """What adapters sit on: the language model."""
        return self._language

    def trunk_linears(self) -> dict[str, nn.Module]:
        """All linear layers of the language model, the head not among them."""
        return {name: part for name, part in adaptable(self._language).items() if part is not self._head}

    def enable_gradient_checkpointing(self, contexts: Contexts | None = None) -> None:
        """Recompute layers in the backward pass; `contexts` restores a critic's adapters there."""
        own = self.adapters.checkpoint_contexts
        self._recomputation.enable(*([own] if contexts is None else [own, contexts]))

    def adapters_off(self) -> AbstractContextManager[None]:
        """The captioner as it was before training, inside."""
        return self._switched(False)

    def _switched(self, on: bool) -> AbstractContextManager[None]:
        """What was trained of the language model, on or off inside."""
        return self.adapters.switched(on)

    @contextmanager
    def _folded(self) -> Iterator[None]:
        """Adapters on inside, as part of the weights where that is exact and cheap.

        A small model spends most of its time on calls, and adapters are more than half of them.
        """
        weights = [cast("Tensor", part.weight) for part in self._adapted.values()]
        exact = all(weight.dtype == torch.float32 for weight in weights)
        if self._sharded or not exact or sum(map(torch.numel, weights)) > _FOLDED_AT_MOST:
            with self._switched(True):
                yield
            return
        frozen = [weight.data for weight in weights]
        parts = zip(
            self._adapted.values(), self.adapters.up.values(), self.adapters.down.values(), strict=True
        )
        try:
            for part, up, down in parts:
                pair = (down.T, up.T) if is_transposed(part) else (up, down)
                weight = cast("Tensor", part.weight)
                weight.data = torch.addmm(weight.data, *pair, alpha=self.adapters.scale)
            with self._switched(False):
                yield
        finally:
            for weight, data in zip(weights, frozen, strict=True):
                weight.data = data

    # -- the policy

    @torch.no_grad()
    def sample(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """Draw captions; the prompt's seeds decide the draws if given."""
        way = self._reading_way(prompt)
        with self._folded():
            return way.draw(prompt, sampling)

    def _hidden(self, turn: Turn) -> tuple[Float[Tensor, "B L h"], int]:
        way = self._reading_way(turn.prompt)
        with self._recomputation.active():
            return way.hidden(turn)

    def score(self, turn: Turn, under: Sampling | None = None) -> TokenScores:
        """Log-probabilities under the model's own distribution (None), or under a temperature and top-k."""
        tokens, mask = turn.tokens, turn.tokens.mask
        shorter = replace(turn, tokens=Tokens(ids=tokens.ids[:, :-1], mask=mask[:, :-1]))
        with self._switched(True):
            hidden, start = self._hidden(shorter)
        predicting = hidden[:, start : start + mask.shape[1]]
        return self._scores(predicting, tokens, under)

    @torch.no_grad()
    def reference_log_probs(self, tokens: Tokens) -> Float[Tensor, "B T"]:
        """What the language model says of the text alone, adapters off, after its begin token.

        Models without a begin token start from their end token, as texts do in pretraining.
        """
        scores = self._scores(self._hidden_of_text(tokens.ids), tokens, None)
        return require_numbers(scores.log_probs, self.source)

    def _scores(self, hidden: Tensor, tokens: Tokens, under: Sampling | None) -> TokenScores:
        mask, head = tokens.mask, self._head
        log_probs, entropy = token_log_probs(
            hidden[mask], head.weight, tokens.ids[mask], bias=head.bias, under=under
        )
        blank = torch.zeros(mask.shape, device=mask.device)
        return TokenScores(
            log_probs=blank.masked_scatter(mask, log_probs), entropy=blank.masked_scatter(mask, entropy)
        )

    def hidden_states(self, turn: Turn, position: ValuePosition = "pre") -> Float[Tensor, "B T h"]:
        """Last hidden state before (`pre`) or after (`post`) each token; the policy's adapters are off."""
        with self._switched(False):
            hidden, start = self._hidden(turn)
        first = start if position == "pre" else start + 1
        return hidden[:, first : first + turn.tokens.ids.shape[1]]

    def encode(self, texts: list[str]) -> Tokens:
        """Words of given captions with the end token, right-padded."""
        rows = [[*text_ids(self.tokenizer, text), self.end] for text in texts]
        return token_batch(rows, pad=self.pad, device=self._head.weight.device)

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
            never=self.never,
        )
        way = self._writing_way(asked)
        with self._folded():
            ids = way.write(asked, rules)
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]
