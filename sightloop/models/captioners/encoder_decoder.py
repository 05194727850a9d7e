"""Captioners whose images do not stand among the words of a prompt: the classic ones, and encoder-decoders.

One class for all of them, and a row of `ARCHITECTURES` for each: the frozen tower's features become states
that the text model attends to, that its encoder reads with the prompt, or that stand before its words. Where
queries bridge vision and language (a Q-Former), they are trained, as VLRM does; elsewhere adapters are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Blip2ForConditionalGeneration,
    InstructBlipForConditionalGeneration,
)

from sightloop.models.captioners.adapted import AdaptedCaptioner, CaptionerSettings
from sightloop.models.captioners.blip2 import Bridge
from sightloop.models.captioners.image_states import Architecture, ImageStates, part_of
from sightloop.models.checkpointing import Recomputation
from sightloop.models.kinds import is_captioner
from sightloop.models.lora import Adapters
from sightloop.models.open import ModelRole, OpenedModel, open_model, open_tokenizer
from sightloop.models.protocols import ValuePosition
from sightloop.types import Images, Prompt, Turn

QUERY_WORDS = "qformer_tokenizer"
"""Folder of the tokenizer of InstructBLIP's Q-Former."""
_QUERIES = ("query_tokens", "qformer", "language_projection")


def _told(names: str, *owners: Any) -> Any:
    """What the first of these models says for its writing, in its options or its configuration; of several
    names the first that is told.
    """
    for name in names.split():
        for owner in owners:
            # A part that cannot write by itself has no such options.
            for config in (vars(owner).get("generation_config"), owner.config):
                value = vars(config).get(name) if config is not None else None
                if value is not None:
                    return value
    return None


# -- from features to states


def _as_seen(model: Any, features: Tensor, asked: dict[str, Tensor]) -> Tensor:
    return features


def _projected(model: Any, features: Tensor, asked: dict[str, Tensor]) -> Tensor:
    part = dict(model.named_children()).get("enc_to_dec_proj")
    return features if part is None else part(features)


def _flattened(model: Any, features: Tensor, asked: dict[str, Tensor]) -> Tensor:
    return model.model.multi_modal_projector(features)


def _resampled(model: Any, features: Tensor, asked: dict[str, Tensor]) -> Tensor:
    seen = model.vision_model.model.post_layernorm(features)
    return model.image_to_text_projection(nn.functional.normalize(seen, dim=-1))[0]


def _queried(model: Any, features: Tensor, asked: dict[str, Tensor]) -> Tensor:
    queries = model.query_tokens.expand(len(features), -1, -1)
    given: dict[str, Tensor] = {}
    if asked:
        mask = torch.cat([asked["attention_mask"].new_ones(queries.shape[:2]), asked["attention_mask"]], 1)
        given = {"input_ids": asked["input_ids"], "attention_mask": mask}
    seen = model.qformer(query_embeds=queries, encoder_hidden_states=features.float(), **given)
    return model.language_projection(seen.last_hidden_state[:, : queries.shape[1]])


# -- the table


def _of_queries(title: str, *, decodes_only: bool) -> Architecture:
    """BLIP-2 or InstructBLIP, whose language model has an encoder or not."""
    language = "language_model"
    if decodes_only:
        start = lambda model, words: [_told("bos_token_id", part_of(model, language), model)]  # noqa: E731
    else:
        start = lambda model, words: [_told("decoder_start_token_id", part_of(model, language), model)]  # noqa: E731
    return Architecture(
        title=title,
        form="in front" if decodes_only else "encoded",
        tower="vision_model",
        text=language,
        language=language,
        encoder="" if decodes_only else "language_model.encoder",
        enter=_queried,
        start=start,
        ends=lambda model: _told("eos_token_id", part_of(model, language), model),
        bridge=_QUERIES,
        slots=lambda model, words, number: [model.config.image_token_index] * number if decodes_only else [],
    )


