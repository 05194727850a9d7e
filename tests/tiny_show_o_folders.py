"""Tiny random Show-o checkpoints as the authors write them, on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor, nn
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from sightloop.models.show_o.magvit2 import Magvit2
from sightloop.models.show_o.magvit2_layers import Magvit2Config

_PLAIN = "a red blue green circle square what color is it the two left of yes no"
WORDS = ["<end>", *_PLAIN.split(" ")]
NUM_CODES, NUM_TOKENS, WIDTH, CLIP_WIDTH = 32, 4, 32, 12
SIZE = len(WORDS) + 10 + NUM_CODES + 1
CONFIG = {
    "_class_name": "Showo",
    "_diffusers_version": "0.30.1",
    "vocab_size": SIZE,
    "llm_vocab_size": len(WORDS),
    "llm_model_path": "microsoft/phi-1_5",
    "codebook_size": NUM_CODES,
    "num_vq_tokens": NUM_TOKENS,
    "mask_token_id": SIZE - 1,
    "load_from_showo": True,
    "w_clip_vit": False,
}


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, one token for begin and end, no special tokens of Show-o."""
    core = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<end>"))
    core.pre_tokenizer = WhitespaceSplit()  # pyright: ignore
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<end>", eos_token="<end>", unk_token="<end>"
    )


def phi(dtype: torch.dtype = torch.float32) -> PhiForCausalLM:
    """Random weights in every parameter."""
    config = PhiConfig(
        vocab_size=SIZE,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        qk_layernorm=True,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = PhiForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
        parameter.data = parameter.data.to(dtype)
    return model


def magvit() -> Magvit2:
    """32 codes, 2 x 2 of them for 8 x 8 pixels."""
    torch.manual_seed(0)
    return Magvit2(
        Magvit2Config(
            channels=32,
            encoder_multipliers=(1, 1, 2),
            encoder_blocks=(1, 1, 1),
            decoder_multipliers=(1, 1, 2),
            decoder_blocks=(1, 1, 1),
            num_bits=5,
        )
    ).eval()


def official_tensors(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The tensors of `phi` by their official names."""
    return {f"showo.{name}": tensor for name, tensor in phi(dtype).state_dict().items()}


def projector_tensors() -> dict[str, Tensor]:
    """The projector of the variant with a vision tower, by official names."""
    torch.manual_seed(2)
    made = nn.Sequential(nn.Linear(CLIP_WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
    return {f"mm_projector.{name}": tensor for name, tensor in made.state_dict().items()}


def save_shards(folder: Path, tensors: dict[str, Tensor], name: str, number: int = 3) -> None:
    """Weights as the hub's shards with an index."""
    stem, ending = name.rsplit(".", 1)
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(number):
        file = f"{stem}-{shard + 1:05d}-of-{number:05d}.{ending}"
        part = {key: tensors[key].clone() for key in names[shard::number]}
        save_file(part, folder / file) if ending == "safetensors" else torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def official_folder(
    folder: Path,
    *,
    tensors: dict[str, Tensor] | None = None,
    name: str = "pytorch_model.bin",
    shards: int = 0,
    **config: Any,
) -> Path:
    """An official Show-o folder; `config` changes its config.json, None leaves an entry out."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = official_tensors() if tensors is None else tensors
    if shards:
        save_shards(folder, tensors, name, shards)
    elif name.endswith("safetensors"):
        save_file({key: value.clone() for key, value in tensors.items()}, folder / name)
    else:
        torch.save(tensors, folder / name)
    chosen = {key: value for key, value in {**CONFIG, **config}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(chosen))
    return folder
