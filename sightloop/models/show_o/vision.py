"""What Show-o's w-clip-vit variant reads of an image: features of a frozen CLIP tower, projected.

It draws with codes as the plain variant does, and answers about features. They stand behind a system prompt,
and are all that is seen in both directions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPVisionModel

from sightloop.models.mixed_precision import in_own_precision
from sightloop.models.show_o.answers import AnsweredImages
from sightloop.models.show_o.body import Body
from sightloop.models.show_o.layout import SYSTEM_PROMPT
from sightloop.models.show_o.magvit2 import pixel_values_of
from sightloop.types import Images

FEATURES = "show_o"
"""The key of an image's features."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
SPREAD = (0.26862954, 0.26130258, 0.27577711)


def new_projector(width_in: int, width: int) -> nn.Sequential:
    """From a tower's width to the language model's, with the official layout of parameters."""
    return nn.Sequential(nn.Linear(width_in, width), nn.GELU(), nn.Linear(width, width))


class ShowOVision(nn.Module):
    """A frozen CLIP tower (openai/clip-vit-large-patch14-336), its projection, and what precedes them."""

    def __init__(
        self, tower: CLIPVisionModel, projector: nn.Sequential, *, system_prompt: str = SYSTEM_PROMPT
    ) -> None:
        super().__init__()
        self.tower: Any = tower.eval().requires_grad_(False)
        self.projector = projector
        self.system_prompt = system_prompt
        self.image_size: int = self.tower.config.image_size

    @torch.no_grad()
    def encode_images(self, images: Images) -> Images:
        """The same images with the tower's features; those that have them are returned as they are."""
        if FEATURES in images.features:
            return images
        values = pixel_values_of(images.pixels, self.image_size).to(self.tower.device)
        return replace(images, features={**images.features, FEATURES: self.features(values)})

    @in_own_precision
    def features(self, values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B P c"]:
        """Patch features of images in [-1, 1], of any size, with a gradient to them."""
        if values.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            values = F.interpolate(values, size=size, mode="bicubic", antialias=True, align_corners=False)
        mean, spread = (values.new_tensor(numbers)[:, None, None] for numbers in (MEAN, SPREAD))
        normal = ((values.clamp(-1, 1) + 1) / 2 - mean) / spread
        found = self.tower(pixel_values=normal.to(self.tower.dtype), output_hidden_states=True)
        # The last layer but one, without the class token.
        return found.hidden_states[-2][:, 1:]

    def image_rows(
        self,
        body: Body,
        features: Float[Tensor, "D P c"],
        system: list[int],
        *,
        row_of: Int[Tensor, " B"],
    ) -> AnsweredImages:
        """What precedes questions about them; only the features are seen from before them."""
        vocabulary, count = body.vocabulary, len(features)
        projected = self.projector(features.to(body.head.weight.dtype))
        opening = torch.tensor([[vocabulary.mmu, *system, vocabulary.soi]], device=body.device)
        closing = torch.tensor([[vocabulary.eoi]], device=body.device)
        parts = [
            body.embed(opening).expand(count, -1, -1),
            projected,
            body.embed(closing).expand(count, -1, -1),
        ]
        first = opening.shape[1]
        last = first + projected.shape[1] - 1
        return AnsweredImages(embeds=torch.cat(parts, 1), row_of=row_of, first=first, last=last)
