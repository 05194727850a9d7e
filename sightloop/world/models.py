"""The embedded world's models: the classes of the real ones with small sizes, and the bundled folders they
live in.

Each folder is in the hub's own format, so the loaders of the real checkpoints read it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPVisionConfig,
    GenerationConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from sightloop.world.language import SPECIALS, WORDS
from sightloop.world.scenes import SIDE

PAD, BOS, UNKNOWN, EOS, IMAGE = range(len(SPECIALS))
NUM_QUERIES = 8
WIDTH = 96
VISION_WIDTH = 64
IMAGE_MEAN, IMAGE_STD = (0.5, 0.5, 0.5), (0.28, 0.28, 0.28)
MAX_CAPTION_TOKENS = 40


def tokenizer(*, frame: bool) -> PreTrainedTokenizerFast:
    """One token a word or comma. `frame` puts `<s>` and `</s>` around every text, as BERT and CLIP do."""
    core = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    split_commas = pre_tokenizers.Split(",", "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), split_commas])  # pyright: ignore
    core.decoder = decoders.WordPiece(cleanup=True)  # pyright: ignore
    if frame:
        core.post_processor = processors.TemplateProcessing(  # pyright: ignore
            single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
        clean_up_tokenization_spaces=False,
    )


def _vision_config() -> Blip2VisionConfig:
    return Blip2VisionConfig(
        hidden_act="gelu",
        hidden_size=VISION_WIDTH,
        intermediate_size=2 * VISION_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=8,
        initializer_range=0.02,
    )


def _qformer_config(*, reads_text: bool) -> Blip2QFormerConfig:
    return Blip2QFormerConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=2 * WIDTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=64,
        cross_attention_frequency=2,
        encoder_hidden_size=VISION_WIDTH,
        hidden_act="gelu",
        use_qformer_text_input=reads_text,
        pad_token_id=PAD,
    )


def _opt_config() -> OPTConfig:
    return OPTConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        num_hidden_layers=3,
        ffn_dim=3 * WIDTH,
        num_attention_heads=4,
        max_position_embeddings=96,
        word_embed_proj_dim=WIDTH,
        dropout=0.0,
        attention_dropout=0.0,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


def new_captioner() -> Blip2ForConditionalGeneration:
    """An untrained tiny BLIP-2 (OPT) captioner."""
    config = Blip2Config(
        vision_config=_vision_config(),
        qformer_config=_qformer_config(reads_text=False),
        text_config=_opt_config(),
        num_query_tokens=NUM_QUERIES,
        image_token_index=IMAGE,
    )
    model = Blip2ForConditionalGeneration(config)
    initialize(model.qformer)
    initialize(model.language_model)
    nn.init.normal_(model.query_tokens, 0, 1)
    nn.init.normal_(model.language_projection.weight, 0, 0.1)
    model.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=MAX_CAPTION_TOKENS
    )
    return model


def new_judge() -> Blip2ForImageTextRetrieval:
    """An untrained tiny BLIP-2 image-text matcher."""
    config = Blip2Config(
        vision_config=_vision_config(),
        qformer_config=_qformer_config(reads_text=True),
        text_config=_opt_config(),
        num_query_tokens=NUM_QUERIES,
        image_text_hidden_size=VISION_WIDTH,
    )
    model = Blip2ForImageTextRetrieval(config)
    initialize(model.vision_model)
    nn.init.normal_(model.vision_model.embeddings.position_embedding, 0, 0.3)
    nn.init.normal_(model.vision_model.embeddings.class_embedding, 0, 0.3)
    initialize(model.qformer)
    initialize(model.embeddings)
    nn.init.normal_(model.query_tokens, 0, 1)
    return model


def new_clip(width: int = WIDTH) -> CLIPModel:
    """An untrained tiny CLIP."""
    sizes = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
    }
    text = CLIPTextConfig(
        vocab_size=len(WORDS),
        max_position_embeddings=MAX_CAPTION_TOKENS,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        **sizes,
    )
    vision = CLIPVisionConfig(image_size=SIDE, patch_size=8, **sizes)
    model = CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=width)
    )
    initialize(model)
    nn.init.normal_(model.vision_model.embeddings.position_embedding.weight, 0, 0.3)
    nn.init.constant_(model.logit_scale, 2.3)
    return model


def initialize(module: nn.Module) -> None:
    """Fan-in initialization: the library default of .02 is too small for widths near 100."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, 0, part.in_features**-0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, 0, 0.3)


def save_model(model: nn.Module, folder: Path) -> None:
    """Write the model in half precision with its processor, as a folder of the hub's format."""
    model = model.half()
    size = {"height": SIDE, "width": SIDE}
    if isinstance(model, CLIPModel):
        images = CLIPImageProcessorPil(
            size={"shortest_edge": SIDE},
            crop_size=size,
            image_mean=list(IMAGE_MEAN),
            image_std=list(IMAGE_STD),
        )
        processor = CLIPProcessor(images, tokenizer(frame=True))
    else:
        images = BlipImageProcessorPil(size=size, image_mean=list(IMAGE_MEAN), image_std=list(IMAGE_STD))
        words = tokenizer(frame=isinstance(model, Blip2ForImageTextRetrieval))
        processor = Blip2Processor(images, words, num_query_tokens=NUM_QUERIES)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)  # pyright: ignore
    processor.save_pretrained(folder)


def normalized(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels as the world's networks want them."""
    return (pixels.float() / 255 - IMAGE_MEAN[0]) / IMAGE_STD[0]
