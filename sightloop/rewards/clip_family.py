"""The CLIP family: how close the embeddings of an image and a text are, and what a head says of an image.

One class serves CLIP, MetaCLIP 2, AltCLIP, SigLIP and SigLIP 2 (of one resolution, or of any), PickScore and
HPSv2 as a CLIP conversion: they differ in tower, in the scale of the score and in how texts are padded,
which their folders say. Scores of PickScore are its logits (about 20), those of HPSv2 its cosines (about
0.3).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sightloop.models.clip import SIGLIPS, SIMILARITIES, ClipEncoder
from sightloop.models.only_numbers import require_numbers
from sightloop.models.open import read_tensors
from sightloop.rewards.pixels import Preparation
from sightloop.rewards.samples import outcome_images
from sightloop.types import Images, Outcome, on_last_token

_LAION_LINEAR, _LAION_RELU = (0, 2, 4, 6, 7), (0, 3, 6, 9, 11)
"""Places of the linear layers in LAION's predictors; dropout, or ReLU and dropout, stand between them."""
Scale = Literal["cosine", "logit", "probability"]
"""The cosine; times the model's temperature, plus SigLIP's bias; SigLIP's sigmoid of that."""


class ClipSimilarity:
    """How close an image and a text are: a cosine in [-1, 1], or as `scale` says."""

    def __init__(
        self, encoder: ClipEncoder, *, key: str = "clip.image", batch: int = 64, scale: Scale = "cosine"
    ) -> None:
        """Take an encoder; image embeddings are kept under `key`.

        Raises:
            ValueError: the processor prepares images of another size than the model sees, or a scale that
                this model does not have.
        """
        self.encoder = encoder
        self.model, self.tokenizer = encoder.model, encoder.tokenizer
        prepared = Preparation.of_blip if encoder.is_siglip else Preparation.of_clip
        self.preparation: Any = None if encoder.sees_shapes else prepared(encoder.image_processor)
        """How squares are made; None = it takes images in their own shapes."""
        if self.preparation is not None:
            self.preparation.require_size(self.model.config.vision_config.image_size)
        if scale not in ("cosine", "logit", "probability"):
            raise ValueError(f'scale is {scale!r}; use "cosine", "logit" or "probability"')
        if scale == "probability" and not encoder.is_siglip:
            raise ValueError(
                'scale is "probability", which only SigLIP was trained for; use "logit" for CLIP'
            )
        self.key = key
        self.batch = batch
        self.scale: Scale = scale

    @staticmethod
    def from_pretrained(
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        key: str = "",
        processor: str | Path = "",
        scale: Scale = "cosine",
    ) -> ClipSimilarity:
        """Load a folder of the hub's format (or a hub name); `processor` is another one for words and pixels.

        Raises:
            ValueError: a model of another family, or without some of its weights.
        """
        families = SIGLIPS if scale == "probability" else SIMILARITIES
        encoder = ClipEncoder.from_pretrained(
            folder, processor=processor, families=families, dtype=dtype, device=device
        )
        return ClipSimilarity(encoder, key=key or f"clip:{folder}", scale=scale)

    @torch.no_grad()
    def encode_images(self, images: Images) -> Images:
        """The same images with their embeddings under `key`."""
        if self.key in images.features:
            return images
        return replace(images, features={**images.features, self.key: self.image_embeddings(images)})

    @torch.no_grad()
    def image_embeddings(self, images: Images) -> Float[Tensor, "B d"]:
        """Embeddings of length 1, float32."""
        known = images.features.get(self.key)
        if known is not None:
            return known.to(self.model.device)
        if self.preparation is None:
            return self.encoder.shaped_images(images, batch=self.batch)
        prepare = partial(self.preparation.of, device=self.model.device)
        return self.encoder.prepared_images(images, prepare, batch=self.batch)

    @torch.no_grad()
    def text_embeddings(self, texts: list[str]) -> Float[Tensor, "B d"]:
        """Embeddings of length 1, float32; texts are cut at the model's number of positions."""
        return self.encoder.texts_in_order(texts, batch=self.batch)

    @torch.no_grad()
    def rewards(self, images: Images, texts: list[str]) -> Float[Tensor, " B"]:
        """How close each image is to its text."""
        cosine = (self.image_embeddings(images) * self.text_embeddings(texts)).sum(1)
        if self.scale == "cosine":
            return cosine
        logit = cosine * self.model.logit_scale.float().exp()
        if self.encoder.is_siglip:
            logit = logit + self.model.logit_bias.float()
        require_numbers(logit, self.model.name_or_path)
        return logit.sigmoid() if self.scale == "probability" else logit

    def __call__(self, outcome: Outcome) -> Float[Tensor, "B T"]:
        """The score of the caption on the last token."""
        return on_last_token(self.rewards(outcome_images(outcome), outcome.texts()), outcome.tokens)


