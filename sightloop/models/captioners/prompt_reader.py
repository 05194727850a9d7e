"""From prompts and images to what an image-text-to-text model reads, by the checkpoint's own processor.

A processor takes milliseconds an image, and a training step needs the same prompt in several passes. What a
prompt looks like in tokens depends on its text and the size of the image only, so it is remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor
from transformers import ProcessorMixin

from sightloop.messages import MessagePrompt, user_message, with_images
from sightloop.models.downloads import in_one_sentence
from sightloop.models.written_text import in_template, spelled_out
from sightloop.types import Images

_REMEMBERED_PROMPTS = 4096


@runtime_checkable
class TurnsInPlane(Protocol):
    """A model whose image tokens have positions in a plane (Qwen-VL)."""

    def get_rope_index(self, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of prompts: one row each for time, height and width."""
        ...


def processed(
    processor: Any,
    texts: list[str],
    images: list[list[Image.Image]],
    *,
    padding_side: Literal["left", "right"],
) -> Any:
    """What a processor makes of prompts with the images of each.

    Raises:
        ValueError: its files are damaged, or its template leaves no place for the image.
    """
    with in_one_sentence(processor.tokenizer.name_or_path, "what prepares texts and images"):
        return processor(
            text=texts,
            # Some count the images of each text; all take them this way.
            images=images if any(images) else None,
            add_special_tokens=not all(_begins(processor.tokenizer, text) for text in texts),
            padding=True,
            padding_side=padding_side,
            return_tensors="pt",
        )


def images_of_each(images: Images) -> list[list[Image.Image]]:
    """The images of each sample, in their own shapes where these are known."""
    parts = [part.pictures() for part in (images, *images.more)]
    counts = images.counts or [1] * len(images)
    return [[part[row] for part in parts[:count]] for row, count in enumerate(counts)]


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
    """Prepares prompts with their images for a model."""

    def __init__(
        self, processor: ProcessorMixin, core: Any, *, image_token: int, template: str | None
    ) -> None:
        self.processor: Any = processor
        self.tokenizer = self.processor.tokenizer
        self.image_token = image_token
        self.template = template
        self._core = core
        self.row = lru_cache(_REMEMBERED_PROMPTS)(self._row)

    def text(self, prompt: str, images: int = 1) -> str:
        """The prompt with places for its images; special tokens in the prompt are text.

        Raises:
            ValueError: a conversation without a chat template, or images that have no place.
        """
        conversation = isinstance(prompt, MessagePrompt)
        if self.template is not None and (conversation or images != 1):
            raise ValueError("captioner.template has the place of one image and one text; leave it out")
        if self.template is not None:
            return self.template.replace("{prompt}", spelled_out(self.tokenizer, prompt))
        if self.processor.chat_template is not None:
            chat = prompt.messages if isinstance(prompt, MessagePrompt) else [user_message(prompt)]
            return in_template(self.processor, self._placed(chat, images), tokenize=False)
        if conversation:
            raise ValueError("the model has no chat template, so it reads no messages; give prompts as texts")
        return self.tokenizer.convert_ids_to_tokens(self.image_token) * images + spelled_out(
            self.tokenizer, prompt
        )

    def _placed(self, messages: list[dict[str, Any]], images: int) -> list[dict[str, Any]]:
        """The messages with their images in place, their texts as nothing but text."""
        return [
            message
            | {
                "content": [
                    part | {"text": spelled_out(self.tokenizer, part["text"])} if "text" in part else part
                    for part in message["content"]
                ]
            }
            for message in with_images(messages, images)
        ]

    def begins(self, text: str) -> bool:
        """Whether a prompt's text starts with the begin token, so that the processor must not add one."""
        return _begins(self.tokenizer, text)

    def inputs(
        self, prompts: list[str], images: Sequence[Image.Image | list[Image.Image]]
    ) -> dict[str, Tensor]:
        """Everything the model reads of prompts with one image each, or a list of images; by the names of its
        forward pass, padded on the left.
        """
        each = [shown if isinstance(shown, list) else [shown] for shown in images]
        texts = [self.text(prompt, len(row)) for prompt, row in zip(prompts, each, strict=True)]
        made = processed(self.processor, texts, each, padding_side="left")
        # Some processors make training labels of the prompt, which would have the model compute a loss.
        inputs = {name: value.to(self._core.device) for name, value in made.items() if name != "labels"}
        places = (inputs["input_ids"] == self.image_token).sum(1)
        lacking = (places.cpu() == 0) & torch.tensor([bool(row) for row in each])
        if lacking.any():
            raise ValueError(
                f"the prompt {texts[int(lacking.int().argmax())]!r} has no place for its image; put "
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
