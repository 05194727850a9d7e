"""The frozen parts of Janus that see: images to codes and back, images to what the language model reads.

All of it is exact against the official code. transformers' own `JanusVQVAE.encode` is not used: it looks for
the nearest code without scaling latents and codebook to unit length, and finds others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from sightloop.models.deduplicate import distinct, image_keys, row_keys
from sightloop.models.mixed_precision import in_own_precision
from sightloop.models.only_numbers import require_drawn, require_numbers
from sightloop.types import Images, Tokens

_IMAGES_AT_ONCE = 4
"""The decoder's activations take over half a gigabyte for each image of 384 pixels."""


@dataclass(frozen=True, kw_only=True)
class ImagePreparation:
    """How images of any size are brought to a square; the values are those of every released Janus."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    min_size: int = 14
    """The shorter side is no shorter than this, in pixels."""


def rounded(values: Float[Tensor, "B 3 s s"]) -> UInt8[Tensor, "B 3 s s"]:
    """Decoded values (-1 to 1) as pixels: cut off, as the official code does, not to the nearest."""
    return ((values + 1) / 2 * 255).clamp(0, 255).to(torch.uint8)


class JanusImages:
    """Vision tower, aligner and VQ model of a `JanusForConditionalGeneration`."""

    def __init__(self, model: Any, preparation: ImagePreparation) -> None:
        self._core: Any = model.model
        self.preparation = preparation
        vision, vq = model.config.vision_config, model.config.vq_config
        self.tower_size = int(vision.image_size)
        self.num_places = (self.tower_size // int(vision.patch_size)) ** 2
        self.grid: tuple[int, int] = tuple(self._core.vqmodel.quantize.quant_state_dims)
        self.num_codes = int(vq.num_embeddings)
        self.code_size = self.grid[0] * 2 ** (len(vq.channel_multiplier) - 1)
        self.source: str = model.name_or_path or ""
        self.key = f"janus:{model.config.name_or_path}"

    @property
    def num_image_tokens(self) -> int:
        """Codes of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def _like(self) -> Tensor:
        return self._core.vqmodel.quant_conv.weight

    # -- squares

    def squares(self, pixels: UInt8[Tensor, "B 3 H W"], size: int) -> UInt8[Tensor, "B 3 s s"]:
        """The whole image in a square: longest side `size`, the rest in the mean color."""
        height, width = pixels.shape[2:]
        if height == width == size:
            return pixels
        longest = max(height, width)
        least = self.preparation.min_size
        high, wide = (max(round(side * size / longest), least) for side in (height, width))
        side = max(high, wide)
        if side != size:
            raise ValueError(
                f"an image of {size} pixels cannot hold sides of {least} or more; the checkpoint's "
                "preprocessor_config.json is wrong"
            )
        color = torch.tensor([int(255 * value) for value in self.preparation.mean], dtype=torch.uint8)
        board = color.to(pixels.device)[None, :, None, None].repeat(len(pixels), 1, side, side)
        top, left = (side - high) // 2, (side - wide) // 2
        for row, image in enumerate(pixels.permute(0, 2, 3, 1).cpu().numpy()):
            # Pillow's own filter: other libraries' bicubic differs by a grey level here and there.
            scaled = Image.fromarray(image).resize((wide, high), Image.Resampling.BICUBIC)
            board[row, :, top : top + high, left : left + wide] = torch.from_numpy(np.array(scaled)).permute(
                2, 0, 1
            )
        return board

    def _values(self, pixels: UInt8[Tensor, "B 3 s s"]) -> Float[Tensor, "B 3 s s"]:
        return self._scaled(pixels.to(self._like.device).float() / 255)

    def _scaled(self, shares: Float[Tensor, "B 3 s s"]) -> Float[Tensor, "B 3 s s"]:
        mean, std = (
            torch.tensor(value, device=shares.device).view(1, 3, 1, 1)
            for value in (self.preparation.mean, self.preparation.std)
        )
        return (shares - mean) / std

    # -- seeing

    def see(self, images: Images | Tokens) -> tuple[Float[Tensor, "D N h"], list[int]]:
        """What the language model reads of each different image, and for every row the number of its
        image.

        Tokens with one-hot codes are each seen by themselves and carry a gradient to those codes.
        """
        if isinstance(images, Images) and self.key in images.features:
            firsts, places = distinct(image_keys(images))
            return images.features[self.key][firsts], places
        if isinstance(images, Tokens) and images.one_hot is not None:
            return self.features(self._shown(images.one_hot)), list(range(len(images)))
        firsts, places = distinct(image_keys(images))
        rows = images.rows(torch.tensor(firsts))
        with torch.no_grad():
            pixels = (rows if isinstance(rows, Images) else self.pixels(rows)).pixels
            return self.features(self._values(self.squares(pixels, self.tower_size))), places

    @in_own_precision
    def features(self, values: Float[Tensor, "B 3 s s"]) -> Float[Tensor, "B N h"]:
        """Tower and aligner on prepared values."""
        return self._core.get_image_features(values.to(self._like.dtype)).pooler_output

    def _shown(self, one_hot: Float[Tensor, "B T V"]) -> Float[Tensor, "B 3 s s"]:
        """Prepared values of the images that codes make: rounded as images are, with the gradient of
        unrounded ones.
        """
        shares = ((self.values_of(one_hot).float() + 1) / 2).clamp(0, 1)
        rounded = (shares.detach() * 255).to(torch.uint8).float() / 255
        shares = shares + (rounded - shares).detach()
        if self.code_size != self.tower_size:
            size = (self.tower_size, self.tower_size)
            shares = F.interpolate(shares, size, mode="bicubic", antialias=True, align_corners=False)
        return self._scaled(shares)

    # -- codes

    @in_own_precision
    def values_of(self, codes: Int[Tensor, "B T"] | Float[Tensor, "B T V"]) -> Float[Tensor, "B 3 s s"]:
        """Decoded images, about -1 to 1; codes may be (soft) one-hot and then carry a gradient."""
        vq = self._core.vqmodel
        book = F.normalize(vq.quantize.embedding.weight, dim=-1)
        chosen = book[codes] if codes.ndim == 2 else codes.to(book.dtype) @ book
        latents = chosen.unflatten(1, self.grid).permute(0, 3, 1, 2)
        return vq.decoder(vq.post_quant_conv(latents.contiguous()))

    @torch.no_grad()
    def pixels(self, tokens: Tokens) -> Images:
        """Images of codes, rounded as the official code rounds them; with keys, as the host sees the codes.

        Raises:
            ValueError: the tokens are not the codes of whole images.
        """
        ids, mask = torch.stack([tokens.ids, tokens.mask.long()]).cpu()
        if ids.shape[1] != self.num_image_tokens or not bool(mask.all()):
            raise ValueError(
                f"an image has {self.num_image_tokens} tokens that all count; these have {ids.shape[1]}, "
                f"{int(mask.sum())} of {mask.numel()} count"
            )
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.num_codes:
            require_drawn(int(ids.min()), self.source, "images")
            raise ValueError(
                f"image tokens are {int(ids.min())} to {int(ids.max())}; there are {self.num_codes} codes"
            )
        parts = tokens.ids.to(self._like.device).split(_IMAGES_AT_ONCE)
        made = [self.values_of(part).float() for part in parts]
        values = require_numbers(torch.cat(made), self.source, "images")
        return Images(pixels=rounded(values), keys=row_keys(ids))

    @torch.no_grad()
    def codes(self, images: Images) -> Int[Tensor, "B T"]:
        """The nearest codes of images, row by row."""
        values = self._values(self.squares(images.pixels, self.code_size))
        return torch.cat([self.nearest(part) for part in values.split(_IMAGES_AT_ONCE)])

    @in_own_precision
    def latents(self, values: Float[Tensor, "B 3 s s"]) -> Float[Tensor, "B c H W"]:
        """What the codes stand for, before the nearest are found."""
        vq = self._core.vqmodel
        return vq.quant_conv(vq.encoder(values.to(self._like.dtype)))

    @in_own_precision
    def nearest(self, values: Float[Tensor, "B 3 s s"]) -> Int[Tensor, "B T"]:
        """Codes of prepared values: the largest cosine, because the official search is on the sphere."""
        made = require_numbers(self.latents(values), self.source, "codes")
        latents = F.normalize(made.float(), dim=1).flatten(2).transpose(1, 2)
        book = F.normalize(self._core.vqmodel.quantize.embedding.weight.float(), dim=-1)
        return (latents @ book.T).argmax(-1)
