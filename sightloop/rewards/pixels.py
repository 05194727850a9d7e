"""Pixels as a network wants them, prepared in batches as the checkpoint's own image processor does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from sightloop.types import Images

_FILTERS: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Pixels as a network wants them: size, then mean and standard deviation per channel."""

    height: int
    width: int
    shortest_side: int | None = None
    """Resize to this shortest side and crop the center; None = squash to height and width."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resampling: Literal["bilinear", "bicubic"] = "bicubic"

    @staticmethod
    def of_blip(image_processor: BlipImageProcessorPil | SiglipImageProcessorPil) -> Preparation:
        """What a BLIP or SigLIP processor does: squash."""
        size = image_processor.size
        return Preparation(height=size["height"], width=size["width"], **_as_in(image_processor))

    @staticmethod
    def of_clip(image_processor: CLIPImageProcessorPil) -> Preparation:
        """What a CLIP processor does: shortest side, center crop."""
        size, crop = image_processor.size, image_processor.crop_size
        return Preparation(
            height=crop["height"],
            width=crop["width"],
            shortest_side=size["shortest_edge"],
            **_as_in(image_processor),
        )

    def require_size(self, side: int) -> None:
        """Compare with the side that a model sees.

        Raises:
            ValueError: they differ.
        """
        if (self.height, self.width) != (side, side):
            raise ValueError(
                f"the image processor makes images of {self.height} x {self.width} pixels, the model sees "
                f"{side} x {side}; correct the size in preprocessor_config.json (or processor_config.json)"
            )

    def __call__(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 h w"]:
        """Resized (antialiased), cropped and normalized pixels, float32."""
        values = self._crop(self._resize(pixels.float())) / 255
        mean, std = (values.new_tensor(each).view(1, 3, 1, 1) for each in (self.mean, self.std))
        return (values - mean) / std

    def of(self, images: Images, device: torch.device) -> Float[Tensor, "B 3 h w"]:
        """The same of images, in their own shapes where these are known."""
        if images.whole is None:
            return self(images.pixels.to(device))
        return torch.cat([self(each[None].to(device)) for each in images.whole])

    def _resize(self, values: Tensor) -> Tensor:
        size = (self.height, self.width)
        if self.shortest_side is not None:
            short = min(values.shape[2:])
            size = tuple(self.shortest_side * side // short for side in values.shape[2:])
        if tuple(values.shape[2:]) == size:
            return values
        resized = F.interpolate(values, size=size, mode=self.resampling, antialias=True)
        # Whole levels, as in the 8-bit images that processors make.
        return resized.round().clamp(0, 255)

    def _crop(self, values: Tensor) -> Tensor:
        top, left = (values.shape[2] - self.height) // 2, (values.shape[3] - self.width) // 2
        return values[:, :, top : top + self.height, left : left + self.width]


def _as_in(
    image_processor: BlipImageProcessorPil | CLIPImageProcessorPil | SiglipImageProcessorPil,
) -> dict[str, Any]:
    """Mean, deviation and resampling of a processor.

    Raises:
        ValueError: it resamples in a way that tensors cannot repeat.
    """
    made = cast("Any", image_processor)
    filter_number = int(made.resample)
    if filter_number not in _FILTERS:
        raise ValueError(f"the image processor resamples by Pillow's filter {filter_number}; use 2 or 3")
    return {
        "mean": tuple(made.image_mean),
        "std": tuple(made.image_std),
        "resampling": _FILTERS[filter_number],
    }
