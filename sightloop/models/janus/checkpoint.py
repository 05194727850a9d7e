"""Janus' checkpoints in and out: the authors' `multi_modality` folders and those of transformers.

The authors' folders leave some sizes to their program; those are read off the tensors. Ids of special tokens
come from the tokenizer. Checked against the code of deepseek-ai/Janus; JanusFlow is another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil
from transformers.models.janus.processing_janus import JanusProcessor

from sightloop.models.atomic_files import atomic_write
from sightloop.models.families import require
from sightloop.models.janus.conversation import (
    IMAGE,
    STATED,
    Conversation,
    JanusStrings,
    strings_of_folder,
    strings_of_tokenizer,
)
from sightloop.models.janus.official_config import TOWER_HEADS, config_for_authors, processor_for_authors
from sightloop.models.janus.policy import Janus, JanusSettings
from sightloop.models.janus.tensor_names import from_official, to_official
from sightloop.models.open import filled, local_folder, open_config, open_generation, require_fitting
from sightloop.models.prompt_strings import PromptOptions
from sightloop.models.transformers_internals import made_by_hand
from sightloop.models.weight_files import (
    in_precision,
    read_weights,
    refuse_filled,
    refuse_problems,
    tokenizer_file,
    write_json,
    write_weights,
)
from sightloop.text_files import read_json

SPECIAL_TOKENS = {
    "image_token": IMAGE,
    "boi_token": "<begin_of_image>",
    "eoi_token": "<end_of_image>",
}
"""What the processor of transformers calls them, and how they are written."""
_PAD = "<｜▁pad▁｜>"  # noqa: RUF001
_OF_OTHERS = (
    "model_type",
    "torch_dtype",
    "dtype",
    "_attn_implementation",
    "architectures",
    "tie_word_embeddings",
)
_MEAN = _STD = (0.5, 0.5, 0.5)
_GUIDANCE = 5.0


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """Ids that the model itself must know."""

    begin: int
    end: int
    pad: int
    image: int
    """An image's place among words."""
    image_start: int

    @classmethod
    def of_tokenizer(cls, words: PreTrainedTokenizerBase) -> SpecialIds:
        """The ids of Janus' special tokens.

        Raises:
            ValueError: the tokenizer lacks one.
        """
        known = words.get_vocab()
        pad = _PAD if _PAD in known else words.pad_token
        written = {
            "begin": words.bos_token,
            "end": words.eos_token,
            "pad": pad,
            "image": SPECIAL_TOKENS["image_token"],
            "image_start": SPECIAL_TOKENS["boi_token"],
        }
        missing = [f"{name} ({token})" for name, token in written.items() if token not in known]
        refuse_problems("the tokenizer lacks special tokens of Janus", missing)
        return cls(**{name: known[str(token)] for name, token in written.items()})


# -- in


def read_janus(
    folder: Path | str, *, tokenizer: Path | str | None = None, dtype: torch.dtype | None = None
) -> JanusForConditionalGeneration:
    """The model of a folder of either form; dtype None = as stored.

    Raises:
        ValueError: another family, or tensors and sizes that do not fit; they are named.
    """
    folder = local_folder(folder)
    if require(folder, "janus") == "transformers":
        return _read_transformers(folder, dtype)
    ids = SpecialIds.of_tokenizer(read_janus_tokenizer(folder if tokenizer is None else tokenizer))
    tensors = from_official(read_weights(folder))
    config = official_config(read_json(folder / "config.json"), tensors, ids)
    model = _filled(config, tensors, str(folder), dtype)
    model.generation_config = _generation(ids)
    return model


def read_janus_tokenizer(folder: Path | str) -> PreTrainedTokenizerBase:
    """A tokenizer that names Janus' special tokens as transformers' processor wants it.

    Raises:
        ValueError: there is none.
    """
    words = tokenizer_file(Path(folder), extra_special_tokens=SPECIAL_TOKENS)
    if _PAD in words.get_vocab():
        words.pad_token = _PAD
    return words


def _read_transformers(folder: Path, dtype: torch.dtype | None) -> JanusForConditionalGeneration:
    config: Any = open_config(folder)
    tensors = read_weights(folder)
    if "lm_head.weight" in tensors:
        # The default says tied, which would put the head in the place of the embedding.
        config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    model = _filled(config, tensors, str(folder), dtype)
    if (folder / "generation_config.json").is_file():
        model.generation_config = open_generation(folder)
    return model


