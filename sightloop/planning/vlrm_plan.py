"""The resource plan: parameters, memory and FLOPs of a step, from configurations alone. No weight is
loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    OPTConfig,
)

from sightloop.models.captioners.blip2 import Blip2Captioner, Bridge
from sightloop.models.captioners.critic import ValueHead
from sightloop.models.lora import Adapters
from sightloop.models.named_models import model_config
from sightloop.planning.precision import precision_lines
from sightloop.recipes.vlrm.algorithms import ALGORITHMS
from sightloop.recipes.vlrm.config import VlrmConfig
from sightloop.world.bundled import WEIGHTS

GIB = 2**30
ACTIVATIONS, CACHE = "activations of a micro-batch", "cache while drawing"
_RANKS = (1, 8)
"""Numbers of ranks that the plan shows side by side."""
_CAPTION_SHARE = 0.6
"""Assumed mean length of drawn captions, as a share of the limit."""


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


def _clip_big_g() -> CLIPConfig:
    text = CLIPTextConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        hidden_act="gelu",
    )
    vision = CLIPVisionConfig(
        hidden_size=1664,
        intermediate_size=8192,
        num_hidden_layers=48,
        num_attention_heads=16,
        patch_size=14,
        hidden_act="gelu",
    )
    return CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=1280)


PUBLISHED: dict[str, Callable[[], Any]] = {
    "Salesforce/blip2-opt-2.7b": lambda: _blip2_opt(reads_text=False),
    "Salesforce/blip2-itm-vit-g": lambda: _blip2_opt(reads_text=True),
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": _clip_big_g,
}
"""Sizes of the paper's checkpoints, so that the plan needs no download."""


def config_of(name: str) -> Any:
    """The configuration of a folder or hub name; the paper's own checkpoints are known by heart."""
    if name in PUBLISHED and not Path(name).exists():
        return PUBLISHED[name]()
    return model_config(name)


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """The networks of a run on the meta device: shapes without memory."""

    captioner: Any
    bridge: nn.Module
    judge: Any | None
    clip: Any | None
    head: nn.Module | None
    adapters: nn.Module | None


def shapes_of(config: VlrmConfig) -> Shapes:
    """Build every network of the configuration on the meta device.

    Raises:
        ValueError: the policy is not BLIP-2; other models bring their own sizes.
    """
    source = config.policy or str(WEIGHTS / "captioner")
    blip2 = config_of(source)
    if blip2.model_type != "blip-2":
        raise ValueError(f"the plan covers BLIP-2 policies; {source!r} is {blip2.model_type!r}")
    with torch.device("meta"):
        captioner = Blip2ForConditionalGeneration(blip2)
        judge = clip = head = adapters = None
        if config.rewards.similarity:
            judge = Blip2ForImageTextRetrieval(config_of(config.judge.model or str(WEIGHTS / "judge")))
        if config.rewards.retrieval:
            clip = CLIPModel(config_of(config.judge.retrieval_clip or str(WEIGHTS / "clip_retrieval")))
        if ALGORITHMS[config.algorithm].has_critic:
            hidden = int(blip2.text_config.hidden_size)
            head = ValueHead(hidden, config.critic.widths, torch.device("meta"))
            linears = Blip2Captioner.linears_of(captioner)
            rank = config.critic.lora_rank
            adapters = Adapters(linears, rank=rank, alpha=2 * rank)
    return Shapes(
        captioner=captioner, bridge=Bridge(captioner), judge=judge, clip=clip, head=head, adapters=adapters
    )


