"""Tiny Janus and Show-o checkpoints as the hub has them, with tokenizers that lose no letter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from models.tiny_janus import config as janus_config
from models.tiny_janus import random_weights
from tiny_show_o_folders import CONFIG, magvit
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    JanusForConditionalGeneration,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedTokenizerFast,
)

from sightloop.models.janus.conversation import PRO_ROLES
from sightloop.models.janus.official_config import config_for_authors
from sightloop.models.janus.tensor_names import to_official
from sightloop.models.show_o.checkpoint import write_magvit2
from sightloop.models.weight_files import write_weights

JANUS_MARKS = ("<s>", "</s>", "<pad>", "<begin_of_image>", "<end_of_image>", "<image_placeholder>")
END = "<|endoftext|>"
WIDTH, CLIP_WIDTH, NUM_CODES = 16, 12, 32


def byte_model() -> BPE:
    """One token a byte."""
    return BPE(
        {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []
    )


def byte_level(model: BPE) -> Tokenizer:
    """A tokenizer of GPT-2's kind: a word has the blank before it."""
    core: Any = Tokenizer(model)
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return core


def janus_words(core: Tokenizer, *, added: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """The tokenizer with Janus' special tokens, and more of them."""
    core.add_special_tokens(
        [AddedToken(mark, special=True, normalized=False) for mark in JANUS_MARKS + added]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def show_o_words(core: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as Phi-1.5's is: one token for begin and end, none of Show-o's own."""
    core.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=END, eos_token=END, unk_token=END)


def janus_folder(
    folder: Path,
    *,
    words: PreTrainedTokenizerFast | None = None,
    is_pro: bool = False,
    **processor: Any,
) -> Path:
    """The authors' form; Pro's tokenizer knows its roles. `processor` is said in processor_config.json."""
    if words is None:
        words = janus_words(byte_level(byte_model()), added=PRO_ROLES if is_pro else ())
    shape: Any = janus_config(vocab_size=len(words), max_position_embeddings=1024)
    ids = words.get_vocab()
    shape.image_token_id = ids["<image_placeholder>"]
    for name, mark in (("bos", "<s>"), ("eos", "</s>"), ("pad", "<pad>")):
        setattr(shape.text_config, f"{name}_token_id", ids[mark])
    model = JanusForConditionalGeneration(shape).eval()
    random_weights(model)
    folder.mkdir(parents=True)
    write_weights(folder, to_official(model.state_dict()))
    (folder / "config.json").write_text(json.dumps(config_for_authors(model)))
    told = {"processor_class": "VLChatProcessor", "num_image_tokens": 16, **processor}
    (folder / "processor_config.json").write_text(json.dumps(told))
    words.save_pretrained(folder)
    return folder


def show_o_folders(
    place: Path, *, words: PreTrainedTokenizerFast | None = None, has_tower: bool = False
) -> dict[str, Path]:
    """The authors' `model`, and beside it `tokenizer`, `magvit` and `tower`, by the options' names."""
    words = show_o_words(byte_level(byte_model())) if words is None else words
    size = len(words) + 10 + NUM_CODES + 1
    sizes: dict[str, Any] = {
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    ends: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    torch.manual_seed(0)
    model = PhiForCausalLM(PhiConfig(vocab_size=size, qk_layernorm=True, **sizes, **ends))
    tensors = {f"showo.{name}": value for name, value in model.state_dict().items()}
    places = {name: place / name for name in ("model", "tokenizer", "magvit")}
    if has_tower:
        projector = nn.Sequential(nn.Linear(CLIP_WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        tensors |= {f"mm_projector.{name}": value for name, value in projector.state_dict().items()}
        seen: dict[str, Any] = {
            "hidden_size": CLIP_WIDTH,
            "intermediate_size": 16,
            "image_size": 8,
            "patch_size": 4,
        }
        tower: Any = CLIPVisionModel(CLIPVisionConfig(**seen, num_hidden_layers=2, num_attention_heads=2))
        tower.save_pretrained(place / "tower")
        places["tower"] = place / "tower"
    places["model"].mkdir(parents=True)
    torch.save(tensors, places["model"] / "pytorch_model.bin")
    told = {"vocab_size": size, "llm_vocab_size": len(words), "mask_token_id": size - 1}
    config = {**CONFIG, **told, "w_clip_vit": has_tower}
    (places["model"] / "config.json").write_text(json.dumps(config))
    write_magvit2(magvit(), places["magvit"], official=True)
    words.save_pretrained(places["tokenizer"])
    return places
