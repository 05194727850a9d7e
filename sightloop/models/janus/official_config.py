"""The configurations of a Janus as its authors' program reads them."""

from __future__ import annotations

from typing import Any

from transformers import JanusForConditionalGeneration

from sightloop.models.janus.conversation import FIRST_ROLES, IMAGE, Conversation

TOWER_HEADS = {"siglip_large_patch16_384": 16, "siglip_so400m_patch14_384": 16}
"""Heads of the towers that configurations name."""


def processor_for_authors(model: JanusForConditionalGeneration, conversation: Conversation) -> dict[str, Any]:
    """Their processor_config.json, which names the style of conversations."""
    vision: Any = model.config.vision_config
    return {
        "processor_class": "VLChatProcessor",
        "sft_format": "deepseek_old" if conversation.roles == FIRST_ROLES else "deepseek",
        "num_image_tokens": vision.num_image_tokens,
        "image_tag": IMAGE,
        "add_special_token": False,
        "mask_prompt": True,
        "ignore_id": -100,
    }


def config_for_authors(model: JanusForConditionalGeneration) -> dict[str, Any]:
    """Their config.json."""
    config: Any = model.config
    text, vision, vq = config.text_config, config.vision_config, config.vq_config
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    kept += ("num_key_value_heads", "max_position_embeddings", "rms_norm_eps")
    kept += ("bos_token_id", "eos_token_id", "pad_token_id")
    theta = {"rope_theta": text.rope_parameters["rope_theta"]}
    large = (vision.hidden_size, vision.num_hidden_layers, vision.patch_size, vision.image_size)
    name = "siglip_large_patch16_384" if large == (1024, 24, 16, 384) else "siglip_other"

    def part(cls: str, **params: Any) -> dict[str, Any]:
        return {"cls": cls, "params": params}

    def aligner(width: int, depth: int) -> dict[str, Any]:
        params = {"input_dim": width, "n_embed": text.hidden_size, "depth": depth}
        return part("MlpProjector", projector_type="mlp_gelu", **params)

    tower = {"image_size": vision.image_size, "num_heads": vision.num_attention_heads}
    if name in TOWER_HEADS:
        del tower["num_heads"]
    head = {"image_token_embed": vq.image_token_embed_dim, "image_token_size": vq.num_embeddings}
    return {
        "model_type": "multi_modality",
        "architectures": ["MultiModalityCausalLM"],
        "vision_config": part(
            "CLIPVisionTower", model_name=name, select_feature="same", select_layer=-1, **tower
        ),
        "aligner_config": aligner(vision.hidden_size, vision.depth),
        "gen_vision_config": part("VQ-16", image_token_size=vq.num_embeddings, n_embed=vq.embed_dim),
        "gen_aligner_config": aligner(vq.embed_dim, vq.num_hidden_layers),
        "gen_head_config": part("vision_head", n_embed=vq.projection_dim, **head),
        "language_config": {"model_type": "llama", **{key: text.to_dict()[key] for key in kept}, **theta},
    }
