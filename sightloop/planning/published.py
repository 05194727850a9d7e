"""Sizes of the papers' checkpoints, so that their plans need no download."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Blip2Config,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    CLIPConfig,
    CLIPVisionConfig,
    JanusConfig,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    OPTConfig,
)

from sightloop.models.named_models import model_config
from sightloop.models.show_o.checkpoint import ShowOSizes

SHOW_O = ShowOSizes(num_image_tokens=1024, num_text=50295, max_text_tokens=64)
"""Show-o at 512 pixels, as UniRL trains it."""
PHI: dict[str, Any] = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24}
"""Phi-1.5, Show-o's language model; it has 32 heads."""
SHOW_O_TOWER = "openai/clip-vit-large-patch14-336"


def _blip2_opt(*, reads_text: bool) -> Blip2Config:
    text = OPTConfig(
        hidden_size=2560,
        ffn_dim=10240,
        num_hidden_layers=32,
        num_attention_heads=32,
        word_embed_proj_dim=2560,
        vocab_size=50272,
    )
    return Blip2Config(
        vision_config=Blip2VisionConfig(),
        qformer_config=Blip2QFormerConfig(use_qformer_text_input=reads_text, vocab_size=30523),
        text_config=text,
        image_token_index=50265,
    )


def _tower(width: int, inner: int, layers: int, *, objective: int = 224) -> dict[str, Any]:
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
    return sizes | {
        "num_attention_heads": 16,
        "image_size": objective,
        "patch_size": 14,
        "hidden_act": "gelu",
    }


def _clip(tower: dict[str, Any], width: int, layers: int, projection: int) -> CLIPConfig:
    text = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    return CLIPConfig(
        text_config=text | {"num_attention_heads": width // 64, "hidden_act": "gelu"},
        vision_config=tower,
        projection_dim=projection,
    )


def janus() -> JanusConfig:
    """Janus 1.3B: DeepSeek-LLM's body, SigLIP-L at 384 pixels, 576 of 16,384 codes."""
    return JanusConfig(
        text_config=LlamaConfig(
            vocab_size=102400,
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=24,
            num_attention_heads=16,
            num_key_value_heads=16,
            max_position_embeddings=16384,
            tie_word_embeddings=False,
        ),
        vision_config=JanusVisionConfig(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=384,
            patch_size=16,
            num_image_tokens=576,
            mlp_ratio=4.0,
            projection_dim=2048,
            depth=2,
        ),
        vq_config=JanusVQVAEConfig(
            embed_dim=8,
            num_embeddings=16384,
            latent_channels=256,
            base_channels=128,
            channel_multiplier=[1, 1, 2, 2, 4],
            num_res_blocks=2,
            projection_dim=2048,
            image_token_embed_dim=2048,
            num_hidden_layers=2,
        ),
        tie_word_embeddings=False,
    )


_PUBLISHED: dict[str, Callable[[], Any]] = {
    "Salesforce/blip2-opt-2.7b": lambda: _blip2_opt(reads_text=False),
    "Salesforce/blip2-itm-vit-g": lambda: _blip2_opt(reads_text=True),
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": lambda: _clip(_tower(1664, 8192, 48), 1280, 32, 1280),
    "laion/CLIP-ViT-g-14-laion2B-s12B-b42K": lambda: _clip(_tower(1408, 6144, 40), 1024, 24, 1024),
    "openai/clip-vit-large-patch14": lambda: _clip(_tower(1024, 4096, 24), 768, 12, 768),
    SHOW_O_TOWER: lambda: CLIPVisionConfig(**_tower(1024, 4096, 24, objective=336)),
}


def downloads(named: Mapping[str, int]) -> dict[str, float]:
    """Bytes of weights by hub name, for so many parameters each; folders that are there are left out.

    Weights are published in the precision that a configuration names, else in float32.
    """
    found: dict[str, float] = {}
    for name, number in named.items():
        if name and number and not Path(name).exists():
            kept = config_of(name).dtype
            found[name] = number * (kept or torch.float32).itemsize
    return found


def config_of(name: str) -> Any:
    """The configuration of a folder or hub name; the papers' own checkpoints are known by heart.

    Raises:
        ValueError: there is no such model.
    """
    return _PUBLISHED[name]() if name in _PUBLISHED and not Path(name).exists() else model_config(name)
