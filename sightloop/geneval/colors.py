"""The colors of objects as GenEval names them: CLIP's choice among ten, for each object on a grey ground.

Differences from the official code: none in texts, crops and preparation; embeddings are float32, where the
official run computes them in half precision, so near ties may differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sightloop.geneval.prompts import COLORS
from sightloop.geneval.rules import Box, Detection
from sightloop.models.clip import ClipEncoder

TEMPLATES = (
    "a photo of a {color} {name}",
    "a photo of a {color}-colored {name}",
    "a photo of a {color} object",
)
GROUND = "#999"


class ColorClassifier(Protocol):
    """Names the colors of objects."""

    protocol: dict[str, str]
    """What its answers depend on, for the record."""

    def colors(self, image: Image.Image, detections: Sequence[Detection]) -> list[str]:
        """One color an object of the image."""
        ...


class ClipColors:
    """CLIP of transformers; GenEval's is openai/clip-vit-large-patch14."""

    def __init__(self, encoder: ClipEncoder) -> None:
        self.encoder = encoder
        self.protocol = {f"color_{name}": value for name, value in encoder.protocol.items() if name != "crop"}
        self.protocol |= {"color_ground": GROUND}
        self._classifiers: dict[str, Float[Tensor, "C d"]] = {}

    @torch.no_grad()
    def colors(self, image: Image.Image, detections: Sequence[Detection]) -> list[str]:
        """One of the ten colors an object.

        Raises:
            ValueError: an object's box holds no pixel of the image.
        """
        if not detections:
            return []
        crops = [crop_of(image, seen.box, mask=seen.mask) for seen in detections]
        seen = self.encoder.images_of(torch.stack([self._prepared(crop) for crop in crops]))
        return [
            COLORS[int((self._classifier(detection.name) @ row).argmax())]
            for detection, row in zip(detections, seen, strict=True)
        ]

    def _classifier(self, name: str) -> Float[Tensor, "C d"]:
        """One unit vector a color, for objects of this class."""
        if name not in self._classifiers:
            texts = [text.format(color=color, name=name) for color in COLORS for text in TEMPLATES]
            embedded = self.encoder.texts(texts, max_characters=None)
            self._classifiers[name] = F.normalize(
                embedded.view(len(COLORS), len(TEMPLATES), -1).mean(1), dim=1
            )
        return self._classifiers[name]

    def _prepared(self, crop: Image.Image) -> Float[Tensor, "3 H W"]:
        """The shorter side to the model's size, and the center of that; the ends of long objects are lost."""
        size, short = self.encoder.size, min(crop.size)
        if not short:
            raise ValueError(
                f"a crop of {crop.width} x {crop.height} pixels has no color; its box is too thin"
            )
        width, height = (size if side == short else int(size * side / short) for side in crop.size)
        resized = crop.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - size) / 2), round((height - size) / 2)
        square = resized.crop((left, top, left + size, top + size))
        pixels = torch.from_numpy(np.array(square, dtype=np.float32)).permute(2, 0, 1) / 255
        processor = self.encoder.image_processor
        mean, spread = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
        return (pixels - mean[:, None, None]) / spread[:, None, None]


def crop_of(
    image: Image.Image, box: Box | None, *, mask: np.ndarray | None = None, ground: str | None = GROUND
) -> Image.Image:
    """An object cut out of an image; what its mask leaves out becomes `ground` (None: stays as it is).

    Corners are rounded to whole pixels, halves to the even one. Without a box, the whole image.

    Raises:
        ValueError: the mask has another size than the image.
    """
    if mask is not None and mask.shape != (image.height, image.width):
        raise ValueError(
            f"a mask of {mask.shape[1]} x {mask.shape[0]} pixels for an image of "
            f"{image.width} x {image.height}"
        )
    if mask is not None and ground is not None:
        image = Image.composite(image, Image.new("RGB", image.size, ground), Image.fromarray(mask))
    if box is None:
        return image
    left, top, right, bottom = (round(float(corner)) for corner in box)
    return image.crop((left, top, right, bottom))
