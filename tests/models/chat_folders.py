"""More tiny random chat models in folders as the hub has them, beside those of hub_folders.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from models import tiny_blip2, tiny_janus
from models.hub_folders import FOLDERS, HALF, save_files, words_with
from models.tiny_captioners import CHAT, EOS, IMAGE, SIDE, SIZES, idefics3, llava, paligemma, save, tokenizer
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
)
from transformers.models.aya_vision.processing_aya_vision import AyaVisionProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

_TOWER = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def llava_next(folder: Path) -> Path:
    """LLaVA-NeXT: the whole image and its tiles."""
    words, grid = tokenizer(), [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]]
    config = LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", **_TOWER, "image_size": SIDE, "patch_size": 8},
        text_config={"model_type": "llama", "vocab_size": len(words), **SIZES},
        image_token_index=IMAGE,
        image_grid_pinpoints=grid,
        vision_feature_layer=-2,
    )
    pictures = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=grid
    )
    processor = LlavaNextProcessor(
        pictures,
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    return save(folder, LlavaNextForConditionalGeneration(config), processor, [EOS])


_PIXTRAL = {"model_type": "pixtral", **_TOWER, "image_size": 3 * SIDE, "patch_size": 4}


def _of_mistral(folder: Path, config: Any, model: Any, *, merge: int, **more: Any) -> Path:
    """A model whose images keep their shapes up to a longest side, and whose lines of image tokens end with
    a token of their own.
    """
    words = words_with("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    image = words.convert_tokens_to_ids("[IMG]")
    built = model(
        config(
            vision_config=_PIXTRAL,
            text_config={"model_type": "mistral", "vocab_size": len(words), "head_dim": 8, **SIZES},
            image_token_index=image,
            **more,
        )
    )
    files = {
        "preprocessor_config.json": {
            **HALF,
            "image_processor_type": "PixtralImageProcessor",
            "processor_class": "PixtralProcessor",
            "size": {"longest_edge": 3 * SIDE},
            "patch_size": {"height": 4, "width": 4},
        },
        "processor_config.json": {
            "processor_class": "PixtralProcessor",
            "image_token": "[IMG]",
            "image_break_token": "[IMG_BREAK]",
            "image_end_token": "[IMG_END]",
            "patch_size": 4,
            "spatial_merge_size": merge,
        },
    }
    return save_files(folder, built, words, image="[IMG]", files=files)


def pixtral(folder: Path) -> Path:
    """Pixtral."""
    layers = {"vision_feature_select_strategy": "full", "vision_feature_layer": -1}
    return _of_mistral(folder, LlavaConfig, LlavaForConditionalGeneration, merge=1, **layers)


def mistral3(folder: Path) -> Path:
    """Mistral 3, which merges patches two by two."""
    return _of_mistral(
        folder, Mistral3Config, Mistral3ForConditionalGeneration, merge=2, spatial_merge_size=2
    )


def aya_vision(folder: Path) -> Path:
    """Aya Vision: tiles, then the whole image."""
    words: Any = tokenizer()
    marks = ["<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "TILE_GLOBAL"]
    marks += [f"TILE_{number}" for number in range(1, 13)]
    words.add_special_tokens({"additional_special_tokens": marks})
    config = AyaVisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            **_TOWER,
            "image_size": SIDE,
            "patch_size": 4,
            "vision_use_head": False,
        },
        text_config={"model_type": "cohere2", "vocab_size": len(words), "head_dim": 8, **SIZES},
        image_token_index=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
    )
    pictures = GotOcr2ImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, crop_to_patches=True, min_patches=1, max_patches=12
    )
    processor = AyaVisionProcessor(
        pictures, words, patch_size=4, img_size=SIDE, downsample_factor=2, chat_template=CHAT
    )
    return save(folder, AyaVisionForConditionalGeneration(config), processor, [EOS])


def _paligemma(folder: Path) -> Path:
    model, processor = paligemma()
    # Its processor knows places in images, a thousand words more.
    model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)  # pyright: ignore
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _blip2(folder: Path) -> Path:
    return tiny_blip2.save(folder, tiny_blip2.model())


def _janus(folder: Path) -> Path:
    tiny_janus.tiny_model().save_pretrained(folder)
    tiny_janus.tiny_processor().save_pretrained(folder)
    return folder


CHAT_FOLDERS: dict[str, Callable[[Path], Path]] = {
    "blip2": _blip2,
    "llava": llava,
    "llava_next": llava_next,
    "idefics3": idefics3,
    "pixtral": pixtral,
    "mistral3": mistral3,
    "aya_vision": aya_vision,
    "paligemma": _paligemma,
    "janus": _janus,
    **FOLDERS,
}
