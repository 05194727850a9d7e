"""Tiny random models in folders as the hub has them: the model, its tokenizer, and the files of its processor
written out, those for videos too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.tiny_captioners import BOS, CHAT, EOS, IMAGE, PAD, SIDE, SIZES, random_weights, tokenizer
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GenerationConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_TOWER = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_QWEN = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def words_with(*specials: str, **named: str) -> Any:
    """The tests' tokenizer with a family's special tokens and words for yes and no."""
    words = tokenizer()
    words.add_special_tokens({"additional_special_tokens": [*specials, *named.values()]})  # pyright: ignore
    words.add_tokens(["yes", "no"])
    return PreTrainedTokenizerFast(
        tokenizer_object=words.backend_tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=named,
    )


def save_files(
    folder: Path, model: Any, words: PreTrainedTokenizerFast, *, image: str, files: dict[str, dict[str, Any]]
) -> Path:
    random_weights(model)
    token = model.config.to_dict().get("image_token_id") or model.config.to_dict()["image_token_index"]
    model.get_output_embeddings().weight.data[token] = 0
    model.generation_config = GenerationConfig(eos_token_id=EOS, pad_token_id=PAD, bos_token_id=BOS)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    files = {**files, "chat_template.json": {"chat_template": CHAT.replace("<image>", image)}}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def _qwen(
    folder: Path,
    config: type[PreTrainedConfig],
    model: Any,
    *,
    vision: dict[str, Any],
    processor: str,
    text: dict[str, Any] | None = None,
) -> Path:
    """A Qwen-VL with 4 places for an image of 16 pixels, whose video processor shares a file with the other
    or has its own.
    """
    words = words_with(*_QWEN)
    begin, end, picture, video = map(words.convert_tokens_to_ids, _QWEN)
    make: Any = config
    given = {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "depth": 2, "num_heads": 4}
    built = model(
        make(
            text_config={
                "vocab_size": len(words) + 4, "head_dim": 8, **SIZES, "rope_parameters": _ROPE, **(text or {})
            },
            vision_config={**given, **vision},
            image_token_id=picture,
            video_token_id=video,
            vision_start_token_id=begin,
            vision_end_token_id=end,
        )
    )  # fmt: skip
    patches = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2, **HALF}
    of_images = {**patches, "image_processor_type": "Qwen2VLImageProcessor", "processor_class": processor}
    if processor == "Qwen3VLProcessor":
        size = {"size": {"shortest_edge": 64, "longest_edge": 1024}}
        fast = {"image_processor_type": "Qwen2VLImageProcessorFast"}
        files = {
            "preprocessor_config.json": {**of_images, **size, **fast},
            "video_preprocessor_config.json": {
                **patches, **size, "processor_class": processor,
                "video_processor_type": "Qwen3VLVideoProcessor",
            },
        }  # fmt: skip
    else:
        files = {"preprocessor_config.json": {**of_images, "min_pixels": 64, "max_pixels": 1024}}
    return save_files(folder, built, words, image="<|vision_start|><|image_pad|><|vision_end|>", files=files)


def qwen2_vl(folder: Path) -> Path:
    """Qwen2-VL."""
    vision = {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    return _qwen(
        folder, Qwen2VLConfig, Qwen2VLForConditionalGeneration, vision=vision, processor="Qwen2VLProcessor"
    )


def qwen2_5_vl(folder: Path) -> Path:
    """Qwen2.5-VL, whose tower looks through windows."""
    vision = {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32}
    vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
    return _qwen(
        folder,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        vision=vision,
        processor="Qwen2_5_VLProcessor",
    )


def qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL, whose images enter the language model at two layers."""
    vision = {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32}
    vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    return _qwen(
        folder, Qwen3VLConfig, Qwen3VLForConditionalGeneration, vision=vision, processor="Qwen3VLProcessor"
    )