@dataclass(frozen=True, kw_only=True)
class AestheticReward:
    """What linear layers say about CLIP's embedding of an image: LAION's aesthetic predictors (1 to 10)."""

    clip: ClipSimilarity
    layers: tuple[tuple[Float[Tensor, "_ _"], Float[Tensor, " _"]], ...]
    """Weight and bias of each, the last of which has one output."""
    has_relu: bool = False
    """Whether a ReLU stands between each layer and the next."""
    source: str = "the head"
    """What messages call it."""

    def __post_init__(self) -> None:
        width = int(self.clip.model.config.projection_dim)
        for place, (weight, bias) in enumerate(self.layers):
            if weight.shape[1] != width or bias.shape[0] != weight.shape[0]:
                raise ValueError(
                    f"layer {place} of the head takes {weight.shape[1]} numbers and is given {width}; "
                    "use the CLIP that the head was trained on"
                )
            width = weight.shape[0]
        if width != 1:
            raise ValueError(f"the head says {width} numbers about an image; it must say one")

    @staticmethod
    def from_pretrained(
        clip: str | Path,
        head: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> AestheticReward:
        """A CLIP and the file of its head: tensors `*.weight` and `*.bias`, in .safetensors or .pth.

        Raises:
            ValueError: the file is no head, or leaves open what stands between its layers.
        """
        layers, has_relu = read_layers(head, device=device)
        loaded = ClipSimilarity.from_pretrained(clip, dtype=dtype, device=device)
        return AestheticReward(clip=loaded, layers=layers, has_relu=has_relu, source=str(head))

    @torch.no_grad()
    def rewards(self, images: Images, texts: Sequence[str] = ()) -> Float[Tensor, " B"]:
        """The head's opinion of each image; texts do not matter."""
        values = self.clip.image_embeddings(images)
        for place, (weight, bias) in enumerate(self.layers):
            values = values.relu() if place and self.has_relu else values
            values = F.linear(values, weight.to(values.device), bias.to(values.device))
        return require_numbers(values[:, 0], self.source)


def read_layers(
    file: str | Path, *, device: torch.device | str = "cpu"
) -> tuple[tuple[tuple[Tensor, Tensor], ...], bool]:
    """Weight and bias of the linear layers of a file, in the order of the numbers in their names, float32;
    and whether a ReLU stands between them.

    Raises:
        ValueError: there is no such file, it holds something else, or its numbers leave open what stands
            between its layers.
    """
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"there is no head {str(path)!r}; name a .safetensors or .pth file of linear layers")
    tensors = read_tensors(path)
    names = sorted((n.removesuffix("weight") for n in tensors if n.endswith("weight")), key=_numbers_in)
    if not names or sorted(tensors) != sorted(f"{n}{part}" for n in names for part in ("weight", "bias")):
        raise ValueError(
            f"{str(path)!r} is no row of linear layers; it holds {', '.join(sorted(tensors)[:6])}"
        )
    has_relu = _has_relu(names, str(path))
    layers = tuple(
        (tensors[f"{name}weight"].float().to(device), tensors[f"{name}bias"].float().to(device))
        for name in names
    )
    return layers, has_relu


def _has_relu(names: list[str], source: str) -> bool:
    """What stands between layers has no weights; the numbers of its places are missing."""
    places = tuple(number for name in names for number in _numbers_in(name)[-1:])
    if len(names) == 1 or places == _LAION_LINEAR:
        return False
    if places == _LAION_RELU:
        return True
    found, linear, relu = (", ".join(map(str, numbers)) for numbers in (places, _LAION_LINEAR, _LAION_RELU))
    raise ValueError(
        f"the layers of {source!r} have the numbers {found or 'none'}, which leave open what stands between "
        f"them; known are LAION's {linear} (dropout) and {relu} (ReLU), and a single layer; write this "
        "head as a reward of your own (module:function)"
    )


def _numbers_in(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]
