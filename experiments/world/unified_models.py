"""The embedded world's models that both draw and see: the classes of Show-o and Janus with small sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from torch import nn
from transformers import (
    GenerationConfig,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil
from transformers.models.janus.processing_janus import JanusProcessor

from sightloop.models.janus.conversation import PRO_ROLES, Conversation
from sightloop.models.show_o.checkpoint import ShowOSizes, ShowOWeights, write_show_o
from sightloop.models.show_o.layout import SPECIAL_TOKENS
from sightloop.models.show_o.magvit2 import Magvit2, Magvit2Config
from sightloop.world.models import initialize
from sightloop.world.quizzes import quiz_words
from sightloop.world.scenes import SIDE

GRID = 4
"""Image tokens along the side of an image."""
NUM_IMAGE_TOKENS = GRID * GRID
NUM_BITS = 9
NUM_CODES = 2**NUM_BITS
UNIFIED_WIDTH = 96
MAX_TEXT = 36
"""Text positions of a row: a question, its frame and its answer."""
GUIDANCE = 2.0
"""Of the tiny Janus: at the official 5 it draws what is rare without the prompt, not what is asked for."""
_END = "<|endoftext|>"
_JANUS_SPECIALS = ("<s>", "</s>", "<pad>", "<begin_of_image>", "<end_of_image>", "<image_placeholder>")
_JANUS_ROLES = ("<|user|>", "<|assistant|>")


def _word_tokenizer(first: tuple[str, ...], unknown: str) -> Tokenizer:
    """One token a word or mark, lower case."""
    words = {word: index for index, word in enumerate((*first, *quiz_words()))}
    core = Tokenizer(WordLevel(words, unk_token=unknown))
    core.normalizer = normalizers.Lowercase()  # pyright: ignore
    marks = pre_tokenizers.Split(Regex("[.,:?]"), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), marks])  # pyright: ignore
    core.decoder = decoders.WordPiece(cleanup=True)  # pyright: ignore
    return core


def show_o_tokenizer() -> PreTrainedTokenizerFast:
    """The world's words with one mark for begin, end and unknown words, as Phi-1.5 has it."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_word_tokenizer((_END,), _END), bos_token=_END, eos_token=_END, unk_token=_END
    )
    tokenizer.add_tokens(list(SPECIAL_TOKENS))
    tokenizer.pad_token = SPECIAL_TOKENS[0]
    return tokenizer


def new_magvit2() -> Magvit2:
    """An untrained tiny MAGVIT-v2: 16 tokens of 8 x 8 pixels, 512 codes."""
    return Magvit2(
        Magvit2Config(
            channels=32,
            encoder_multipliers=(1, 1, 2, 2),
            encoder_blocks=(1, 1, 1, 1),
            decoder_multipliers=(1, 1, 2, 2),
            decoder_blocks=(1, 1, 1, 1),
            num_bits=NUM_BITS,
        )
    )


def new_show_o() -> PhiForCausalLM:
    """An untrained tiny language model of Show-o."""
    config = PhiConfig(
        vocab_size=len(show_o_tokenizer()) + NUM_CODES + 1,
        hidden_size=UNIFIED_WIDTH,
        intermediate_size=2 * UNIFIED_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=128,
        qk_layernorm=True,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = PhiForCausalLM(config)
    initialize(model)
    return model


def save_show_o(model: PhiForCausalLM, magvit: Magvit2, folder: Path) -> None:
    """Write a folder that `read_show_o` reads, in half precision."""
    tokenizer = show_o_tokenizer()
    sizes = ShowOSizes(
        num_image_tokens=NUM_IMAGE_TOKENS,
        num_text=len(tokenizer) - len(SPECIAL_TOKENS),
        num_codes=NUM_CODES,
        max_text_tokens=MAX_TEXT,
        language_model="sightloop's embedded world",
    )
    weights = ShowOWeights(model=model.half(), projector=None, sizes=sizes)
    write_show_o(weights, folder, tokenizer=tokenizer, magvit=magvit.half())


def janus_tokenizer() -> PreTrainedTokenizerFast:
    """The world's words with Janus' special tokens and roles."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_word_tokenizer((*_JANUS_SPECIALS, "<unk>", *_JANUS_ROLES), "<unk>"),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={
            "boi_token": "<begin_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_placeholder>",
        },
    )


def vq_config() -> JanusVQVAEConfig:
    """Sizes of the tiny Janus' image tokenizer: 16 tokens of 8 x 8 pixels."""
    return JanusVQVAEConfig(
        embed_dim=8,
        num_embeddings=NUM_CODES,
        latent_channels=32,
        base_channels=32,
        channel_multiplier=[1, 1, 2, 2],
        num_res_blocks=1,
        num_patches=GRID,
        projection_dim=UNIFIED_WIDTH,
        image_token_embed_dim=UNIFIED_WIDTH,
        num_hidden_layers=2,
    )


def new_janus() -> JanusForConditionalGeneration:
    """An untrained tiny Janus."""
    begin, end, pad, start, _, picture = range(len(_JANUS_SPECIALS))
    config = JanusConfig(
        text_config=LlamaConfig(
            vocab_size=len(janus_tokenizer()),
            hidden_size=UNIFIED_WIDTH,
            intermediate_size=2 * UNIFIED_WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=128,
            bos_token_id=begin,
            eos_token_id=end,
            pad_token_id=pad,
            tie_word_embeddings=False,
        ),
        vision_config=JanusVisionConfig(
            hidden_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=SIDE // GRID,
            num_image_tokens=NUM_IMAGE_TOKENS,
            projection_dim=UNIFIED_WIDTH,
            depth=2,
            hidden_dropout_rate=0.0,
        ),
        vq_config=vq_config(),
        image_token_id=picture,
        tie_word_embeddings=False,
    )
    model = JanusForConditionalGeneration(config)
    initialize(model)
    nn.init.normal_(model.model.vision_model.embeddings.position_embedding.weight, 0, 0.3)
    nn.init.normal_(model.model.generation_embeddings.weight, 0, 1)
    generation: Any = GenerationConfig(bos_token_id=begin, eos_token_id=end, pad_token_id=pad)
    generation.generation_kwargs = {"boi_token_id": start}
    generation.guidance_scale = GUIDANCE
    model.generation_config = generation
    return model


def janus_processor() -> JanusProcessor:
    """Its processor."""
    pictures = JanusImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    # No system prompt: it would not fit, and its words are not the world's.
    strings = Conversation(roles=PRO_ROLES, system="").strings()
    return JanusProcessor(
        pictures,
        janus_tokenizer(),
        num_image_tokens=NUM_IMAGE_TOKENS,
        chat_template=strings.chat_template,
    )


def save_janus(model: JanusForConditionalGeneration, folder: Path) -> None:
    """Write a folder that `Janus.from_pretrained` reads, in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    janus_processor().save_pretrained(folder)
