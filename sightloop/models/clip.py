"""The one place that runs a CLIP or SigLIP: images and texts to normalized embeddings.

Pixels are prepared in one of two ways. An evaluation has them prepared by the model's own processor, on the
host, as everybody else measures. A reward brings a preparation of its own that runs on the device, in every
step: equal bits where no image is resized, else some levels of 255 apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AltCLIPModel,
    CLIPModel,
    MetaClip2Model,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Siglip2Model,
    SiglipModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from sightloop.image_files import BrokenImageError, open_image, upright_rgb
from sightloop.models.downloads import in_one_sentence
from sightloop.models.kinds import CLIPS
from sightloop.models.only_numbers import unit_rows
from sightloop.models.open import ModelRole, open_model
from sightloop.models.written_text import read_texts
from sightloop.process.long_work import counted
from sightloop.types import Images

ClipImage = Image.Image | Path | str
ClipImages = UInt8[Tensor, "N 3 H W"] | Sequence[ClipImage]
MAX_CHARACTERS = 300


Prepare = Callable[[Images], Float[Tensor, "B 3 h w"]]
SIGLIPS = ("siglip", "siglip2")
SIMILARITIES = (*CLIPS, *SIGLIPS)
"""All that say how close an image and a text are."""
_WANTED = {
    # Last projections are read and computed in float32: three digits, which bfloat16 has, make ties.
    **{
        kind: ModelRole(
            what="a CLIP",
            fits=lambda config, kind=kind: config.model_type == kind,
            model=model,
            exact=("visual_projection", "text_projection", "logit_scale"),
            text=lambda config: config.text_config,
            images=CLIPImageProcessorPil,
        )
        for kind, model in zip(CLIPS, (CLIPModel, MetaClip2Model, AltCLIPModel), strict=True)
    },
    **{
        kind: ModelRole(
            what="a SigLIP",
            fits=lambda config, kind=kind: config.model_type == kind,
            model=model,
            exact=("head", "logit_scale", "logit_bias"),
            text=lambda config: config.text_config,
            images=images,
        )
        for kind, model, images in (
            ("siglip", SiglipModel, SiglipImageProcessorPil),
            ("siglip2", Siglip2Model, Siglip2ImageProcessorPil),
        )
    },
}


@dataclass(frozen=True, kw_only=True)
class SeenImages:
    """Embeddings of images, and which images these were."""

    embeddings: Float[Tensor, "N d"]
    digest: str
    """Of the prepared pixels, in whatever order: equal sets of images have equal ones."""


class ClipEncoder:
    """A CLIP or SigLIP of transformers, MetaCLIP 2, AltCLIP and SigLIP 2 of any resolution (NaFlex) among
    them. Towers run in any precision, their last projections in float32.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: CLIPImageProcessorPil | SiglipImageProcessorPil | Siglip2ImageProcessorPil,
        *,
        name: str,
    ) -> None:
        self.model: Any = model.eval().requires_grad_(False)
        self.tokenizer: Any = tokenizer
        self.image_processor: Any = image_processor
        self.name = name
        self.is_siglip = self.model.config.model_type in SIGLIPS
        self.sees_shapes = self.model.config.model_type == "siglip2"
        """Whether it takes images in their own shapes."""
        self.max_tokens = _max_tokens(self.model.config)
        """Begin and end token included."""
        # The model's own would be that of its first weight, which is a temperature in float32.
        self.dtype: torch.dtype = self.model.vision_model.embeddings.patch_embedding.weight.dtype
        self._image_head, self._text_head = self._heads()

    @staticmethod
    def from_pretrained(
        folder: str | Path,
        *,
        processor: str | Path = "",
        families: Sequence[str] = CLIPS,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> ClipEncoder:
        """Load a folder of the hub's format (or a hub name); `processor` is another one for words and pixels.

        Raises:
            ValueError: weights or tokenizer are missing, or it is a model of none of the `families`.
        """
        wanted = [_WANTED[kind] for kind in families]
        found = open_model(folder, *wanted, dtype=dtype, device=device, beside=processor)
        return ClipEncoder(found.model, found.words, found.images, name=found.name)

    @property
    def size(self) -> int:
        """Side of the square that the model sees, in pixels."""
        return int(
            (self.image_processor.size if self.is_siglip else self.image_processor.crop_size)["height"]
        )

    @cached_property
    def protocol(self) -> dict[str, str]:
        """What figures of this encoder depend on."""
        return {
            "encoder": self.name,
            "encoder_weights": _digest(self.model),
            "encoder_dtype": str(self.dtype).removeprefix("torch."),
            "crop": _crop_of(self.image_processor),
            "transformers": transformers.__version__,
        }

    @torch.no_grad()
    def images(self, images: ClipImages, *, batch: int = 64) -> Float[Tensor, "N d"]:
        """Unit embeddings, float32, of pixels or of image files, prepared by the model's own processor.

        Raises:
            ValueError: no images, or one that cannot be read.
        """
        return self.see(images, batch=batch).embeddings

    @torch.no_grad()
    def see(self, images: ClipImages, *, batch: int = 64) -> SeenImages:
        """The same with the digest of the images.

        Raises:
            ValueError: no images, or one that cannot be read.
        """
        if not len(images):
            raise ValueError("no images to encode")
        rows: list[Tensor] = []
        digests: list[bytes] = []
        starts = range(0, len(images), batch)
        for start in counted(starts, f"seen by {self.name}", total=len(starts), unit="batches of images"):
            values = self._processed(images[start : start + batch])
            digests += [hashlib.sha256(each.numpy().tobytes()).digest() for each in values]
            rows.append(self._see(values))
        digest = hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:12]
        return SeenImages(embeddings=unit_rows(torch.cat(rows), self.name), digest=digest)

    @torch.no_grad()
    def prepared_images(self, images: Images, prepare: Prepare, *, batch: int = 64) -> Float[Tensor, "N d"]:
        """Unit embeddings, float32, of images that `prepare` makes ready on the model's device."""
        parts = torch.arange(len(images)).split(batch)
        return unit_rows(torch.cat([self._see(prepare(images.rows(part))) for part in parts]), self.name)

    @torch.no_grad()
    def shaped_images(self, images: Images, *, batch: int = 64) -> Float[Tensor, "N d"]:
        """The same of images in their own shapes, by a model that takes any, prepared by its processor."""
        rows: list[Tensor] = []
        for part in torch.arange(len(images)).split(batch):
            with in_one_sentence(self.tokenizer.name_or_path, "the image processor"):
                made = self.image_processor(images.rows(part).pictures(), return_tensors="pt")
            given = {name: value.to(self.model.device) for name, value in made.items()}
            given["pixel_values"] = given["pixel_values"].to(self.dtype)
            seen = self.model.vision_model(**given).last_hidden_state
            rows.append(self._image_head(seen.float(), given["pixel_attention_mask"]))
        return unit_rows(torch.cat(rows), self.name)

    @torch.no_grad()
    def images_of(self, values: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N d"]:
        """Unit embeddings, float32, of images that are prepared already, all at once."""
        return unit_rows(self._see(values), self.name)

    @torch.no_grad()
    def texts(
        self, captions: Sequence[str], *, batch: int = 256, max_characters: int | None = MAX_CHARACTERS
    ) -> Float[Tensor, "N d"]:
        """Unit embeddings, float32, of captions cut at `max_characters` and then at `max_tokens`.

        Raises:
            ValueError: no captions.
        """
        if not captions:
            raise ValueError("no captions to encode")
        cut = [caption[:max_characters] for caption in captions]
        # By length, so that a batch holds little padding.
        distinct = sorted(set(cut), key=lambda text: (len(text), text))
        place = {text: row for row, text in enumerate(distinct)}
        found = self.texts_in_order(distinct, batch=batch)
        return found[[place[text] for text in cut]]

    @torch.no_grad()
    def texts_in_order(self, texts: Sequence[str], *, batch: int) -> Float[Tensor, "N d"]:
        """Unit embeddings, float32, of texts as they are, cut at `max_tokens`, in batches as they come."""
        starts = range(0, len(texts), batch)
        rows = [self._read(list(texts[start : start + batch])) for start in starts]
        return unit_rows(torch.cat(rows), self.name)

    def shares_cut(self, captions: Sequence[str]) -> dict[str, float]:
        """Share of captions cut at `MAX_CHARACTERS`, and of those cut at `max_tokens` after that."""
        short = [caption[:MAX_CHARACTERS] for caption in captions]
        lengths = [len(ids) for ids in read_texts(self.tokenizer, short, verbose=False)["input_ids"]]
        return {
            "cut_by_characters": sum(len(c) > MAX_CHARACTERS for c in captions) / len(captions),
            "cut_by_tokens": sum(length > self.max_tokens for length in lengths) / len(captions),
        }

    def _processed(self, images: ClipImages) -> Float[Tensor, "B 3 h w"]:
        opened = list(images.cpu()) if isinstance(images, Tensor) else [_rgb(each) for each in images]
        form = {"input_data_format": "channels_first"} if isinstance(images, Tensor) else {}
        with in_one_sentence(self.tokenizer.name_or_path, "the image processor"):
            return self.image_processor(opened, return_tensors="pt", **form)["pixel_values"]

    def _see(self, values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B d"]:
        seen = self.model.vision_model(pixel_values=values.to(self.model.device, self.dtype))
        before = seen.last_hidden_state if self.is_siglip else seen.pooler_output
        return self._image_head(before.float())

    def _read(self, texts: list[str]) -> Float[Tensor, "B d"]:
        options: dict[str, Any] = {"padding": True, "padding_side": "right"}
        if self.is_siglip:
            # It was trained on full rows without a mask and reads the last position.
            options = {"padding": "max_length"}
        encoded = read_texts(
            self.tokenizer, texts, truncation=True, max_length=self.max_tokens, return_tensors="pt", **options
        )
        names = ("input_ids",) if self.is_siglip else ("input_ids", "attention_mask")
        given = {name: encoded[name].to(self.model.device) for name in names}
        return self._text_head(self.model.text_model(**given).pooler_output.float())

    def _heads(self) -> tuple[Any, Any]:
        """The last layers of both towers, in float32."""
        if not self.is_siglip:
            return self.model.visual_projection.float(), self.model.text_projection.float()
        heads = self.model.vision_model.head.float(), self.model.text_model.head.float()
        # The towers would run them in their own precision.
        self.model.vision_model.head, self.model.text_model.head = _Later(), _Later()
        return heads


class _Later(nn.Module):
    """Stands in the place of a layer that is called by itself."""

    def forward(self, hidden: Tensor, *_: Any) -> Tensor:
        return hidden


def _max_tokens(config: Any) -> int:
    text = config.text_config
    # The first positions of a RoBERTa, which AltCLIP reads with, are those of padding.
    return int(text.max_position_embeddings) - (text.pad_token_id + 1) * (config.model_type == "altclip")


def _rgb(image: ClipImage) -> Image.Image:
    """8-bit RGB, upright, transparency over white."""
    if not isinstance(image, Image.Image):
        return open_image(image)
    try:
        return upright_rgb(image)
    except BrokenImageError as error:
        raise ValueError(f"an image cannot be used: {error}") from error


def _digest(model: Any) -> str:
    """Tells two models of one name apart, by their last projections and the small tensors of all layers."""
    digest = hashlib.sha256()
    last = ("text_projection.weight", "visual_projection.weight", "head.weight")
    for name, value in sorted(model.named_parameters()):
        if value.ndim < 2 or name.endswith(last):
            digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _crop_of(image_processor: Any) -> str:
    """What the processor does to an image, in words."""
    size, crop = image_processor.size, image_processor.crop_size
    short = size["shortest_edge"]
    resized = f"shorter side to {short}" if short else f"squashed to {size['height']} x {size['width']}"
    steps = [resized] * image_processor.do_resize
    steps += [f"center {crop['height']} x {crop['width']}"] * image_processor.do_center_crop
    return ", ".join(steps)
