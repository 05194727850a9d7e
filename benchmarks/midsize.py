"""A BLIP-2 of middle size with random weights, its judge and its images: no download, real proportions.

The language model has OPT's real vocabulary, because its head is a large part of a caption's cost. Its end
token is made as likely as needed for captions of all lengths, as a trained captioner draws them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    GenerationConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

PAD, BOS, END, PICTURE, VOCABULARY = 1, 2, 50118, 50265, 50272
JUDGE_VOCABULARY = 30523
END_BIAS, MOST_TOKENS, FEWEST_TOKENS = 1.9, 40, 5


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Layers x width of each part; the defaults are the benchmark's."""

    image: int = 224
    patch: int = 14
    vision: tuple[int, int] = (8, 384)
    reader: tuple[int, int] = (6, 384)
    language: tuple[int, int] = (12, 768)
    queries: int = 32


def _config(sizes: Sizes, *, reads_text: bool) -> Blip2Config:
    vision = Blip2VisionConfig(
        num_hidden_layers=sizes.vision[0],
        hidden_size=sizes.vision[1],
        intermediate_size=4 * sizes.vision[1],
        num_attention_heads=sizes.vision[1] // 64,
        image_size=sizes.image,
        patch_size=sizes.patch,
    )
    reader = Blip2QFormerConfig(
        num_hidden_layers=sizes.reader[0],
        hidden_size=sizes.reader[1],
        intermediate_size=4 * sizes.reader[1],
        num_attention_heads=sizes.reader[1] // 64,
        encoder_hidden_size=sizes.vision[1],
        vocab_size=JUDGE_VOCABULARY,
        use_qformer_text_input=reads_text,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    language = OPTConfig(
        num_hidden_layers=sizes.language[0],
        hidden_size=sizes.language[1],
        word_embed_proj_dim=sizes.language[1],
        ffn_dim=4 * sizes.language[1],
        num_attention_heads=sizes.language[1] // 64,
        vocab_size=VOCABULARY,
        dropout=0.0,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=END,
    )
    return Blip2Config(
        vision_config=vision,
        qformer_config=reader,
        text_config=language,
        num_query_tokens=sizes.queries,
        image_token_index=None if reads_text else PICTURE,
    )


def new_captioner(sizes: Sizes) -> Blip2ForConditionalGeneration:
    """A captioner whose drawn captions end after a few to many tokens."""
    model = Blip2ForConditionalGeneration(_config(sizes, reads_text=False)).eval()
    _spread(model.vision_model)
    nn.init.normal_(model.query_tokens, 0, 1)
    nn.init.normal_(model.language_projection.weight, 0, 0.05)
    _end_somewhere(model.language_model.model.decoder, first=sizes.queries)
    model.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=END, pad_token_id=PAD)
    return model


@torch.no_grad()
def _end_somewhere(decoder: Any, *, first: int) -> None:
    # Tied embeddings of a random model repeat the last word; strong positions keep captions moving.
    places = nn.init.normal_(decoder.embed_positions.weight, 0, 0.08)
    end = decoder.embed_tokens.weight[END]
    decoder.final_layer_norm.bias += END_BIAS * end / end.square().sum()
    # The end token grows likelier along the caption and is out of reach at its start.
    rise = torch.linspace(-3, 1, MOST_TOKENS)
    rise[: FEWEST_TOKENS - 1] = -20
    first += decoder.embed_positions.offset
    places[first : first + MOST_TOKENS] += rise[:, None] * end


def new_judge(sizes: Sizes, captioner: Blip2ForConditionalGeneration) -> Blip2ForImageTextRetrieval:
    """An image-text matcher with an equal vision tower of its own."""
    model = Blip2ForImageTextRetrieval(_config(sizes, reads_text=True)).eval().requires_grad_(False)
    model.vision_model.load_state_dict(captioner.vision_model.state_dict())
    nn.init.normal_(model.query_tokens, 0, 1)
    nn.init.normal_(model.itm_head.weight, 0, 0.1)
    return model


def _spread(tower: nn.Module) -> None:
    # The library's initial scale of 1e-10 would make every image look the same.
    for part in tower.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.normal_(part.weight, 0, part.weight[0].numel() ** -0.5)


def caption_words() -> PreTrainedTokenizerFast:
    """A tokenizer of the language model's size, one made-up word a token."""
    words = {f"w{index}": index for index in range(VOCABULARY)}
    for special, index in (("<pad>", PAD), ("<s>", BOS)):
        del words[f"w{index}"]
        words[special] = index
    core = Tokenizer(WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore
    core.decoder = decoders.WordPiece(cleanup=False)  # pyright: ignore
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<s>")


def judge_words() -> PreTrainedTokenizerFast:
    """A tokenizer of the judge's size that knows most of the captioner's words."""
    words = {name: index for index, name in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]"))}
    words |= {f"w{index}": index for index in range(4, JUDGE_VOCABULARY - 1)}
    core = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore
    core.post_processor = processors.TemplateProcessing(  # pyright: ignore
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def preparation(sizes: Sizes) -> BlipImageProcessorPil:
    """The image processor: its size and channel statistics."""
    return BlipImageProcessorPil(size={"height": sizes.image, "width": sizes.image})


def random_images(sizes: Sizes, number: int, seed: int = 0) -> torch.Tensor:
    """Pixels of coarse random patterns, uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (number, 3, 8, 8), generator=generator).float()
    scaled = nn.functional.interpolate(coarse, size=(sizes.image, sizes.image), mode="bilinear")
    return scaled.to(torch.uint8)
