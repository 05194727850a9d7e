"""From prompts and images to what an image-text-to-text model reads, by the checkpoint's own processor.

A processor takes milliseconds an image, and a training step needs the same prompt in several passes. What a
prompt looks like in tokens depends on its text and the size of the image only, so it is remembered.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor
from transformers import ProcessorMixin

from sightloop.models.downloads import in_one_sentence
from sightloop.models.written_text import in_template, spelled_out

_REMEMBERED_PROMPTS = 4096


@runtime_checkable
class TurnsInPlane(Protocol):
    """A model whose image tokens have positions in a plane (Qwen-VL)."""

    def get_rope_index(self, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of prompts: one row each for time, height and width."""
        ...


def processed(
    processor: Any, texts: list[str], images: list[Image.Image], *, padding_side: Literal["left", "right"]
) -> Any:
    """What a processor makes of prompts with one image each.

    Raises:
        ValueError: its files are damaged, or its template leaves no place for the image.
    """
    with in_one_sentence(processor.tokenizer.name_or_path, "what prepares texts and images"):
        return processor(
            text=texts,
            # Some count the images of each text; all take them this way.
            images=[[image] for image in images],
            add_special_tokens=not all(_begins(processor.tokenizer, text) for text in texts),
            padding=True,
            padding_side=padding_side,
            return_tensors="pt",
        )


def _begins(tokenizer: Any, text: str) -> bool:
    return tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """A prompt in tokens, its image as placeholders; on the host."""

    ids: Int[Tensor, " L"]
    positions: Int[Tensor, "P L"]
    """P is 1, or 3 where images lie in a plane."""
    shift: int
    """Position of the next token, less the number of tokens before it."""


class PromptReader:
    """Prepares prompts with one image each for a model."""

    def __init__(
        self, processor: ProcessorMixin, core: Any, *, image_token: int, template: str | None
    ) -> None:
        self.processor: Any = processor
        self.tokenizer = self.processor.tokenizer
        self.image_token = image_token
        self.template = template
        self._core = core
        self.row = lru_cache(_REMEMBERED_PROMPTS)(self._row)

    def text(self, prompt: str) -> str:
        """The prompt with a place for its image; special tokens in the prompt are text."""
        prompt = spelled_out(self.tokenizer, prompt)
        if self.template is not None:
            return self.template.replace("{prompt}", prompt)
        if self.processor.chat_template is not None:
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            chat = [{"role": "user", "content": content[: 2 if prompt else 1]}]
            return in_template(self.processor, chat, tokenize=False)
        return self.tokenizer.convert_ids_to_tokens(self.image_token) + prompt

    def begins(self, text: str) -> bool:
        """Whether a prompt's text starts with the begin token, so that the processor must not add one."""
        return _begins(self.tokenizer, text)

    def inputs(self, prompts: list[str], images: list[Image.Image]) -> dict[str, Tensor]:
        """Everything the model reads, by the names of its forward pass; prompts are padded on the left."""
        texts = [self.text(prompt) for prompt in prompts]
        made = processed(self.processor, texts, images, padding_side="left")
        # Some processors make training labels of the prompt, which would have the model compute a loss.
        inputs = {name: value.to(self._core.device) for name, value in made.items() if name != "labels"}
        places = (inputs["input_ids"] == self.image_token).sum(1)
        if (places == 0).any():
            raise ValueError(
                f"the prompt {texts[int(places.argmin())]!r} has no place for its image; put "
                f"{self.tokenizer.convert_ids_to_tokens(self.image_token)!r} into the template"
            )
        return inputs

    def image_inputs(self, images: list[Image.Image]) -> tuple[dict[str, Tensor], list[int]]:
        """What the vision tower reads, and how many places each image takes in its prompt."""
        inputs = self.inputs([""] * len(images), images)
        shape, places = inputs["input_ids"].shape, (inputs["input_ids"] == self.image_token).sum(1)
        return {name: value for name, value in inputs.items() if value.shape != shape}, places.tolist()

    def _row(self, prompt: str, height: int, width: int) -> PromptRow:
        inputs = self.inputs([prompt], [Image.new("RGB", (width, height))])
        ids = inputs["input_ids"]
        if isinstance(self._core, TurnsInPlane):
            known = ("input_ids", "mm_token_type_ids", "image_grid_thw")
            positions = self._core.get_rope_index(**{k: v for k, v in inputs.items() if k in known})[0][:, 0]
        else:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
        shift = int(positions.max()) + 1 - ids.shape[1]
        return PromptRow(ids=ids[0].cpu(), positions=positions.cpu(), shift=shift)
