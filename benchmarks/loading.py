"""Memory while a Show-o is loaded in bfloat16 from its authors' float32 file, by the size it has afterwards.

    OMP_NUM_THREADS=1 python -m benchmarks.loading [--width 640 --layers 16 --words 1000] [--full]

`--full` is the 1.45 B model with MAGVIT-v2 (6.5 GB of files in a temporary folder, 4 GB of memory).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from benchmarks.measure import GIB, peak_resident, reset_peak, resident
from sightloop.api.model import load
from sightloop.models.families import Parts
from sightloop.models.show_o.layout import SPECIAL_TOKENS
from sightloop.models.show_o.magvit2 import Magvit2
from sightloop.models.show_o.magvit2_layers import Magvit2Config
from sightloop.models.weight_files import write_json, write_weights

TINY_CODEC = Magvit2Config(
    channels=32,
    encoder_multipliers=(1, 1),
    encoder_blocks=(1, 1),
    decoder_multipliers=(1, 1),
    decoder_blocks=(1, 1),
    num_bits=5,
)
FULL = {"width": 2048, "layers": 24, "words": 50295}


def write_folders(place: Path, *, width: int, layers: int, words: int, full: bool = False) -> None:
    """Random weights under the authors' names: Show-o's own, MAGVIT-v2 and a tokenizer."""
    torch.manual_seed(0)
    codec = Magvit2(None if full else TINY_CODEC)
    size = words + len(SPECIAL_TOKENS) + codec.num_codes + 1
    config = PhiConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        qk_layernorm=True,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model: nn.Module = PhiForCausalLM(config)
    block = 0.02 * torch.randn(10_000_019)
    tensors = {f"showo.{name}": _random(value, block) for name, value in model.state_dict().items()}
    for folder in ("show-o", "magvit2", "tokenizer"):
        (place / folder).mkdir(parents=True)
    torch.save(tensors, place / "show-o" / "pytorch_model.bin")
    told: dict[str, Any] = {"_class_name": "Showo", "llm_vocab_size": words, "codebook_size": codec.num_codes}
    write_json(place / "show-o" / "config.json", told | {"num_vq_tokens": 256 if full else 16})
    write_weights(place / "magvit2", codec.state_dict())
    write_json(place / "magvit2" / "config.json", {"family": "magvit2"})
    known = {f"word{number}": number for number in range(words)}
    core = Tokenizer(WordLevel(known, unk_token="word0"))
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="word0", eos_token="word0")
    made.save_pretrained(place / "tokenizer")


def _random(value: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    repeats = -(-value.numel() // len(block))
    return block.repeat(repeats)[: value.numel()].view(value.shape).clone()


def measured(place: Path) -> dict[str, float]:
    """Loaded by the public function; bytes afterwards, and the most on the way."""
    # What a first load imports is no part of the model.
    load("")
    before = reset_peak()
    parts = Parts(magvit=place / "magvit2", tokenizer=place / "tokenizer")
    model: Any = load(place / "show-o", dtype="bfloat16", parts=parts, device="cpu").policy
    peak, after = peak_resident() - before, resident() - before
    held = sum(value.nbytes for value in [*model.parameters(), *model.buffers()])
    return {"bytes": held, "peak": peak, "resident": after, "ratio": peak / held}


def main() -> None:
    """Write the folders in one process, load them in another, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, usual in {"width": 640, "layers": 16, "words": 1000}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.measure:
        print(json.dumps(measured(options.measure)))
        return
    if options.write:
        sizes = FULL if options.full else {name: getattr(options, name) for name in FULL}
        write_folders(options.write, **sizes, full=options.full)
        return
    with tempfile.TemporaryDirectory() as folder:
        again = [sys.executable, "-m", "benchmarks.loading"]
        subprocess.run([*again, *sys.argv[1:], "--write", folder], check=True)
        told = subprocess.run([*again, "--measure", folder], check=True, capture_output=True, text=True)
    found = json.loads(told.stdout.splitlines()[-1])
    sizes = ", ".join(f"{name} {found[name] / GIB:.3f} GiB" for name in ("bytes", "peak", "resident"))
    print(f"{sizes}; peak / bytes {found['ratio']:.3f}")


if __name__ == "__main__":
    main()
