"""MAGVIT-v2 beside the official code, on random weights under the official names."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sightloop.models.show_o.magvit2 import Magvit2

PIXELS = 5e-5


@pytest.fixture(scope="module")
def model(oracles: Path) -> Magvit2:
    """The official weights; all sizes come from their shapes."""
    return Magvit2.from_folder(oracles / "show_o" / "magvitv2_weights.safetensors")


@pytest.fixture(scope="module")
def golden(oracles: Path) -> dict[str, Tensor]:
    """What the official code made of given images and codes."""
    return load_file(oracles / "show_o" / "magvitv2.safetensors")


def test_the_sizes_are_read_off_the_tensors(model: Magvit2, oracles: Path) -> None:
    facts: dict[str, Any] = json.loads((oracles / "show_o" / "golden.json").read_text())
    sizes, config = facts["magvit"], model.config
    for part, multipliers, blocks in (
        ("encoder", config.encoder_multipliers, config.encoder_blocks),
        ("decoder", config.decoder_multipliers, config.decoder_blocks),
    ):
        assert config.channels == sizes[part]["ch"]
        assert list(multipliers) == sizes[part]["ch_mult"]
        assert list(blocks) == sizes[part]["num_res_blocks"]
    assert config.num_bits == sizes["z_channels"]
    assert (model.factor, model.num_codes) == (sizes["downsample"], facts["vocab"]["codebook_size"])


def test_latents_and_codes_of_every_resolution(model: Magvit2, golden: dict[str, Tensor]) -> None:
    sizes = [name.removeprefix("pixels") for name in golden if name.startswith("pixels")]
    assert len(sizes) > 1
    for size in sizes:
        pixels = golden[f"pixels{size}"]
        with torch.no_grad():
            torch.testing.assert_close(model.latents(pixels), golden[f"pre_quant{size}"], rtol=0, atol=PIXELS)
        assert torch.equal(model.encode(pixels), golden[f"indices{size}"])


def test_quantised_latents_are_the_official_signs(model: Magvit2, golden: dict[str, Tensor]) -> None:
    quantized, ids = model.quantize(golden["pre_quant"])
    torch.testing.assert_close(quantized, golden["quantized"], rtol=0, atol=1e-6)
    assert torch.equal(ids, golden["indices"])


def decodings(golden: dict[str, Tensor]) -> list[tuple[str, str, tuple[int, int] | None]]:
    """Names of codes, of their images, and the shape where it is told: all that the golden file holds."""
    side = int(golden["indices"].shape[1] ** 0.5)
    found: list[tuple[str, str, tuple[int, int] | None]] = [
        ("indices", "decoded_from_indices", None),
        ("random_codes", "decoded_random", None),
        ("random_codes", "decoded_random", (side, side)),
    ]
    for name in golden:
        if told := re.fullmatch(r"nonsquare_codes_((\d+)x(\d+))", name):
            found.append((name, f"decoded_nonsquare_{told[1]}", (int(told[2]), int(told[3]))))
    return found


@torch.no_grad()
def test_images_of_codes(model: Magvit2, golden: dict[str, Tensor]) -> None:
    assert len(decodings(golden)) > 3, "no images that are not square"
    for codes, pictures, shape in decodings(golden):
        torch.testing.assert_close(model.decode(golden[codes], shape), golden[pictures], rtol=0, atol=PIXELS)
        one_hot = torch.nn.functional.one_hot(golden[codes], model.num_codes).float()
        torch.testing.assert_close(model.decode_soft(one_hot, shape), golden[pictures], rtol=0, atol=PIXELS)


def test_every_golden_tensor_was_compared(golden: dict[str, Tensor]) -> None:
    known = {name for codes, pictures, _ in decodings(golden) for name in (codes, pictures)} | {"quantized"}
    known |= {name for name in golden if name.startswith(("pixels", "pre_quant", "indices"))}
    assert golden.keys() == known
