"""Images to codes and back: bits, sizes, gradients, the way images are prepared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from sightloop.models.show_o.magvit2 import Magvit2, pixel_values_of, pixels_from
from sightloop.models.show_o.magvit2_layers import Codebook, Magvit2Config

TINY = Magvit2Config(
    channels=32,
    encoder_multipliers=(1, 1, 2),
    encoder_blocks=(1, 2, 1),
    decoder_multipliers=(2, 1, 1),
    decoder_blocks=(2, 1, 1),
    num_bits=5,
)


@pytest.fixture(scope="module")
def model() -> Magvit2:
    """Random weights in every parameter."""
    torch.manual_seed(0)
    return Magvit2(TINY).eval()


def pictures(count: int, height: int, width: int) -> Tensor:
    """Random bytes."""
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)


def test_the_published_sizes_are_the_defaults() -> None:
    with torch.device("meta"):
        model = Magvit2()
    assert len(model.state_dict()) == 382
    assert sum(p.numel() for p in model.encoder.parameters()) == 55_439_171
    assert sum(p.numel() for p in model.decoder.parameters()) == 39_947_833
    assert (model.factor, model.num_codes) == (16, 8192)
    assert Magvit2Config.of_tensors(model.state_dict()) == Magvit2Config()


def test_channel_zero_is_the_most_significant_bit_and_zero_is_not_above_zero() -> None:
    codebook = Codebook(3)
    latents = torch.tensor([[0.2, -1.0, -0.1], [0.0, 5.0, 0.0], [-1.0, 1e-30, 3.0], [-0.0, -0.0, 0.0]])
    cells = latents.T.reshape(1, 3, 2, 2)
    signs, ids = codebook(cells)
    assert ids.tolist() == [[0b100, 0b010, 0b011, 0b000]]
    assert signs[0, :, 0, 1].tolist() == [-1.0, 1.0, -1.0]
    assert codebook.embedding[0b110].tolist() == [1.0, 1.0, -1.0]
    assert codebook.power_vals.tolist() == [4, 2, 1]


def test_codes_of_thirteen_bits_survive_half_precision() -> None:
    codebook = Codebook(13).to(torch.bfloat16)
    ids = torch.tensor([[8191, 4097, 257, 0]])
    signs = codebook.signs_of(ids, (2, 2)).to(torch.bfloat16)
    assert torch.equal(codebook.ids_of(signs), ids)


def test_quantising_passes_the_gradient_straight_through() -> None:
    latents = torch.randn(2, 5, 2, 3, requires_grad=True)
    signs, _ = Codebook(5)(latents)
    weights = torch.randn_like(signs)
    (signs * weights).sum().backward()
    torch.testing.assert_close(latents.grad, weights)
    torch.testing.assert_close(signs, latents.sign())


def test_codes_go_row_by_row_on_images_that_are_not_square(model: Magvit2) -> None:
    values = pixel_values_of(pictures(2, 8, 8), 8)
    wide = torch.cat([values, values], 3)
    ids = model.encode(wide)
    assert ids.shape == (2, 8)
    with torch.no_grad():
        cells = model.latents(wide)
    assert torch.equal(ids.unflatten(1, (2, 4)), model.quantize.ids_of(cells).unflatten(1, (2, 4)))
    bits = (cells[:, :, 1, 2] > 0).long() * torch.tensor([16, 8, 4, 2, 1])
    assert torch.equal(ids[:, 6], bits.sum(1))
    assert model.decode(ids, (2, 4)).shape == (2, 3, 8, 16)


def test_a_gradient_reaches_the_weights_of_the_codes_and_the_parameters(model: Magvit2) -> None:
    ids = torch.randint(0, 32, (2, 4))
    one_hot = torch.nn.functional.one_hot(ids, 32).float().requires_grad_()
    decoded = model.decode_soft(one_hot)
    torch.testing.assert_close(decoded, model.decode(ids))
    decoded.square().mean().backward()
    assert one_hot.grad is not None and one_hot.grad.abs().sum() > 0
    assert model.decoder.conv_in.weight.grad is not None
    model.zero_grad()


def test_a_tiny_one_learns_to_reconstruct() -> None:
    model = Magvit2(TINY)
    values = pixel_values_of(pictures(2, 8, 8), 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        signs, _ = model.quantize(model.latents(values))
        loss = (model.decode_latents(signs) - values).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_border_of_a_smaller_image_is_right_and_below() -> None:
    down = Magvit2(TINY).get_submodule("encoder.down.0.downsample")
    corners = torch.zeros(32, 32, 3, 3)
    corners[0, 0, 0, 0] = corners[1, 0, 2, 2] = 1.0
    down.load_state_dict({"conv.weight": corners, "conv.bias": torch.zeros(32)})
    picture = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 32, 4, 4)
    with torch.no_grad():
        half = down(picture)
    assert half[0, 0].tolist() == [[0.0, 2.0], [8.0, 10.0]]
    assert half[0, 1].tolist() == [[10.0, 0.0], [0.0, 0.0]]


def test_saved_weights_come_back(model: Magvit2, tmp_path: Path) -> None:
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    again = Magvit2.from_folder(tmp_path)
    assert again.config == TINY
    ids = torch.randint(0, 32, (1, 4))
    torch.testing.assert_close(again.decode(ids), model.decode(ids), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.pop("decoder.mid.attn_1.q.bias"), "decoder.mid.attn_1.q.bias is missing"),
        (lambda t: t.pop("encoder.conv_in.weight"), "is no MAGVIT-v2: encoder.conv_in.weight"),
        (lambda t: t.update(extra=torch.ones(1)), "extra is unknown"),
        (lambda t: t.update({"decoder.conv_in.bias": torch.ones(3)}), "is \\(3,\\), the model wants"),
        (lambda t: t["quantize.embedding"].neg_(), "quantize.embedding does not number the codes"),
        (lambda t: t["encoder.conv_out.bias"].fill_(torch.nan), "encoder.conv_out.bias is not finite"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    model: Magvit2, spoil: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    spoil(tensors)
    with pytest.raises(ValueError, match=message):
        Magvit2.from_state_dict(tensors)


def test_wrong_calls_say_what_is_wrong(model: Magvit2) -> None:
    with pytest.raises(ValueError, match="9 x 8 pixels; both sides must be multiples of 4"):
        model.encode(torch.zeros(1, 3, 9, 8))
    with pytest.raises(ValueError, match="6 codes do not fill 2 x 2 cells; name the shape"):
        model.decode(torch.zeros(1, 6, dtype=torch.long))
    with pytest.raises(ValueError, match="6 codes do not fill 2 x 2 cells; give one code"):
        model.decode_soft(torch.zeros(1, 6, 32), (2, 2))
    with pytest.raises(ValueError, match="codes from 0 to 32; the codebook has 0 to 31"):
        model.decode(torch.tensor([[0, 1, 2, 32]]))
    with pytest.raises(ValueError, match="channels is 20; use a multiple of 32"):
        Magvit2Config(channels=20)
    with pytest.raises(ValueError, match="give four lists of one length"):
        Magvit2Config(encoder_blocks=(1, 2))


def test_pixels_are_cut_off_not_rounded() -> None:
    values = torch.tensor([-3.0, -1.0, -0.999, 0.0, 0.99999, 1.0, 7.0]).expand(1, 3, 1, 7)
    assert pixels_from(values)[0, 0, 0].tolist() == [0, 0, 0, 127, 254, 255, 255]


def test_pixels_of_the_right_size_only_change_their_range() -> None:
    given = pictures(2, 8, 8)
    values = pixel_values_of(given, 8)
    assert values.min() >= -1 and values.max() <= 1
    torch.testing.assert_close(values, (given.float() / 255 - 0.5) / 0.5, rtol=0, atol=0)


@pytest.mark.parametrize(("height", "width"), [(20, 31), (31, 20), (5, 5), (16, 8), (3, 40)])
def test_images_of_any_size_become_the_center_of_their_shorter_side(height: int, width: int) -> None:
    given = pictures(1, height, width)
    found = pixel_values_of(given, 8)
    scale = 8 / min(height, width)
    resized = Image.fromarray(given[0].permute(1, 2, 0).numpy()).resize(
        (8 if width <= height else int(width * scale), 8 if height < width else int(height * scale)),
        Image.Resampling.BICUBIC,
    )
    left, top = round((resized.width - 8) / 2), round((resized.height - 8) / 2)
    wanted = torch.tensor(list(resized.crop((left, top, left + 8, top + 8)).tobytes())).reshape(8, 8, 3)
    bytes_found = ((found[0] + 1) / 2 * 255).round().permute(1, 2, 0)
    assert torch.equal(bytes_found.long(), wanted)


def test_a_very_long_image_is_refused() -> None:
    with pytest.raises(ValueError, match="65 x 1 pixels is too elongated"):
        pixel_values_of(pictures(1, 1, 65), 8)
