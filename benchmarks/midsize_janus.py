"""A Janus of middle size with random weights and its tokenizer: real numbers of tokens and codes.

Its VQ model is small, because it takes no part in what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
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

SPECIALS = ["<s>", "</s>", "<pad>", "<begin_of_image>", "<end_of_image>", "<image_placeholder>"]
BOS, EOS, PAD, START, STOP, PICTURE = range(6)
VOCABULARY = 32000
PROMPT = " ".join(f"w{index}" for index in range(100, 110))


@dataclass(frozen=True, kw_only=True)
class JanusSizes:
    """The defaults are the benchmark's: 24 x 24 codes an image, as released models have."""

    image: int = 384
    layers: int = 8
    width: int = 512
    codes: int = 16384
    vision_layers: int = 4
    vision_width: int = 256


def new_janus(sizes: JanusSizes) -> JanusForConditionalGeneration:
    """The model, with weights that spread its logits."""
    torch.manual_seed(0)
    config = JanusConfig(
        text_config=LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=sizes.width,
            intermediate_size=sizes.width * 11 // 4,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.width // 64,
            num_key_value_heads=sizes.width // 64,
            max_position_embeddings=2048,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
            tie_word_embeddings=False,
        ),
        vision_config=JanusVisionConfig(
            hidden_size=sizes.vision_width,
            num_hidden_layers=sizes.vision_layers,
            num_attention_heads=sizes.vision_width // 64,
            image_size=sizes.image,
            patch_size=16,
            num_image_tokens=(sizes.image // 16) ** 2,
            projection_dim=sizes.width,
            depth=2,
        ),
        vq_config=JanusVQVAEConfig(
            embed_dim=8,
            num_embeddings=sizes.codes,
            latent_channels=32,
            base_channels=32,
            channel_multiplier=[1, 1, 1, 1, 1],
            num_res_blocks=1,
            projection_dim=sizes.width,
            image_token_embed_dim=sizes.width,
            num_hidden_layers=2,
        ),
        image_token_id=PICTURE,
        tie_word_embeddings=False,
    )
    model = JanusForConditionalGeneration(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embed" not in name:
            nn.init.normal_(parameter, 0, parameter.shape[1] ** -0.5)
    nn.init.normal_(model.model.generation_embeddings.weight)
    nn.init.normal_(model.model.language_model.embed_tokens.weight)
    generation: Any = GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    generation.generation_kwargs = {"boi_token_id": START}
    model.generation_config = generation
    return model


def words() -> PreTrainedTokenizerFast:
    """A tokenizer of the language model's size, one made-up word a token."""
    vocabulary = {word: index for index, word in enumerate(SPECIALS)}
    vocabulary |= {f"w{index}": index for index in range(len(SPECIALS), VOCABULARY)}
    core = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=SPECIALS[3:],
    )
