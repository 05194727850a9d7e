"""A tiny random Janus: the real class, 16 codes an image, a tokenizer with one token a byte."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import nn
from transformers import (
    GenerationConfig,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil
from transformers.models.janus.processing_janus import JanusProcessor

from sightloop.models.janus.policy import Janus, JanusSettings
from sightloop.types import Images

BOS, EOS, PAD, START, STOP, PICTURE = range(6)
SPECIALS = ["<s>", "</s>", "<pad>", "<begin_of_image>", "<end_of_image>", "<image_placeholder>"]
SIDE, NUM_TOKENS, NUM_CODES = 32, 16, 64


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, for the few bytes that these tests spell."""
    letters = [*"abcdefghijklmnopqrstuvwxyzAU?!:.,<>|0123456789", "Ġ", "Ċ", "Ã", "©"]
    vocabulary = {word: index for index, word in enumerate([*SPECIALS, *letters])}
    core = Tokenizer(BPE(vocabulary, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    core.decoder = decoders.ByteLevel()  # pyright: ignore
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={
            "boi_token": "<begin_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_placeholder>",
        },
    )


def config(**sizes: Any) -> JanusConfig:
    """The shape of the tiny model, with `sizes` of its language model changed."""
    width = 64
    return JanusConfig(
        text_config=LlamaConfig(
            **{
                "vocab_size": len(tokenizer()),
                "hidden_size": width,
                "intermediate_size": 96,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 512,
                "bos_token_id": BOS,
                "eos_token_id": EOS,
                "pad_token_id": PAD,
                "tie_word_embeddings": False,
                **sizes,
            }
        ),
        vision_config=JanusVisionConfig(
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=8,
            num_image_tokens=NUM_TOKENS,
            projection_dim=width,
            depth=2,
        ),
        vq_config=JanusVQVAEConfig(
            embed_dim=8,
            num_embeddings=NUM_CODES,
            latent_channels=32,
            base_channels=32,
            channel_multiplier=[1, 1, 1, 2],
            num_res_blocks=1,
            projection_dim=width,
            image_token_embed_dim=width,
            num_hidden_layers=2,
        ),
        image_token_id=PICTURE,
        tie_word_embeddings=False,
    )


def random_weights(model: nn.Module, seed: int = 0) -> None:
    """Weights large enough that an image, a position and a word each change what comes out."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
        noise = torch.randn(parameter.shape, generator=generator) * fan_in**-0.5
        parameter.data = noise + float("norm" in name and name.endswith("weight"))
        if name.endswith(("lm_head.weight", "vision_head.weight")):
            parameter.data *= 3
        if "embed" in name:
            parameter.data *= parameter.shape[-1] ** 0.5
        if name == "lm_head.weight":
            # Decided enough that, as in trained models, an image's place is hardly ever drawn,
            # and texts end.
            parameter.data[PICTURE] = 0
            parameter.data[EOS] *= 2


def tiny_model(seed: int = 0) -> JanusForConditionalGeneration:
    """The model alone."""
    model = JanusForConditionalGeneration(config()).eval()
    random_weights(model, seed)
    generation: Any = GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    generation.generation_kwargs = {"boi_token_id": START}
    generation.guidance_scale = 5.0
    model.generation_config = generation
    return model


def tiny_processor() -> JanusProcessor:
    """Its processor."""
    pictures = JanusImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return JanusProcessor(pictures, tokenizer(), num_image_tokens=NUM_TOKENS)


def stirred(policy: Janus) -> Janus:
    """The policy with adapters that do something."""
    assert policy.adapters is not None
    generator = torch.Generator().manual_seed(5)
    for up in policy.adapters.up.values():
        up.data = torch.randn(up.shape, generator=generator) * 0.3
    return policy


def tiny_janus(*, stir: bool = True, dtype: torch.dtype = torch.float32, **settings: Any) -> Janus:
    """The policy; `stir` gives its adapters weights."""
    chosen = JanusSettings(**{"lora_rank": 2, **settings})
    model: Any = tiny_model()
    policy = Janus(model.to(dtype), tiny_processor(), settings=chosen)
    return stirred(policy) if stir and policy.adapters is not None else policy


def pictures(number: int, *, height: int = SIDE, width: int = SIDE, seed: int = 1) -> Images:
    """Different random images."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (number, 3, height, width), generator=generator, dtype=torch.uint8)
    return Images(pixels=pixels)
