"""MAGVIT-v2 beside the official code, on random weights under the official names."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sightloop.models.magvit2 import Magvit2

PIXELS = 5e-5


@pytest.fixture(scope="module")
def model(oracles: Path) -> Magvit2:
    """The official weights; all sizes come from their shapes."""
    return Magvit2.from_folder(oracles / "show_o" / "magvitv2_weights.safetensors")


@pytest.fixture(scope="module")
def golden(oracles: Path) -> dict[str, Tensor]:
    """What the official code made of given pictures and codes."""
    return load_file(oracles / "show_o" / "magvitv2.safetensors")


def test_the_sizes_are_read_off_the_tensors(model: Magvit2) -> None:
    assert (model.config.channels, model.config.num_bits) == (32, 6)
    assert model.config.encoder_multipliers == (1, 1, 1, 1, 2)
    assert model.config.encoder_blocks == (2, 1, 2, 1, 2)
    assert model.config.decoder_multipliers == (1, 1, 1, 2, 2)
    assert model.config.decoder_blocks == (2, 2, 1, 2, 1)
    assert (model.factor, model.num_codes) == (16, 64)


@pytest.mark.parametrize("size", ["", "_2x"])
def test_latents_and_codes_of_both_resolutions(model: Magvit2, golden: dict[str, Tensor], size: str) -> None:
    pixels = golden[f"pixels{size}"]
    with torch.no_grad():
        torch.testing.assert_close(model.latents(pixels), golden[f"pre_quant{size}"], rtol=0, atol=PIXELS)
    assert torch.equal(model.encode(pixels), golden[f"indices{size}"])


def test_quantised_latents_are_the_official_signs(model: Magvit2, golden: dict[str, Tensor]) -> None:
    quantized, ids = model.quantize(golden["pre_quant"])
    torch.testing.assert_close(quantized, golden["quantized"], rtol=0, atol=1e-6)
    assert torch.equal(ids, golden["indices"])


@pytest.mark.parametrize(
    ("codes", "pictures", "shape"),
    [
        ("indices", "decoded_from_indices", None),
        ("random_codes", "decoded_random", None),
        ("random_codes", "decoded_random", (4, 4)),
        ("nonsquare_codes_3x4", "decoded_nonsquare_3x4", (3, 4)),
    ],
)
def test_pictures_of_codes(
    model: Magvit2, golden: dict[str, Tensor], codes: str, pictures: str, shape: tuple[int, int] | None
) -> None:
    with torch.no_grad():
        torch.testing.assert_close(model.decode(golden[codes], shape), golden[pictures], rtol=0, atol=PIXELS)
        one_hot = torch.nn.functional.one_hot(golden[codes], model.num_codes).float()
        torch.testing.assert_close(model.decode_soft(one_hot, shape), golden[pictures], rtol=0, atol=PIXELS)


def test_every_golden_tensor_was_compared(golden: dict[str, Tensor]) -> None:
    inputs = {"pixels", "pixels_2x", "random_codes", "nonsquare_codes_3x4"}
    outputs = {"pre_quant", "pre_quant_2x", "indices", "indices_2x", "quantized"}
    pictures = {"decoded_from_indices", "decoded_random", "decoded_nonsquare_3x4"}
    assert golden.keys() == inputs | outputs | pictures
