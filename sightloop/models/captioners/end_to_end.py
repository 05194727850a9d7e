"""An image-text-to-text model run as a whole, from pixels, through its own forward pass and `generate`.

The slow and general way: for beam search, and for architectures that cannot be composed from their parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList

from sightloop.models.captioners.prompt_reader import PromptReader, TurnsInPlane, images_of_each
from sightloop.models.decoding.beams import Rules
from sightloop.models.decoding.sampling import draw, uniform_numbers
from sightloop.models.only_numbers import NumbersOnly, marked
from sightloop.types import Images, Prompt, Sampling, Tokens, Turn

ROUNDING = 1e-3
"""Relative difference of logits that rounding explains in float32."""
HALF_ROUNDING = 3e-2
"""The same in 16 bits."""
_TELLS_TEXT = {"paligemma"}
"""Models whose token types are 0 in a prompt, which looks ahead, and 1 in a text."""


class WholeModel:
    """Draws and reads texts with the whole model in every pass."""

    def __init__(self, model: Any, reader: PromptReader, *, pad: int, stops: tuple[int, ...]) -> None:
        self.model = model
        self.reader = reader
        self.pad = pad
        self.stops = stops
        self.sharded = False
        """Whether all ranks must take the same steps."""
        self._tells_text = model.config.model_type in _TELLS_TEXT
        self._compared = False

    def hidden(self, turn: Turn) -> tuple[Float[Tensor, "B L h"], int]:
        """Last hidden states over prompt and tokens, and the position that predicts the first token."""
        inputs = self.reader.inputs(turn.prompt.texts, images_of_each(images_in(turn.prompt)))
        # Only the last token of a text can be an image token, which nobody reads on from.
        ids = turn.tokens.ids.masked_fill(turn.tokens.ids == self.reader.image_token, self.pad)
        shape = inputs["input_ids"].shape
        for name, value in inputs.items():
            if value.shape == shape:
                is_one = name == "attention_mask" or (name == "token_type_ids" and self._tells_text)
                tail = ids if name == "input_ids" else torch.full_like(ids, int(is_one))
                inputs[name] = torch.cat([value, tail.to(value.dtype)], 1)
        core = self.model.base_model
        if not isinstance(core, TurnsInPlane):
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        out = cast("Any", core)(**inputs, use_cache=False)
        return out.last_hidden_state, shape[1] - 1

    def draw(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """Draw one text a row."""
        uniform = uniform_numbers(len(prompt), sampling.max_tokens, prompt.seeds)
        draws = _Draws(sampling, uniform)
        ids = self.generate(
            prompt, max_new_tokens=sampling.max_tokens, logits_processor=LogitsProcessorList([draws])
        )
        stopped = torch.isin(ids, torch.tensor(self.stops, device=ids.device))
        mask = stopped.cumsum(1) - stopped.long() == 0
        sure = torch.stack(draws.sure, 1).masked_fill(~mask, 0)
        return Tokens(
            ids=marked(ids, sure).masked_fill(~mask, self.pad),
            mask=mask,
            log_probs=None if sampling.temperature == 0 else sure,
        )

    def write(self, prompt: Prompt, rules: Rules) -> list[list[int]]:
        """The new tokens of one text a row, written by these rules.

        Raises:
            ValueError: the model computes something that is not a number.
        """
        watch = NumbersOnly()
        ids = self.generate(
            prompt,
            num_beams=rules.beams,
            no_repeat_ngram_size=rules.no_repeat_ngram,
            min_new_tokens=rules.min_tokens,
            max_new_tokens=rules.max_tokens,
            suppress_tokens=list(rules.never) or None,
            logits_processor=LogitsProcessorList([watch]),
        )
        watch.require(self.model.name_or_path or "", "captions")
        return ids.tolist()

    def generate(self, prompt: Prompt, **options: Any) -> Int[Tensor, "B T"]:
        """New tokens by transformers' own loop, with these options and none of the checkpoint's."""
        inputs = self.reader.inputs(prompt.texts, images_of_each(images_in(prompt)))
        with self._own_options():
            ids = _text_generation(self.model)(**inputs, do_sample=False, synced_gpus=self.sharded, **options)
        return ids[:, inputs["input_ids"].shape[1] :]

    @torch.no_grad()
    def compare(self, prompt: Prompt) -> None:
        """Once: reading a text gives the logits that writing it had.

        Raises:
            ValueError: it does not.
        """
        if self._compared:
            return
        self._compared = True
        some = prompt.rows(torch.tensor([prompt.texts.index(text) for text in sorted(set(prompt.texts))[:4]]))
        inputs = self.reader.inputs(some.texts, images_of_each(images_in(some)))
        options = {"do_sample": False, "min_new_tokens": 3, "max_new_tokens": 3}
        with self._own_options():
            wrote = _text_generation(self.model)(
                **inputs, **options, output_logits=True, return_dict_in_generate=True
            )
        ids = wrote.sequences[:, -3:]
        tokens = Tokens(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool))
        hidden, start = self.hidden(Turn(prompt=some, tokens=tokens))
        read = hidden[:, start : start + 3] @ self.model.get_output_embeddings().weight.T
        apart = distance(read, torch.stack(wrote.logits, 1))
        if apart > 1:
            raise ValueError(
                f"{self.model.config.model_type!r} reads a text {apart:.1f} times as far from how it "
                "writes it as rounding explains (does its prompt look ahead, or end with the image?)"
            )

    @contextmanager
    def _own_options(self) -> Iterator[None]:
        # transformers fills options that are not given from the checkpoint's, which may punish repetition.
        checkpoints = self.model.generation_config
        self.model.generation_config = GenerationConfig(
            eos_token_id=list(self.stops), pad_token_id=self.pad, bos_token_id=checkpoints.bos_token_id
        )
        try:
            yield
        finally:
            self.model.generation_config = checkpoints


class _Draws(LogitsProcessor):
    """Leaves one token possible: the drawn one."""

    def __init__(self, sampling: Sampling, uniform: Float[Tensor, "B T"]) -> None:
        self.sampling = sampling
        self.uniform = uniform
        self.sure: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # pyright: ignore
        uniform = self.uniform[:, len(self.sure)].to(scores.device)
        drawn, sure = draw(scores, self.sampling, uniform)
        self.sure.append(sure)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn[:, None], 0.0)


def _text_generation(model: Any) -> Callable[..., Any]:
    """The loop that draws texts: a Janus' own `generate` loses what is to look at its logits."""
    is_janus = model.config.model_type == "janus"
    loop: Any = GenerationMixin
    return partial(loop.generate, model) if is_janus else model.generate


def distance(one: Tensor, other: Tensor) -> float:
    """Largest difference of two sets of logits, in units of what rounding explains."""
    rounding = ROUNDING if other.dtype == torch.float32 == one.dtype else HALF_ROUNDING
    return float((one.float() - other.float()).abs().max() / other.float().abs().max()) / rounding


def images_in(prompt: Prompt) -> Images:
    """The prompt's images.

    Raises:
        ValueError: it has none.
    """
    if not isinstance(prompt.images, Images):
        raise ValueError("a caption needs images: Prompt.images is not an Images value")
    return prompt.images
