"""MAGVIT-v2 images to codes and back, as Show-o uses it (`showlab/magvitv2`; Yu et al., arXiv 2310.05737).

Convolutions bring an image to one cell for every 16 x 16 pixels; the signs of a cell's channels are its code
(lookup-free quantisation). Names of parameters are those of the published checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn

from sightloop.models.families import require
from sightloop.models.mixed_precision import in_own_precision
from sightloop.models.only_numbers import require_numbers
from sightloop.models.show_o.magvit2_layers import Codebook, Encoder, ImageDecoder, Magvit2Config
from sightloop.models.weight_files import load_exactly, read_weights

_MAX_SIDE_RATIO = 64


class Magvit2(nn.Module):
    """Images to codes and back."""

    def __init__(self, config: Magvit2Config | None = None) -> None:
        super().__init__()
        self.config = Magvit2Config() if config is None else config
        self.encoder = Encoder(self.config)
        self.decoder = ImageDecoder(self.config)
        self.quantize = Codebook(self.config.num_bits)
        self.source = "MAGVIT-v2"
        """What messages call it."""

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor], *, source: str = "the checkpoint") -> Magvit2:
        """The model that a checkpoint's tensors are, in float32, ready to use.

        Raises:
            ValueError: tensors are missing, unknown, of another shape, or the codebook is not the signs.
        """
        model = cls(Magvit2Config.of_tensors(tensors, source=source))
        load_exactly(model, tensors, source=source)
        for name, wanted in Codebook(model.config.num_bits).state_dict().items():
            if not torch.equal(tensors[f"quantize.{name}"].to(wanted), wanted):
                raise ValueError(f"{source}: quantize.{name} does not number the codes by their signs")
        model.source = source
        return model.eval()

    @classmethod
    def from_folder(cls, source: Path | str) -> Magvit2:
        """The model of a folder with weights, or of a weight file.

        Raises:
            ValueError: no weights there, or not those of this model.
        """
        try:
            return cls.from_state_dict(read_weights(Path(source)), source=str(source))
        except ValueError:
            if (Path(source) / "config.json").is_file():
                require(Path(source), "magvit2")
            raise

    @property
    def num_codes(self) -> int:
        """Different codes."""
        return self.config.num_codes

    @property
    def factor(self) -> int:
        """Pixels along the side of a cell."""
        return self.config.factor

    @in_own_precision
    def latents(self, pixel_values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        """What is quantised: one cell of `num_bits` numbers for each square of pixels in [-1, 1].

        Raises:
            ValueError: a side that is no multiple of `factor`.
        """
        height, width = pixel_values.shape[-2:]
        if height % self.factor or width % self.factor or not height or not width:
            raise ValueError(
                f"images of {height} x {width} pixels; both sides must be multiples of {self.factor}"
            )
        return self.encoder(pixel_values)

    @torch.no_grad()
    def encode(self, pixel_values: Float[Tensor, "B 3 H W"]) -> Int[Tensor, "B N"]:
        """Codes of images in [-1, 1], row by row."""
        return self.quantize.ids_of(require_numbers(self.latents(pixel_values), self.source, "codes"))

    @in_own_precision
    def decode_latents(self, quantized: Float[Tensor, "B D h w"]) -> Float[Tensor, "B 3 H W"]:
        """Images of signs, about [-1, 1], not clamped; the gradient flows to both."""
        return self.decoder(quantized)

    def decode(
        self, ids: Int[Tensor, "B N"], shape: tuple[int, int] | None = None
    ) -> Float[Tensor, "B 3 H W"]:
        """Images of codes, about [-1, 1], not clamped; `shape` is cells in height and width, None = square.

        Raises:
            ValueError: codes beyond the codebook, or their number does not fit the shape.
        """
        grid = _grid(ids.shape[1], shape)
        if ids.numel() and not bool(((ids >= 0) & (ids < self.num_codes)).all()):
            low, high = int(ids.min()), int(ids.max())
            raise ValueError(f"codes from {low} to {high}; the codebook has 0 to {self.num_codes - 1}")
        signs = self.quantize.signs_of(ids, grid)
        values = self.decode_latents(signs.to(self.decoder.conv_in.weight.dtype))
        return require_numbers(values, self.source, "images")

    @in_own_precision
    def decode_soft(
        self, one_hot: Float[Tensor, "B N C"], shape: tuple[int, int] | None = None
    ) -> Float[Tensor, "B 3 H W"]:
        """Images of weighted codes, with a gradient to the weights; one-hot rows decode as their codes."""
        height, width = _grid(one_hot.shape[1], shape)
        signs = one_hot @ self.quantize.embedding.to(one_hot.dtype)
        cells = signs.unflatten(1, (height, width)).permute(0, 3, 1, 2)
        return self.decode_latents(cells.to(self.decoder.conv_in.weight.dtype))


def _grid(count: int, shape: tuple[int, int] | None) -> tuple[int, int]:
    height, width = (int(count**0.5 + 0.5),) * 2 if shape is None else shape
    if height * width != count:
        fix = "name the shape (height, width)" if shape is None else "give one code for each cell"
        raise ValueError(f"{count} codes do not fill {height} x {width} cells; {fix}")
    return height, width


# -- pixels


def pixel_values_of(pixels: UInt8[Tensor, "B 3 H W"], size: int) -> Float[Tensor, "B 3 size size"]:
    """Images as the tokenizer reads them: shorter side to `size`, center cut out, from -1 to 1.

    Raises:
        ValueError: an image too elongated to be resized.
    """
    if tuple(pixels.shape[-2:]) != (size, size):
        device = pixels.device
        squares = [_square(image.permute(1, 2, 0).cpu().numpy(), size) for image in pixels]
        pixels = torch.stack([torch.from_numpy(square) for square in squares]).permute(0, 3, 1, 2).to(device)
    return pixels.float() / 255 * 2 - 1


def _square(picture: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    height, width = picture.shape[:2]
    short, long = sorted((height, width))
    if long > short * _MAX_SIDE_RATIO:
        raise ValueError(f"an image of {width} x {height} pixels is too elongated; cut it first")
    long = int(size * long / short)
    width, height = (size, long) if width <= height else (long, size)
    image = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
    # Python's rounding to even numbers, as in the transform that the published model was trained with.
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.array(image.crop((left, top, left + size, top + size)))


def pixels_from(values: Float[Tensor, "B 3 H W"]) -> UInt8[Tensor, "B 3 H W"]:
    """Decoded images as bytes, cut off and not rounded, as the official code does."""
    return (((values.detach().float() + 1) / 2).clamp(0, 1) * 255).to(torch.uint8)
