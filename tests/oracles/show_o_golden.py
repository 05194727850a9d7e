"""The golden outputs of the official Show-o code, with the model they were made with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PhiConfig, PhiForCausalLM

from sightloop.models.show_o.body import Body
from sightloop.models.show_o.layout import SPECIAL_TOKENS, TokenLayout


@dataclass(frozen=True, kw_only=True)
class Golden:
    """One folder of golden outputs."""

    folder: Path
    facts: dict[str, Any]
    vocabulary: TokenLayout
    model: PhiForCausalLM

    @property
    def body(self) -> Body:
        """The golden model, run part by part."""
        return Body(self.model, self.vocabulary)

    @property
    def max_text(self) -> int:
        """Text positions."""
        return self.facts["max_text_len"]

    @property
    def num_image(self) -> int:
        """Codes of an image."""
        return self.facts["num_vq_tokens"]

    def tensors(self, name: str, prefix: str = "") -> dict[str, Tensor]:
        """The tensors of a file below a prefix."""
        found = load_file(self.folder / f"{name}.safetensors")
        return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}


def load_golden(folder: Path) -> Golden:
    """The model and the facts of a folder; every size comes from its files."""
    facts = json.loads((folder / "golden.json").read_text())
    sizes = facts["vocab"]
    vocabulary = TokenLayout(
        num_text=sizes["llm_vocab_size"],
        num_codes=sizes["codebook_size"],
        begin=sizes["bos_eos"],
        end=sizes["bos_eos"],
    )
    assert sizes["num_new_special_tokens"] == len(SPECIAL_TOKENS)
    config = PhiConfig(
        **facts["phi"],
        vocab_size=sizes["vocab_size"],
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = PhiForCausalLM(config).eval()
    weights = load_file(folder / "showo_weights.safetensors")
    model.load_state_dict({key.removeprefix("showo."): value for key, value in weights.items()})
    return Golden(folder=folder, facts=facts, vocabulary=vocabulary, model=model)


def runs_of(metafunc: pytest.Metafunc, part: str) -> list[str]:
    """The names of the runs that the golden facts tell below `part`; one that is none without golden data."""
    file = Path(str(metafunc.config.getoption("--oracles"))) / "show_o" / "golden.json"
    return list(json.loads(file.read_text())[part]) if file.is_file() else ["none"]


def numbers(text: str) -> list[int]:
    """A golden text: the ids a tokenizer would give."""
    return [int(word) for word in text.split()]


def same(found: Tensor, wanted: Tensor, *, atol: float = 1e-5) -> None:
    """Equal: exactly for ids and masks, within the golden tolerance for floats."""
    if wanted.is_floating_point():
        torch.testing.assert_close(found, wanted, atol=atol, rtol=1e-5)
    else:
        assert torch.equal(found.to(wanted.dtype), wanted)