def qwen3_5(folder: Path) -> Path:
    """Qwen3.5, every other layer of which keeps a state instead of keys and values."""
    vision = {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32}
    heads = {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    text = {"layer_types": ["linear_attention", "full_attention"], **heads}
    text |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    text |= {"rope_parameters": {**_ROPE, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.5}}
    return _qwen(
        folder,
        Qwen3_5Config,
        Qwen3_5ForConditionalGeneration,
        vision={**vision, "num_position_embeddings": 16},
        processor="Qwen3VLProcessor",
        text=text,
    )


def llava_onevision(folder: Path) -> Path:
    """LLaVA-OneVision: the whole image and its tiles."""
    words = words_with("<video>")
    grid = {"image_grid_pinpoints": [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]]}
    made: Any = LlavaOnevisionConfig
    config = made(
        vision_config={
            "model_type": "siglip_vision_model",
            **_TOWER,
            "image_size": SIDE,
            "patch_size": 8,
            "vision_use_head": False,
        },
        text_config={"model_type": "qwen2", "vocab_size": len(words), **SIZES},
        image_token_index=IMAGE,
        video_token_index=words.convert_tokens_to_ids("<video>"),
        **grid,
    )
    size = {"size": {"height": SIDE, "width": SIDE}, **HALF, "processor_class": "LlavaOnevisionProcessor"}
    files = {
        "preprocessor_config.json": {
            **size,
            **grid,
            "image_processor_type": "LlavaOnevisionImageProcessor",
        },
        "video_preprocessor_config.json": {**size, "video_processor_type": "LlavaOnevisionVideoProcessor"},
        "processor_config.json": {
            "image_token": "<image>",
            "video_token": "<video>",
            "num_image_tokens": 4,
            "vision_feature_select_strategy": "full",
            "processor_class": "LlavaOnevisionProcessor",
        },
    }
    return save_files(
        folder, LlavaOnevisionForConditionalGeneration(config), words, image="<image>", files=files
    )


def internvl(folder: Path) -> Path:
    """InternVL, whose configuration tells the height and the width of its images."""
    words = words_with(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    made: Any = InternVLConfig
    config = made(
        vision_config={**_TOWER, "image_size": [SIDE, SIDE], "patch_size": [4, 4]},
        text_config={"model_type": "qwen2", "vocab_size": len(words), **SIZES},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    size = {"size": {"height": SIDE, "width": SIDE}, **HALF, "processor_class": "InternVLProcessor"}
    tiles = {"crop_to_patches": False, "min_patches": 1, "max_patches": 12}
    files = {
        "preprocessor_config.json": {**size, **tiles, "image_processor_type": "GotOcr2ImageProcessorFast"},
        "video_preprocessor_config.json": {**size, "video_processor_type": "InternVLVideoProcessor"},
        "processor_config.json": {"image_seq_length": 4, "processor_class": "InternVLProcessor"},
    }
    return save_files(
        folder, InternVLForConditionalGeneration(config), words, image="<IMG_CONTEXT>", files=files
    )


def smolvlm(folder: Path) -> Path:
    """SmolVLM, which counts the images of each text, with image splitting as on the hub."""
    rows = [f"<row_{i}_col_{j}>" for i in range(1, 4) for j in range(1, 4)]
    words = words_with(
        *("<global-img>", "<fake_token_around_image>", "<end_of_utterance>", "<video>", *rows),
        image_token="<image>",
    )
    config = SmolVLMConfig(
        vision_config={**_TOWER, "image_size": SIDE, "patch_size": 4},
        text_config={"model_type": "llama", "vocab_size": len(words), **SIZES},
        image_token_id=IMAGE,
        scale_factor=2,
    )
    size = {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}, **HALF}
    size |= {"processor_class": "SmolVLMProcessor"}
    sampled = {"video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": SIDE}}}
    files = {
        "preprocessor_config.json": {
            **size, **sampled, "do_image_splitting": True, "image_processor_type": "SmolVLMImageProcessor"
        },
        "processor_config.json": {"image_seq_len": 4, "processor_class": "SmolVLMProcessor"},
    }  # fmt: skip
    return save_files(folder, SmolVLMForConditionalGeneration(config), words, image="<image>", files=files)


def gemma3(folder: Path) -> Path:
    """Gemma 3, whose images are attended to in both directions; it counts the images of each text."""
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft>"}
    words = words_with(**named)
    begin, end, picture = map(words.convert_tokens_to_ids, named.values())
    made: Any = Gemma3Config
    config = made(
        vision_config={
            "model_type": "siglip_vision_model",
            **_TOWER,
            "image_size": SIDE,
            "patch_size": 4,
            "vision_use_head": False,
        },
        text_config={"vocab_size": len(words), "head_dim": 8, "query_pre_attn_scalar": 8, **SIZES},
        mm_tokens_per_image=4,
        boi_token_index=begin,
        eoi_token_index=end,
        image_token_index=picture,
        tie_word_embeddings=False,
    )
    size = {"size": {"height": SIDE, "width": SIDE}, **HALF, "processor_class": "Gemma3Processor"}
    files = {
        "preprocessor_config.json": {**size, "image_processor_type": "Gemma3ImageProcessor"},
        "processor_config.json": {"image_seq_length": 4, "processor_class": "Gemma3Processor"},
    }
    return save_files(
        folder, Gemma3ForConditionalGeneration(config), words, image="<start_of_image>", files=files
    )


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_5": qwen3_5,
    "llava_onevision": llava_onevision,
    "internvl": internvl,
    "smolvlm": smolvlm,
    "gemma3": gemma3,
}
