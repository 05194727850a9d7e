"""Tiny random captioners in folders as the hub has them whose images do not stand among a prompt's words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.tiny_captioners import BOS, EOS, IMAGE, PAD, SIDE, SIZES, random_weights, tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    BlipConfig,
    BlipForConditionalGeneration,
    Florence2Config,
    Florence2ForConditionalGeneration,
    GenerationConfig,
    GitConfig,
    GitForCausalLM,
    GPT2Config,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    Kosmos2Config,
    Kosmos2ForConditionalGeneration,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.kosmos2.processing_kosmos2 import Kosmos2Processor

_T5: dict[str, Any] = {
    "model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2,
    "num_heads": 4, "feed_forward_proj": "gated-gelu", "pad_token_id": PAD, "eos_token_id": EOS,
    "bos_token_id": EOS, "decoder_start_token_id": PAD,
}  # fmt: skip
LETTERS = "abcdefghijklmnopqrstuvwxyz"
_TOWER: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PAD, _, _CLS, _SEP, _ = range(5)
_NORMAL = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_resize": True}


def _bert(folder: Path) -> int:
    """The files of a tokenizer of whole words; how many it knows."""
    words = ["a", "cat", "two", "red", "dogs", "what", "is", "it", "describe", "why", "!", "?"]
    spelled = [*LETTERS[1:], *(f"##{letter}" for letter in LETTERS)]
    vocabulary = [*_BERT, *words, *spelled]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "vocab.txt"
    file.write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512})
    )
    assert len(BertTokenizer.from_pretrained(folder)) == len(vocabulary)
    return len(vocabulary)


def _write(
    folder: Path,
    model: Any,
    files: dict[str, dict[str, Any]],
    *,
    head: Any = None,
    sharper: float = 3,
    **generation: Any,
) -> Path:
    random_weights(model)
    head = model.get_output_embeddings() if head is None else head
    for name, parameter in model.named_parameters():
        if name.endswith("LayerNorm.weight"):
            parameter.data += 1
    # Decided enough that a text depends on more than its last word.
    head.weight.data *= sharper
    model.generation_config = GenerationConfig(**generation)
    model.save_pretrained(folder)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def blip(folder: Path) -> Path:
    """BLIP, whose begin token is not in its tokenizer, and whose `generate` overrules its generation options
    about the end token.
    """
    begin = _bert(folder)
    tokens = {"bos_token_id": begin, "sep_token_id": _SEP, "pad_token_id": _PAD, "eos_token_id": 2}
    config = BlipConfig(
        vision_config={**_TOWER, "image_size": SIDE, "patch_size": 8},
        text_config={
            **_TEXT,
            "vocab_size": begin + 1,
            "encoder_hidden_size": 24,
            "max_position_embeddings": 64,
            **tokens,
        },
        projection_dim=16,
    )
    files = {
        "preprocessor_config.json": {
            **_NORMAL, "image_processor_type": "BlipImageProcessor", "processor_class": "BlipProcessor",
            "size": {"height": SIDE, "width": SIDE},
        }
    }  # fmt: skip
    model = BlipForConditionalGeneration(config)
    head = model.text_decoder.get_output_embeddings()
    return _write(folder, model, files, head=head, bos_token_id=begin, eos_token_id=2, pad_token_id=_PAD)


def git(folder: Path) -> Path:
    """GIT, whose images stand before the words and see each other both ways."""
    size = _bert(folder)
    config = GitConfig(
        vision_config={**_TOWER, "image_size": SIDE, "patch_size": 8},
        **{**_TEXT, "vocab_size": size, "max_position_embeddings": 64},
        pad_token_id=_PAD,
        bos_token_id=_CLS,
        eos_token_id=_SEP,
    )
    files = {
        "preprocessor_config.json": {
            **_NORMAL, "image_processor_type": "CLIPImageProcessor", "processor_class": "GitProcessor",
            "size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE},
            "do_center_crop": True,
        }
    }  # fmt: skip
    tokens = {"bos_token_id": _CLS, "eos_token_id": _SEP, "pad_token_id": _PAD}
    return _write(folder, GitForCausalLM(config), files, **tokens)


def vit_gpt2(folder: Path) -> Path:
    """ViT-GPT2, whose decoder keeps its weights the other way around."""
    words = tokenizer()
    words.save_pretrained(folder)
    made: Any = GPT2Config
    decoder = made(
        vocab_size=len(words), n_embd=32, n_layer=2, n_head=4, n_positions=64, add_cross_attention=True,
        is_decoder=True, bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip
    return _pair(folder, decoder, start=EOS, end=EOS, pad=PAD)


def vit_bert(folder: Path) -> Path:
    """A ViT with a BERT, whose head has a layer before it."""
    size = _bert(folder)
    decoder = BertConfig(
        **_TEXT, vocab_size=size, max_position_embeddings=64, add_cross_attention=True, is_decoder=True
    )
    return _pair(folder, decoder, start=_CLS, end=_SEP, pad=_PAD)


def _pair(folder: Path, decoder: Any, *, start: int, end: int, pad: int) -> Path:
    encoder = ViTConfig(**_TOWER, image_size=SIDE, patch_size=8)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = start, pad, end
    files = {
        "preprocessor_config.json": {
            **_NORMAL, "feature_extractor_type": "ViTFeatureExtractor", "size": SIDE
        }
    }  # fmt: skip
    tokens = {"decoder_start_token_id": start, "eos_token_id": end, "pad_token_id": pad}
    return _write(folder, VisionEncoderDecoderModel(config), files, **tokens)


def blip2_t5(folder: Path) -> Path:
    """BLIP-2 whose language model has an encoder."""
    size = _words(folder, "$A </s>")
    text = {**_T5, "vocab_size": size}
    return _queried(folder, Blip2Config, Blip2ForConditionalGeneration, text)


def instructblip_t5(folder: Path) -> Path:
    """InstructBLIP whose language model has an encoder, and whose Q-Former reads the prompt."""
    size = _words(folder, "$A </s>")
    text = {**_T5, "vocab_size": size}
    return _queried(folder, InstructBlipConfig, InstructBlipForConditionalGeneration, text)


def instructblip(folder: Path) -> Path:
    """InstructBLIP with Vicuna."""
    size = _words(folder, "<s> $A")
    text = {"model_type": "llama", **SIZES, "vocab_size": size}
    return _queried(folder, InstructBlipConfig, InstructBlipForConditionalGeneration, text)


def _words(folder: Path, template: str, **named: str) -> int:
    """A tokenizer that puts these special tokens around a text."""
    words = tokenizer()
    words.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )  # pyright: ignore
    PreTrainedTokenizerFast(
        tokenizer_object=words.backend_tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=named or ["<image>"],
    ).save_pretrained(folder)
    return len(words)


def _queried(folder: Path, config: Any, model: Any, text: dict[str, Any]) -> Path:
    kind = model.__name__.removesuffix("ForConditionalGeneration")
    queries = {**_TEXT, "encoder_hidden_size": 24, "max_position_embeddings": 64}
    if kind == "InstructBlip":
        queries["vocab_size"] = _bert(folder / "qformer_tokenizer")
    made = model(
        config(
            vision_config={**_TOWER, "image_size": SIDE, "patch_size": 8},
            qformer_config=queries,
            text_config=text,
            num_query_tokens=4,
            image_token_index=IMAGE,
        )
    )
    random_weights(made, seed=1)
    size = {"size": {"height": SIDE, "width": SIDE}, "processor_class": f"{kind}Processor"}
    files = {
        "preprocessor_config.json": {**_NORMAL, **size, "image_processor_type": "BlipImageProcessor"},
        "processor_config.json": {"num_query_tokens": 4, "processor_class": f"{kind}Processor"},
    }
    tokens = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    if text["model_type"] == "t5":
        tokens |= {"bos_token_id": EOS, "decoder_start_token_id": PAD}
    return _write(folder, made, files, **tokens)


def florence2(folder: Path) -> Path:
    """Florence-2, whose texts begin with a token that is forced."""
    size = _words(folder, "<s> $A </s>", image_token="<image>")
    config = Florence2Config(
        vision_config={
            "depths": [1, 1], "embed_dim": [16, 24], "num_heads": [2, 2], "num_groups": [2, 2],
            "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
            "patch_prenorm": [False, True], "window_size": 2, "projection_dim": 32,
            "max_temporal_embeddings": 10, "max_position_embeddings": 10,
        },
        text_config={
            "model_type": "bart", "vocab_size": size, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48, "max_position_embeddings": 64, "pad_token_id": PAD, "bos_token_id": BOS,
            "eos_token_id": EOS, "decoder_start_token_id": EOS, "forced_bos_token_id": BOS,
        },
        image_token_id=IMAGE,
    )  # fmt: skip
    size = {"size": {"height": SIDE, "width": SIDE}, "processor_class": "Florence2Processor"}
    files = {
        "preprocessor_config.json": {
            **_NORMAL, **size, "image_processor_type": "CLIPImageProcessor", "do_center_crop": False,
            "image_seq_length": 5,
        },
        "processor_config.json": {"processor_class": "Florence2Processor", "num_additional_image_tokens": 0},
    }  # fmt: skip
    tokens = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    tokens |= {"decoder_start_token_id": EOS, "forced_bos_token_id": BOS}
    return _write(folder, Florence2ForConditionalGeneration(config), files, **tokens)


def kosmos2(folder: Path) -> Path:
    """Kosmos-2, whose image stands between two marks, in the places of ordinary words."""
    words = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer().backend_tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<turn>",
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor = Kosmos2Processor(pictures, words, num_patch_index_tokens=4)
    processor.save_pretrained(folder)
    tokens = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    config = Kosmos2Config(
        vision_config={**_TOWER, "image_size": SIDE, "patch_size": 8},
        text_config={
            "vocab_size": 80, "embed_dim": 32, "layers": 2, "ffn_dim": 48, "attention_heads": 4,
            "max_position_embeddings": 256, **tokens,
        },
        latent_query_num=64,
        tie_word_embeddings=False,
    )  # fmt: skip
    return _write(folder, Kosmos2ForConditionalGeneration(config), {}, sharper=1, **tokens)


CLASSIC: dict[str, Callable[[Path], Path]] = {
    "blip": blip,
    "git": git,
    "vit_gpt2": vit_gpt2,
    "vit_bert": vit_bert,
    "blip2_t5": blip2_t5,
    "instructblip_t5": instructblip_t5,
    "instructblip": instructblip,
    "florence2": florence2,
    "kosmos2": kosmos2,
}