ARCHITECTURES = {
    "blip": Architecture(
        title="BLIP",
        form="beside",
        tower="vision_model",
        text="text_decoder",
        language="text_decoder",
        enter=_as_seen,
        start=lambda model, words: [model.config.text_config.bos_token_id],
        # Its generation_config.json names another token, which its own `generate` overrules.
        ends=lambda model: model.config.text_config.sep_token_id,
    ),
    "vision-encoder-decoder": Architecture(
        title="VisionEncoderDecoder (ViT-GPT2 and any pair)",
        form="beside",
        tower="encoder",
        text="decoder",
        language="decoder",
        enter=_projected,
        start=lambda model, words: [_told("decoder_start_token_id bos_token_id", model, model.decoder)],
        ends=lambda model: _told("eos_token_id", model, model.decoder),
    ),
    "git": Architecture(
        title="GIT",
        form="before",
        tower="git.image_encoder",
        text="",
        language="git.encoder",
        enter=_as_seen,
        start=lambda model, words: [_told("bos_token_id", model)],
        ends=lambda model: _told("eos_token_id", model),
    ),
    "florence2": Architecture(
        title="Florence-2",
        form="encoded",
        tower="model.vision_tower",
        text="",
        language="model.language_model",
        encoder="model.language_model.encoder",
        decoder="model.language_model.decoder",
        enter=_flattened,
        start=lambda model, words: [
            _told(name, model, model.model.language_model)
            for name in ("decoder_start_token_id", "forced_bos_token_id")
        ],
        ends=lambda model: _told("eos_token_id", model, model.model.language_model),
        prompts=(
            ("", "What does the image describe?"),
            ("<CAPTION>", "What does the image describe?"),
            ("<DETAILED_CAPTION>", "Describe in detail what is shown in the image."),
            ("<MORE_DETAILED_CAPTION>", "Describe with a paragraph what is shown in the image."),
        ),
    ),
    "kosmos-2": Architecture(
        title="Kosmos-2",
        form="in front",
        tower="vision_model",
        text="text_model",
        language="text_model",
        enter=_resampled,
        front=lambda model, words: words.convert_tokens_to_ids(["<s>", "<image>"]),
        lead="</image> ",
        start=lambda model, words: [],
        # The first words of the vocabulary.
        slots=lambda model, words, number: [words.unk_token_id + 1 + place for place in range(number)],
        ends=lambda model: _told("eos_token_id", model.text_model, model),
        prompts=(("", "An image of"),),
    ),
}
"""By transformers' name of the architecture."""


def architecture_of(config: Any) -> Architecture:
    """How a model with this configuration is run."""
    titles = {"blip-2": "BLIP-2", "instructblip": "InstructBLIP"}
    if config.model_type in titles:
        decodes_only = bool(config.use_decoder_only_language_model)
        return _of_queries(titles[config.model_type], decodes_only=decodes_only)
    return ARCHITECTURES[config.model_type]


_KINDS = {"blip-2": Blip2ForConditionalGeneration, "instructblip": InstructBlipForConditionalGeneration}


def _role(kind: str) -> ModelRole:
    return ModelRole(
        what="a captioner",
        fits=is_captioner,
        model=_KINDS.get(kind, AutoModelForImageTextToText),
        # Half precision would round the weights that are trained, before the first step.
        exact=_QUERIES if kind in _KINDS else (),
        text=lambda config: config.get_text_config(decoder=True),
        images=AutoImageProcessor,
    )