def _filled(
    config: JanusConfig, tensors: Mapping[str, Tensor], source: str, dtype: torch.dtype | None
) -> JanusForConditionalGeneration:
    with torch.device("meta"):
        state = JanusForConditionalGeneration(config).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
    stored = tensors.get("model.language_model.embed_tokens.weight")
    dtype = stored.dtype if dtype is None and stored is not None else dtype or torch.float32
    ready = in_precision(tensors, shapes, dtype, what=f"{source} does not fit the model")
    return filled(JanusForConditionalGeneration, config, ready, source=source, dtype=dtype)


def official_config(
    official: Mapping[str, Any], tensors: Mapping[str, Tensor], ids: SpecialIds
) -> JanusConfig:
    """The configuration of an official model from its own, and from its tensors under the names of
    transformers.

    Raises:
        ValueError: a part that no released Janus has, or tensors that tell sizes are missing.
    """
    given = official.get("language_config")
    if not isinstance(given, Mapping):
        raise ValueError("config.json has no language_config; it is not the configuration of a Janus")
    text = {name: value for name, value in given.items() if name not in _OF_OTHERS}
    text |= {"bos_token_id": ids.begin, "eos_token_id": ids.end, "pad_token_id": ids.pad}
    return JanusConfig(
        text_config=LlamaConfig(**text, tie_word_embeddings=False),
        vision_config=_vision_config(official, tensors),
        vq_config=_vq_config(tensors),
        image_token_id=ids.image,
        tie_word_embeddings=False,
    )


def _vision_config(official: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> JanusVisionConfig:
    params = official.get("vision_config", {}).get("params", {})
    tower = str(params.get("model_name"))
    heads = params.get("num_heads", TOWER_HEADS.get(tower))
    wrong = (
        [] if heads else [f"model_name is {tower!r}, of which the number of heads is unknown; set num_heads"]
    )
    for name, wanted in (("select_feature", "same"), ("select_layer", -1)):
        if params.get(name, wanted) != wanted:
            wrong.append(f"{name} is {params[name]!r}, only {wanted!r} is known")
    refuse_problems("vision_config.params", wrong)
    stem = "model.vision_model."
    patches, places, inner, aligned = _shapes(
        tensors,
        f"{stem}embeddings.patch_embedding.weight",
        f"{stem}embeddings.position_embedding.weight",
        f"{stem}encoder.layers.0.mlp.fc1.weight",
        "model.aligner.fc1.weight",
    )
    return JanusVisionConfig(
        hidden_size=patches[0],
        num_hidden_layers=_count(tensors, f"{stem}encoder.layers."),
        num_attention_heads=int(heads),
        image_size=round(places[0] ** 0.5) * patches[2],
        patch_size=patches[2],
        num_image_tokens=places[0],
        mlp_ratio=inner[0] / patches[0],
        projection_dim=aligned[0],
        depth=1 + _count(tensors, "model.aligner.hidden_layers."),
    )


def _vq_config(tensors: Mapping[str, Tensor]) -> JanusVQVAEConfig:
    stem = "model.vqmodel."
    levels = _count(tensors, f"{stem}encoder.down.")
    first, last, book, head, aligned, *widths = _shapes(
        tensors,
        f"{stem}encoder.conv_in.weight",
        f"{stem}encoder.conv_out.weight",
        f"{stem}quantize.embedding.weight",
        "model.generation_head.proj_out.weight",
        "model.generation_aligner.fc1.weight",
        *(f"{stem}encoder.down.{level}.block.0.conv1.weight" for level in range(levels)),
    )
    return JanusVQVAEConfig(
        embed_dim=book[1],
        num_embeddings=book[0],
        latent_channels=last[0],
        base_channels=first[0],
        channel_multiplier=[width[0] // first[0] for width in widths],
        num_res_blocks=_count(tensors, f"{stem}encoder.down.0.block."),
        image_token_embed_dim=head[1],
        projection_dim=aligned[0],
        num_hidden_layers=1 + _count(tensors, "model.generation_aligner.hidden_layers."),
    )


def _shapes(tensors: Mapping[str, Tensor], *names: str) -> list[torch.Size]:
    refuse_problems("no Janus checkpoint", [f"{name} is missing" for name in names if name not in tensors])
    return [tensors[name].shape for name in names]


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})


