"""A tiny Show-o of the real classes with random weights, for tests."""

from __future__ import annotations

from typing import Any

import torch
from tiny_captioners import random_weights
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from sightloop.models.show_o.layout import SPECIAL_TOKENS
from sightloop.models.show_o.magvit2 import Magvit2, Magvit2Config
from sightloop.models.show_o.policy import ShowO, ShowOSettings
from sightloop.types import Images

NUM_TOKENS, FACTOR, NUM_BITS = 9, 4, 5
"""Codes of an image, pixels along a code's side, bits of a code."""
SIDE = 12
END = "<|endoftext|>"


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, for the few bytes that these tests spell; no pad token yet, as Phi-1.5's."""
    letters = [*"abcdefghijklmnopqrstuvwxyzAERSTUIOGN?!:<|>[]P", "Ġ", "Ċ", "Ã", "©"]
    core = Tokenizer(BPE({word: index for index, word in enumerate([*letters, END])}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    core.decoder = decoders.ByteLevel()  # pyright: ignore
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=END, eos_token=END, unk_token=END)


def magvit(seed: int = 0) -> Magvit2:
    """Three levels: 4 x 4 pixels a code."""
    config = Magvit2Config(
        channels=32,
        encoder_multipliers=(1, 1, 1),
        encoder_blocks=(1, 1, 1),
        decoder_multipliers=(1, 1, 1),
        decoder_blocks=(1, 1, 1),
        num_bits=NUM_BITS,
    )
    model = Magvit2(config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.0
        noise = torch.randn(parameter.shape, generator=generator) * spread
        parameter.data = noise if parameter.ndim > 1 else parameter.data.round()
    return model


def language(words: PreTrainedTokenizerFast, *, seed: int = 0, layers: int = 2) -> PhiForCausalLM:
    """A Phi of two narrow layers, decided enough that a prompt or an image changes what it says."""
    config = PhiConfig(
        vocab_size=len(words) + len(SPECIAL_TOKENS) + 2**NUM_BITS + 1,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=256,
        qk_layernorm=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = PhiForCausalLM(config)
    random_weights(model, seed)
    # So that answers end, and are not all the same.
    model.lm_head.weight.data *= 0.4
    model.lm_head.bias.data[words.get_vocab()[END]] += 1.5
    return model


def show_o(**settings: Any) -> ShowO:
    """The policy; its adapters are stirred, so that on and off differ."""
    words = tokenizer()
    chosen: dict[str, Any] = {
        "num_image_tokens": NUM_TOKENS,
        "max_text_tokens": 12,
        "lora_rank": 2,
    } | settings
    return ShowO(language(words), words, magvit(), settings=ShowOSettings(**chosen))


def stirred(policy: ShowO, scale: float = 0.2) -> ShowO:
    """With adapters that do something."""
    assert policy.adapters is not None
    generator = torch.Generator().manual_seed(3)
    for up in policy.adapters.up.values():
        up.data = torch.randn(up.shape, generator=generator) * scale
    return policy


def pictures(count: int) -> Images:
    """Different images of the policy's size."""
    generator = torch.Generator().manual_seed(5)
    return Images(pixels=torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=generator).to(torch.uint8))
