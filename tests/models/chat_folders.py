"""More tiny random chat models in folders as the hub has them, beside those of hub_folders.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from models import tiny_blip2, tiny_janus
from models.hub_folders import FOLDERS
from models.tiny_captioners import CHAT, EOS, IMAGE, SIDE, SIZES, idefics3, llava, paligemma, save, tokenizer
from transformers import (
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)
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
    "paligemma": _paligemma,
    "janus": _janus,
    **FOLDERS,
}