def count(module: nn.Module | None) -> int:
    """Parameters of a module; 0 for none."""
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def memory_plan(config: VlrmConfig, *, shared_tower: bool = True, num_ranks: int = 1) -> dict[str, float]:
    """GiB by part on each rank, the judge's tower shared with the captioner's if the two are equal."""
    shapes = shapes_of(config)
    half = 2 if config.dtype == "bfloat16" else 4
    trained = count(shapes.bridge) + count(shapes.head) + count(shapes.adapters)
    frozen = count(shapes.captioner) - count(shapes.bridge)
    if config.shard:
        spread = _layers(shapes.captioner)
        frozen -= spread - spread // num_ranks
    judge_tower = count(shapes.judge.vision_model) if shapes.judge is not None else 0
    captions = -(-config.batch * config.draw.per_image // num_ranks)
    parts = {
        "frozen tower and language model": frozen * half,
        "trainable bridge": count(shapes.bridge) * 4,
        "value head": count(shapes.head) * 4,
        "critic's adapters": count(shapes.adapters) * 4,
        "gradients and Adam's moments": trained * 12,
        "judge behind its tower": (count(shapes.judge) - judge_tower) * 4,
        "judge's own tower": 0 if shared_tower else judge_tower * half,
        "CLIP of the retrieval term": count(shapes.clip) * half,
        "tower features of a step": _features(shapes, half) * captions if config.keep_features else 0,
        ACTIVATIONS: _activations(config, shapes, half) * min(config.schedule.micro_batch, captions),
        CACHE: _cache(config, shapes, half) * min(config.draw_batch or captions, captions),
    }
    return {name: size / GIB for name, size in parts.items() if size}


def _layers(captioner: Any) -> int:
    """Parameters of the layers that `shard` spreads over the ranks."""
    return count(captioner.vision_model.encoder.layers) + count(captioner.language_model.model.decoder.layers)


def _features(shapes: Shapes, half: int) -> float:
    """Bytes of one caption, as below."""
    vision = shapes.captioner.config.vision_config
    return _num_patches(vision) * vision.hidden_size * half


def _activations(config: VlrmConfig, shapes: Shapes, half: int) -> float:
    text = shapes.captioner.config.text_config
    positions = shapes.captioner.config.num_query_tokens + 1 + config.draw.max_new_tokens
    per_layer = positions * (10 * text.hidden_size + 2 * text.ffn_dim) * half
    layers = 1 if config.gradient_checkpointing else text.num_hidden_layers
    kept = positions * text.hidden_size * half * text.num_hidden_layers
    # The critic has learned before the policy is scored: their graphs are never alive together.
    return layers * per_layer + kept


def _cache(config: VlrmConfig, shapes: Shapes, half: int) -> float:
    text = shapes.captioner.config.text_config
    positions = shapes.captioner.config.num_query_tokens + 1 + config.draw.max_new_tokens
    return positions * 2 * text.hidden_size * text.num_hidden_layers * half


def _num_patches(vision: Any) -> int:
    return (vision.image_size // vision.patch_size) ** 2 + 1


def step_flops(config: VlrmConfig) -> dict[str, float]:
    """Expected FLOPs of one step by pass: 2 a weight and position forward, 2 more backward through frozen
    weights.
    """
    shapes = shapes_of(config)
    captioner = shapes.captioner
    vision, text = captioner.config.vision_config, captioner.config.text_config
    captions = config.batch * config.draw.per_image
    length = _CAPTION_SHARE * config.draw.max_new_tokens
    queries = captioner.config.num_query_tokens
    body = count(captioner.language_model.model.decoder.layers)
    head = text.vocab_size * text.hidden_size
    bridge = 2 * count(captioner.qformer.encoder) * queries
    language = 2 * body * (queries + 1 + length)
    words = 2 * head * length
    flops = {
        "tower": config.batch * 2 * count(captioner.vision_model.encoder) * _num_patches(vision),
        "draw": captions * (bridge + language + words),
        "policy, forward and backward": captions * (3 * bridge + 2 * (language + words)),
    }
    if config.rewards.reference:
        flops["reference"] = captions * (2 * body * length + words)
    if shapes.judge is not None:
        flops["judge"] = captions * 2 * count(shapes.judge.qformer.encoder) * (queries + length)
    if shapes.head is not None:
        value = 2 * count(shapes.head) * length
        flops["critic, forward and backward"] = captions * (2 * language + 3 * value)
    return flops


def print_plan(config: VlrmConfig) -> None:
    """The plan as three small tables."""
    shapes = shapes_of(config)
    print("parameters")
    for name, module in (
        ("captioner", shapes.captioner),
        ("  of it trainable (queries, Q-Former, projection)", shapes.bridge),
        ("value head", shapes.head),
        ("critic's adapters", shapes.adapters),
        ("judge", shapes.judge),
        ("CLIP of the retrieval term", shapes.clip),
    ):
        if module is not None:
            print(f"  {name:<52} {count(module):>15,}")
    columns = [memory_plan(config, num_ranks=number) for number in _RANKS]
    print("\n".join(precision_lines(config)))
    title = "memory on each rank, GiB (estimate; the judge's tower shared)"
    print(title + f"{'1 rank':>{70 - len(title)}}" + "".join(f"{f'of {n}':>16}" for n in _RANKS[1:]))
    for name in (*columns[0], "together"):
        sizes = [sum(column.values()) if name == "together" else column[name] for column in columns]
        print(f"  {name:<52} " + " ".join(f"{size:>15.3f}" for size in sizes))
    flops = step_flops(config)
    print(
        f"FLOPs of a step of {config.batch} images, all ranks "
        f"(expected; captions of {_CAPTION_SHARE:.0%} of the limit)"
    )
    for name, number in (flops | {"together": sum(flops.values())}).items():
        print(f"  {name:<52} {number:>15.3e}")
