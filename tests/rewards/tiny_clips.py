"""Tiny random CLIPs and SigLIPs as folders of the hub's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rewards.words_of_a_few import BEGIN, END, PAD, WORDS, few_words
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    BlipConfig,
    BlipForImageTextRetrieval,
    CLIPConfig,
    CLIPModel,
    MetaClip2Config,
    MetaClip2Model,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

SIDE, NUM_WORDS, WIDTH = 16, 12, 8
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_TEXT = {"vocab_size": len(WORDS), "max_position_embeddings": NUM_WORDS}
_ENDS = {"bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": PAD}
_VISION = {"image_size": SIDE, "patch_size": 8}


def clip_folder(folder: Path, *, side: int = SIDE, act: str = "quick_gelu") -> Path:
    """A CLIP whose processor makes images of `side` pixels."""
    sizes = {**_SIZES, "hidden_act": act}
    config = CLIPConfig(
        text_config={**sizes, **_TEXT, **_ENDS}, vision_config={**sizes, **_VISION}, projection_dim=WIDTH
    )
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=MEAN,
        image_std=STD,
    )
    return _saved(folder, CLIPModel(config), pictures)


def metaclip2_folder(folder: Path) -> Path:
    """A MetaCLIP 2."""
    config = MetaClip2Config(
        text_config={**_SIZES, **_TEXT, **_ENDS}, vision_config={**_SIZES, **_VISION}, projection_dim=WIDTH
    )
    return _saved(folder, MetaClip2Model(config), _cropped())


def altclip_folder(folder: Path) -> Path:
    """An AltCLIP, which reads by a RoBERTa."""
    text = {**_SIZES, "vocab_size": len(WORDS), "max_position_embeddings": NUM_WORDS + PAD + 1}
    config = AltCLIPConfig(
        text_config={**text, **_ENDS, "project_dim": 24},
        vision_config={**_SIZES, **_VISION, "projection_dim": WIDTH},
        projection_dim=WIDTH,
    )
    return _saved(folder, AltCLIPModel(config), _cropped())


def siglip2_folder(folder: Path) -> Path:
    """A SigLIP 2 that takes images in their own shapes, of at most 16 patches of 4 pixels."""
    config = Siglip2Config(
        # Its class of tokenizer adds a mask.
        text_config={**_SIZES, **_TEXT, **_ENDS, "vocab_size": len(WORDS) + 1, "projection_size": 32},
        vision_config={**_SIZES, "patch_size": 4, "num_patches": 16},
    )
    return _saved(folder, Siglip2Model(config), Siglip2ImageProcessorPil(patch_size=4, max_num_patches=16))


def blip_matcher_folder(folder: Path) -> Path:
    """A BLIP that judges pairs."""
    config = BlipConfig(
        vision_config={**_SIZES, **_VISION},
        text_config={**_SIZES, **_TEXT, **_ENDS, "encoder_hidden_size": 32, "max_position_embeddings": 64},
        image_text_hidden_size=16,
    )
    pictures = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_mean=MEAN, image_std=STD)
    return _saved(folder, BlipForImageTextRetrieval(config), pictures)


def _cropped() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=MEAN,
        image_std=STD,
    )


def siglip_folder(folder: Path) -> Path:
    """A SigLIP."""
    config = SiglipConfig(
        text_config={**_SIZES, **_TEXT, **_ENDS, "projection_size": WIDTH * 4},
        vision_config={**_SIZES, **_VISION},
    )
    pictures = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}, resample=2)
    return _saved(folder, SiglipModel(config), pictures)


def _saved(folder: Path, model: Any, pictures: Any) -> Path:
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.4)
        parameter.data += float("norm" in name and name.endswith("weight"))
    model.save_pretrained(folder)
    pictures.save_pretrained(folder)
    few_words(frame=True).save_pretrained(folder)
    return folder