class EncoderDecoderCaptioner(AdaptedCaptioner):
    """A `Captioner` on any architecture of `ARCHITECTURES`."""

    def __init__(
        self,
        found: OpenedModel,
        *,
        lora_rank: int = 16,
        settings: CaptionerSettings | None = None,
        query_words: Any = None,
    ) -> None:
        settings = CaptionerSettings() if settings is None else settings
        super().__init__(found.model, found.words, settings)
        self.image_processor, self.query_words = found.images, query_words
        self.plan = architecture_of(found.model.config)
        self._end_with(self.plan.ends(found.model))
        self.begin: int = self.end
        self.image_size: int = settings.image_size or _side(found.model.config, found.images)
        self.sees_whole = settings.image_size is None
        self.states = ImageStates(
            found.model,
            self.plan,
            words=found.words,
            images=found.images,
            template=settings.template,
            pad=self.pad,
        )
        self.states.stops = self.ends
        self.states.query_words = query_words
        self.hidden_size = self._head.in_features
        self._learn(lora_rank)

    @staticmethod
    def from_pretrained(
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        lora_rank: int = 16,
        settings: CaptionerSettings | None = None,
        kind: str,
    ) -> EncoderDecoderCaptioner:
        """Load a folder of the hub's format (or a hub name) of this architecture; frozen weights in `dtype`,
        what is trained in float32.

        Raises:
            ValueError: the checkpoint is not a whole captioner.
        """
        found = open_model(folder, _role(kind), dtype=dtype)
        queries = (
            open_tokenizer(AutoTokenizer, folder, subfolder=QUERY_WORDS) if kind == "instructblip" else None
        )
        captioner = EncoderDecoderCaptioner(
            found, lora_rank=lora_rank, settings=settings, query_words=queries
        )
        return captioner.to(device)

    def _learn(self, rank: int) -> None:
        if not self.plan.bridge:
            return self._adapt(rank)
        self._adapted = {}
        self.adapters = Adapters({}, rank=1, alpha=1.0)
        self._recomputation = Recomputation(nn.ModuleList([self._language, self.model.qformer]))
        self.trainable_module().float().requires_grad_(True)

    @property
    def _language(self) -> nn.Module:
        return part_of(self.model, self.plan.language)

    @property
    def _head(self) -> nn.Linear:
        return self.states.head

    def trainable_module(self) -> nn.Module:
        """The trainable part: query tokens, Q-Former and projection where there are any, else adapters."""
        return Bridge(self.model) if self.plan.bridge else self.adapters

    def hidden_states(self, turn: Turn, position: ValuePosition = "pre") -> Float[Tensor, "B T h"]:
        """Last hidden state before (`pre`) or after (`post`) each token, by which nothing of the policy
        learns.
        """
        self.states.enters_with_gradient = False
        try:
            return super().hidden_states(turn, position)
        finally:
            self.states.enters_with_gradient = True

    def prompt_text(self, prompt: str) -> str:
        """What the model is asked for a prompt."""
        return self.states.prompt_text(prompt)

    def usage(self, base: str, prompt: str, decoding: Mapping[str, int]) -> list[str]:
        """Lines of Python that caption `image` with peft, the adapters in FOLDER, over the model `base`."""
        options = "".join(f", {option}={value}" for option, value in decoding.items())
        begin = self.states.begin[0]
        endings = f"eos_token_id={list(self.ends)}, pad_token_id={self.pad}"
        begins = f"bos_token_id={begin}, decoder_start_token_id={begin}"
        if self.plan.form in ("encoded", "in front"):
            asked, written = self.prompt_text(prompt), "ids"
            prepared = (
                f'AutoProcessor.from_pretrained(base)(images=image, text={asked!r}, return_tensors="pt")'
            )
            if self.plan.form == "encoded" and len(self.states.start) > 1:
                # Texts begin with more than `generate` would begin them with.
                prepared = f'{{**{prepared}, "decoder_input_ids": torch.tensor([{self.states.start}])}}'
            if self.plan.form == "in front":
                written = 'ids[:, inputs["input_ids"].shape[1] :]'
        else:
            written, more = "ids", ""
            if prompt:
                ids = self.states.starts([prompt])[0]
                # BLIP leaves the last token out.
                ids = [*ids, self.end] if self.plan.title == "BLIP" else ids
                name = "decoder_input_ids" if self.plan.tower == "encoder" else "input_ids"
                more = f', "{name}": torch.tensor([{ids}])'
            prepared = (
                f'{{**AutoImageProcessor.from_pretrained(base)(images=image, return_tensors="pt"){more}}}'
            )
        return [
            "import torch",
            "from peft import PeftModel",
            "from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor",
            "from transformers import AutoTokenizer, GenerationConfig",
            "",
            f"base = {base!r}",
            "plain = AutoModelForImageTextToText.from_pretrained(base)",
            "# Captions were drawn without the base's own options, such as a penalty of repetition.",
            f"plain.generation_config = GenerationConfig({endings}, {begins})",
            'model = PeftModel.from_pretrained(plain, "FOLDER")',
            f"inputs = {prepared}",
            f"ids = model.generate(**inputs{options})",
            "words = AutoTokenizer.from_pretrained(base)",
            f"print(words.batch_decode({written}, skip_special_tokens=True)[0].strip())",
        ]

    @torch.no_grad()
    def encode_images(self, images: Images) -> Images:
        """Add the frozen tower's features; images that have them are returned as they are."""
        return self.states.encode_images(images)

    def _writing_way(self, prompt: Prompt) -> ImageStates:
        self.states.compare(prompt)
        return self.states

    def _hidden_of_text(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T h"]:
        return self.states.hidden_of_text(ids)


def _side(config: Any, images: Any) -> int:
    """The side of square images that a tower, or else its image processor, takes."""
    parts = [vars(config).get("vision_config"), vars(config).get("encoder")]
    told_sides = [vars(part).get("image_size") for part in parts if part is not None]
    for side in told_sides:
        if side is not None:
            return max(side) if isinstance(side, list | tuple) else side
    size = dict(images.crop_size or images.size)
    return max(int(value) for value in size.values() if value)
