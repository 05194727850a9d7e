"""The one place that runs a CLIP: images and texts to normalized embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from sightloop.image_files import BrokenImageError, open_picture, upright_rgb
from sightloop.models.open import ends_of, open_config, open_pictures, open_weights, open_words, refuse_as
from sightloop.models.written_text import read_texts

Picture = Image.Image | Path | str
Pictures = UInt8[Tensor, "N 3 H W"] | Sequence[Picture]
MAX_CHARACTERS = 300


class ClipEncoder:
    """Any CLIP model of transformers as the eyes of the evaluation."""

    def __init__(
        self, model: CLIPModel, words: PreTrainedTokenizerBase, pictures: CLIPImageProcessorPil, *, name: str
    ) -> None:
        self.model: Any = model.eval().requires_grad_(False)
        self.words: Any = words
        self.pictures: Any = pictures
        self.name = name
        self.size = int(self.pictures.crop_size["height"])
        """Side of the square that the model sees, in pixels."""
        self.max_tokens = int(self.model.config.text_config.max_position_embeddings)
        """Begin and end token included."""
        self.protocol = {
            "encoder": name,
            "encoder_weights": _digest(
                self.model.text_projection.weight, self.model.visual_projection.weight
            ),
            "encoder_dtype": str(self.model.dtype).removeprefix("torch."),
            "crop": _crop_of(self.pictures),
            "transformers": transformers.__version__,
        }
        """What figures of this encoder depend on."""

    @staticmethod
    def from_pretrained(
        folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> ClipEncoder:
        """Load a folder of the hub's format (or a hub name).

        Raises:
            ValueError: weights or tokenizer are missing.
        """
        config = open_config(folder)
        if config.model_type != "clip":
            refuse_as(config, "a CLIP", str(folder))
        model: Any = open_weights(CLIPModel, folder, dtype=dtype, device=device)
        text = model.config.text_config
        words = open_words(folder, rows=text.vocab_size, ends=ends_of(text))
        pictures = open_pictures(CLIPImageProcessorPil, folder)
        # A path on this computer means nothing to others, a name on the hub does.
        name = Path(folder).name if Path(folder).is_dir() else str(folder)
        return ClipEncoder(model, words, pictures, name=name)

    @torch.no_grad()
    def images(self, pictures: Pictures, *, batch: int = 64) -> Float[Tensor, "N d"]:
        """Unit embeddings, float32, of pixels or of picture files, prepared by the model's own processor.

        Raises:
            ValueError: no pictures, or one that cannot be read.
        """
        if not len(pictures):
            raise ValueError("no pictures to encode")
        rows = [self._see(pictures[start : start + batch]) for start in range(0, len(pictures), batch)]
        return _finite(F.normalize(torch.cat(rows), dim=1), self.name)

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
        rows = [self._read(distinct[start : start + batch]) for start in range(0, len(distinct), batch)]
        place = {text: row for row, text in enumerate(distinct)}
        return _finite(F.normalize(torch.cat(rows), dim=1), self.name)[[place[text] for text in cut]]

    def shares_cut(self, captions: Sequence[str]) -> dict[str, float]:
        """Share of captions cut at `MAX_CHARACTERS`, and of those cut at `max_tokens` after that."""
        short = [caption[:MAX_CHARACTERS] for caption in captions]
        lengths = [len(ids) for ids in read_texts(self.words, short, verbose=False)["input_ids"]]
        return {
            "cut_by_characters": sum(len(c) > MAX_CHARACTERS for c in captions) / len(captions),
            "cut_by_tokens": sum(length > self.max_tokens for length in lengths) / len(captions),
        }

    def _see(self, pictures: Pictures) -> Float[Tensor, "B d"]:
        opened = list(pictures.cpu()) if isinstance(pictures, Tensor) else [_rgb(each) for each in pictures]
        form = {"input_data_format": "channels_first"} if isinstance(pictures, Tensor) else {}
        values = self.pictures(opened, return_tensors="pt", **form)["pixel_values"]
        values = values.to(self.model.device, self.model.dtype)
        return self.model.get_image_features(pixel_values=values).pooler_output.float()

    def _read(self, texts: list[str]) -> Float[Tensor, "B d"]:
        encoded = read_texts(
            self.words, texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.model.device)
        found = self.model.get_text_features(
            input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]
        )
        return found.pooler_output.float()


def _finite(embeddings: Tensor, name: str) -> Tensor:
    if not embeddings.isfinite().all():
        raise ValueError(f"{name} computes embeddings that are not numbers; measure with another CLIP")
    return embeddings


def _rgb(picture: Picture) -> Image.Image:
    """8-bit RGB, upright, transparency over white."""
    if not isinstance(picture, Image.Image):
        return open_picture(picture)
    try:
        return upright_rgb(picture)
    except BrokenImageError as error:
        raise ValueError(f"a picture cannot be used: {error}") from error


def _digest(*weights: Tensor) -> str:
    """Tells two models of the same name apart."""
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _crop_of(pictures: Any) -> str:
    """What the processor does to a picture, in words."""
    size, crop = pictures.size, pictures.crop_size
    short = size["shortest_edge"]
    resized = f"shorter side to {short}" if short else f"squashed to {size['height']} x {size['width']}"
    steps = [resized] * pictures.do_resize
    steps += [f"centre {crop['height']} x {crop['width']}"] * pictures.do_center_crop
    return ", ".join(steps)