def _generation(ids: SpecialIds) -> GenerationConfig:
    made: Any = GenerationConfig(bos_token_id=ids.begin, eos_token_id=ids.end, pad_token_id=ids.pad)
    made.temperature, made.guidance_scale = 1.0, _GUIDANCE
    # Drawing needs it, and without the second line saving would forget it.
    made.generation_kwargs = {"boi_token_id": ids.image_start}
    return made_by_hand(made)


def load_janus(
    folder: Path | str,
    *,
    tokenizer: Path | str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    settings: JanusSettings | None = None,
    prompts: PromptOptions | None = None,
) -> Janus:
    """The policy of a folder of either form; `prompts` = other strings than the folder's.

    Raises:
        ValueError: a part is missing, the parts do not fit, or the folder does not tell its strings.
    """
    words = read_janus_tokenizer(folder if tokenizer is None else tokenizer)
    strings = read_janus_strings(folder, words, prompts)
    model = read_janus(folder, tokenizer=tokenizer, dtype=dtype)
    text: Any = model.config.text_config
    source = str(folder if tokenizer is None else tokenizer)
    require_fitting(words, [text, model.generation_config], rows=text.vocab_size, source=source)
    return Janus(model, processor_of(model, words), settings=settings, strings=strings).to(device)


def read_janus_strings(
    folder: Path | str, words: PreTrainedTokenizerBase, prompts: PromptOptions | None = None
) -> JanusStrings:
    """The strings around prompts and questions, as a folder of either form says, or as chosen.

    Raises:
        ValueError: the folder does not tell.
    """
    folder = local_folder(folder)
    is_official = require(folder, "janus") == "official"
    return strings_of_folder(folder, words, is_official=is_official, chosen=prompts)


def processor_of(
    model: JanusForConditionalGeneration,
    words: PreTrainedTokenizerBase,
    *,
    chat_template: str | None = None,
) -> JanusProcessor:
    """Words and image preparation of a Janus; mean and spread are one half, as in all released ones."""
    vision: Any = model.config.vision_config
    side = {"height": vision.image_size, "width": vision.image_size}
    image_processor = JanusImageProcessorPil(size=side, image_mean=list(_MEAN), image_std=list(_STD))
    return JanusProcessor(
        image_processor, words, num_image_tokens=vision.num_image_tokens, chat_template=chat_template
    )


# -- out


def write_janus(
    model: JanusForConditionalGeneration,
    output: Path,
    *,
    tokenizer: PreTrainedTokenizerBase,
    strings: JanusStrings | None = None,
) -> None:
    """Write a folder that `JanusForConditionalGeneration` and `AutoProcessor` load without sightloop.

    Its chat template makes the strings (None = the authors', by the tokenizer); the system prompt stands in
    it, so that transformers adds none.

    Raises:
        ValueError: the output is in the way, or the tokenizer lacks special tokens.
    """
    refuse_filled(output)
    guidance = model.generation_config.guidance_scale
    model.generation_config = _generation(SpecialIds.of_tokenizer(tokenizer))
    if guidance is not None:
        model.generation_config.guidance_scale = guidance
    strings = strings_of_tokenizer(tokenizer) if strings is None else strings
    with atomic_write(output) as partial:
        partial.mkdir(parents=True)
        model.save_pretrained(partial)
        processor_of(model, tokenizer, chat_template=strings.chat_template).save_pretrained(partial)


def write_official_janus(
    model: JanusForConditionalGeneration,
    output: Path,
    *,
    tokenizer: PreTrainedTokenizerBase,
    strings: JanusStrings | None = None,
) -> None:
    """Write a folder that the authors' program reads: its configurations, weights and tokenizer.

    That program is handed roles by its caller; config.json says them for sightloop. `strings` None = the
    authors', by the tokenizer.

    Raises:
        ValueError: the output is in the way, or the strings are not of the authors' form.
    """
    refuse_filled(output)
    strings = strings_of_tokenizer(tokenizer) if strings is None else strings
    conversation = Conversation.of(strings)
    if conversation is None:
        raise ValueError(
            "the authors' form cannot hold the question template "
            f"{strings.described()['question template']!r}; write the folder in transformers' form"
        )
    tensors = to_official(model.state_dict())
    with atomic_write(output) as partial:
        partial.mkdir(parents=True)
        write_weights(partial, tensors)
        stated = {"roles": list(conversation.roles), "system": conversation.system}
        write_json(partial / "config.json", config_for_authors(model) | {STATED: stated})
        write_json(partial / "processor_config.json", processor_for_authors(model, conversation))
        tokenizer.save_pretrained(partial)
