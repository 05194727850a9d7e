"""Tiny random BLIP-2 (OPT) captioners and matchers, in memory or as folders of the hub's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from sightloop.models.captioners.blip2 import Blip2Captioner
from sightloop.types import Images
from sightloop.world.language import WORDS
from sightloop.world.models import IMAGE, PAD, tokenizer

SIDE, NUM_QUERIES, WIDTH = 16, 4, 32
BOS = WORDS.index("</s>")
END = WORDS.index("is")
"""As in the published checkpoints, texts begin with `</s>` and end with an word (there a newline)."""
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]


def config(*, image_token_index: int | None = IMAGE, reads_text: bool = False) -> Blip2Config:
    """Two layers of everything, with the dropout of the published configurations."""
    sizes: dict[str, Any] = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    return Blip2Config(
        vision_config=Blip2VisionConfig(image_size=SIDE, patch_size=4, **sizes),
        qformer_config=Blip2QFormerConfig(
            vocab_size=len(WORDS),
            cross_attention_frequency=2,
            encoder_hidden_size=WIDTH,
            max_position_embeddings=64,
            use_qformer_text_input=reads_text,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            **sizes,
        ),
        text_config=OPTConfig(
            vocab_size=len(WORDS),
            hidden_size=WIDTH,
            ffn_dim=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            word_embed_proj_dim=WIDTH,
            dropout=0.1,
            attention_dropout=0.1,
            layerdrop=0.1,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=END,
        ),
        num_query_tokens=NUM_QUERIES,
        image_token_index=image_token_index,
        image_text_hidden_size=16,
    )


def random_weights(model: Any, seed: int) -> Any:
    """Weights large enough that an image, a position and a word each change what is said."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.data = noise * (1.0 if "query_tokens" in name else parameter.shape[-1] ** -0.5)
        else:
            parameter.data = parameter.data + 0.1 * noise
    return model


def images_processor(side: int = SIDE) -> BlipImageProcessorPil:
    """How pixels are prepared."""
    return BlipImageProcessorPil(size={"height": side, "width": side}, image_mean=MEAN, image_std=STD)


def words() -> PreTrainedTokenizerFast:
    """One token a word."""
    return tokenizer(frame=False)


def model(*, image_token_index: int | None = IMAGE, seed: int = 0) -> Blip2ForConditionalGeneration:
    """A random captioner of transformers, dropout on as configured."""
    made = Blip2ForConditionalGeneration(config(image_token_index=image_token_index))
    random_weights(made, seed)
    made.language_model.tie_weights()
    return made


def captioner(*, image_token_index: int | None = IMAGE, seed: int = 0) -> Blip2Captioner:
    """The same as a policy."""
    return Blip2Captioner(model(image_token_index=image_token_index, seed=seed), words(), images_processor())


def matcher(*, seed: int = 1) -> Blip2ForImageTextRetrieval:
    """A random image-text matcher of transformers."""
    return random_weights(Blip2ForImageTextRetrieval(config(reads_text=True)), seed).eval()


def save(folder: Path, made: Any) -> Path:
    """The model and its processor as a folder of the hub's format."""
    made.save_pretrained(folder)
    Blip2Processor(images_processor(), words(), num_query_tokens=NUM_QUERIES).save_pretrained(folder)
    return folder


def pictures(number: int, *, side: int = SIDE, seed: int = 0) -> Images:
    """Random pixels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (number, 3, side, side), generator=generator, dtype=torch.uint8)
    return Images(pixels=pixels)


@torch.no_grad()
def whole_model_logits(policy: Blip2Captioner, images: Images, prompt: str, ids: list[int]) -> Tensor:
    """What transformers' own forward pass says at each of the tokens `ids` about one image."""
    made: Any = policy.model
    before = policy.tokenizer(prompt, add_special_tokens=False).input_ids if prompt else []
    text = [policy.bos, *before, *ids]
    # The features replace the placeholders, so any token will do that the text does not use.
    placeholder = next(id for id in range(len(WORDS)) if id not in text)
    row = [placeholder] * made.config.num_query_tokens + text
    usual, made.config.image_token_index = made.config.image_token_index, placeholder
    logits = made(
        pixel_values=(images.pixels.float() / 255 - policy.pixel_mean) / policy.pixel_std,
        input_ids=torch.tensor([row]),
        attention_mask=torch.ones(1, len(row), dtype=torch.long),
    ).logits
    made.config.image_token_index = usual
    return logits[0, -len(ids) - 1 : -1].float()
