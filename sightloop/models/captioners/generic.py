"""Any image-text-to-text model of transformers as a captioning policy that trains low-rank adapters.

The model runs composed from its parts, the frozen tower once an image (`from_parts.py`), or as a whole from
pixels in every pass (`end_to_end.py`). Adapters off = the reference; a critic reads the reference and brings
adapters of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from sightloop.models.captioners.adapted import AdaptedCaptioner, CaptionerSettings
from sightloop.models.captioners.end_to_end import WholeModel
from sightloop.models.captioners.from_parts import ComposedModel
from sightloop.models.captioners.prompt_reader import PromptReader
from sightloop.models.open import IMAGE_TO_TEXT, open_model
from sightloop.models.protocols import Contexts
from sightloop.terminal import say
from sightloop.types import Images, Prompt

ANY_SIZE = 448
"""Side of squares in pixels for models that take any size, or that see images in their own shapes."""


class GenericCaptioner(AdaptedCaptioner):
    """A `Captioner` on any transformers model that reads an image and writes text."""

    reads_messages = True

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        lora_rank: int = 16,
        settings: CaptionerSettings | None = None,
    ) -> None:
        settings = CaptionerSettings() if settings is None else settings
        super().__init__(model, cast("Any", processor).tokenizer, settings)
        config = model.config.to_dict()
        self.image_token: int = config.get("image_token_id") or config.get("image_token_index") or -1
        self._check(self.model)
        # Of images in their own shapes, squares are only shown to people.
        side = _side(config["vision_config"].get("image_size"))
        self.image_size: int = settings.image_size or min(side, ANY_SIZE)
        self.sees_whole = settings.image_size is None
        self.hidden_size = int(model.config.get_text_config().hidden_size)
        self._end_with(self.model.generation_config.eos_token_id)
        begin = self.tokenizer.bos_token_id
        self.begin: int = self.end if begin is None else begin
        # A drawn image token has no image behind it: a text that asks for one stops there, unfinished.
        self.stops = (*self.ends, self.image_token)
        self.never = (self.image_token,)
        reader = PromptReader(
            processor, model.base_model, image_token=self.image_token, template=settings.template
        )
        self._whole = WholeModel(model, reader, pad=self.pad, stops=self.stops)
        self._composed = ComposedModel(model, reader, pad=self.pad, stops=self.stops)
        self._way: ComposedModel | WholeModel = self._composed if settings.reuse_features else self._whole
        self._adapt(lora_rank)

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

    # -- the parts

    @property
    def _language(self) -> nn.Module:
        return self.model.base_model.get_decoder()

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

    def usage(self, base: str, prompt: str, decoding: Mapping[str, int]) -> list[str]:
        """Lines of Python that caption `image` with peft, the adapters in FOLDER, over the model `base`."""
        text = self.prompt_text(prompt)
        options = ", ".join(f"{option}={value}" for option, value in decoding.items())
        options += f", suppress_tokens=[{self.image_token}]"
        endings = f"eos_token_id={list(self.ends)}, pad_token_id={self.pad}"
        return [
            "from peft import PeftModel",
            "from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig",
            "",
            f"base = {base!r}",
            "processor = AutoProcessor.from_pretrained(base)",
            "plain = AutoModelForImageTextToText.from_pretrained(base)",
            "# Captions were drawn without the base's own options, such as a penalty of repetition.",
            f"plain.generation_config = GenerationConfig({endings})",
            'model = PeftModel.from_pretrained(plain, "FOLDER")',
            "inputs = processor(",
            f"    text=[{text!r}],",
            "    images=[image],",
            f"    add_special_tokens={not self.begins(text)},",
            '    return_tensors="pt",',
            ")",
            f"ids = model.generate(**inputs, {options})",
            'words = ids[:, inputs["input_ids"].shape[1] :]',
            "print(processor.batch_decode(words, skip_special_tokens=True)[0].strip())",
        ]

    def shard_units(self) -> list[nn.Module]:
        """The frozen layers whose weights may be spread over ranks."""
        return cast("list[nn.Module]", list(self._recomputation.layers))

    def enable_gradient_checkpointing(self, contexts: Contexts | None = None) -> None:
        """Recompute layers in the backward pass; `contexts` restores a critic's adapters there."""
        super().enable_gradient_checkpointing(contexts)
        self._composed.recomputes = True

    @torch.no_grad()
    def encode_images(self, images: Images) -> Images:
        """Add the frozen tower's features; images that have them are returned as they are."""
        composed = images.are_single and self._chosen() is self._composed
        return self._composed.encode_images(images) if composed else images

    def _chosen(self, prompt: Prompt | None = None) -> ComposedModel | WholeModel:
        """The way in which this model runs, which its parts and the first prompt decide."""
        objection = None
        if self._way is self._composed:
            objection = self._composed.unfit
            if prompt is not None and isinstance(prompt.images, Images) and not prompt.images.are_single:
                objection = "some prompts have several images or none"
            if objection is None and prompt is not None:
                objection = self._composed.objection(prompt)
        if objection is not None:
            say(
                f"{objection}: it runs whole in every pass, its vision tower too, which takes longer",
                is_error=True,
            )
            self._way = self._whole
        return self._way

    def _writing_way(self, prompt: Prompt) -> ComposedModel | WholeModel:
        return self._chosen(prompt)

    def _reading_way(self, prompt: Prompt) -> ComposedModel | WholeModel:
        way = self._chosen(prompt)
        if way is self._whole:
            self._whole.compare(prompt)
        return way

    def _hidden_of_text(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T h"]:
        return self._composed.hidden_of_text(F.pad(ids[:, :-1], (1, 0), value=self.begin))


def _side(size: int | list[int] | tuple[int, ...] | None) -> int:
    """The side of square images for a tower that tells one number, height and width, or nothing."""
    return (max(size) if isinstance(size, list | tuple) else size) or ANY_SIZE
