"""CLIP Recall: does a caption find its picture among all others?

Protocol of IC3 (arXiv 2302.01328) as VLRM uses it (arXiv 2404.01911, section 5): cosine of CLIP embeddings,
rank = 1 + the number of pictures strictly closer to the caption than its own, captions cut at 300 characters
and then at the tokens that CLIP can read, pictures resized to the shorter side and cropped at the centre.

Differences from the papers:
1. IC3 averages over the captions of a picture, then over pictures; here every caption weighs the same, which
   is another figure only where pictures have different numbers of captions.
2. Equal captions are encoded once, so that their ties are exact.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from sightloop.evaluation.pairs import CaptionSet
from sightloop.evaluation.ranking import Ties, rank_images, rank_texts, recall_metrics, recall_values
from sightloop.image_files import BrokenImageError, open_picture, upright_rgb
from sightloop.models.open import ends_of, open_config, open_pictures, open_weights, open_words, refuse_as
from sightloop.models.written_text import read_texts
from sightloop.types import Evaluation

Picture = Image.Image | Path | str
Pictures = UInt8[Tensor, "N 3 H W"] | Sequence[Picture]
MAX_CHARACTERS = 300
TOLERATED_TIES = 0.001
"""Share of captions that may tie with a wrong picture before the protocol carries a warning."""
_NOT_PROTOCOL = {"hash", "warning"}


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


def clip_recall(
    encoder: ClipEncoder,
    images: Float[Tensor, "N d"] | Pictures,
    captions: Sequence[str],
    *,
    target: Int[Tensor, " M"] | None = None,
    sources: Sequence[str] = (),
    ties: Ties = "optimistic",
) -> Evaluation:
    """CLIP Recall of captions against pictures or their embeddings (`encoder.images`), both directions.

    `target` names the row of each caption's picture (None = the same row), `sources` says where that picture
    came from. Figures of image to text begin with `image_`; they come per caption too where all pictures have
    equally many captions. `cut_by_characters`, `cut_by_tokens` and `share_of_ties` say how far to trust them.

    Raises:
        ValueError: no captions, or captions, pictures, targets and sources that do not fit together.
    """
    if sources and len(sources) != len(captions):
        raise ValueError(f"{len(sources)} sources for {len(captions)} captions; give one a caption")
    texts = encoder.texts(captions)
    embedded = images if isinstance(images, Tensor) and images.is_floating_point() else encoder.images(images)
    texts = texts.to(embedded.device)
    by_text, by_image = rank_texts(embedded, texts, target), rank_images(embedded, texts, target)
    places, image_places = by_text.places(ties), by_image.places(ties)
    metrics = recall_metrics(places) | _prefixed(recall_metrics(image_places))
    metrics |= encoder.shares_cut(captions) | {"share_of_ties": by_text.share_of_ties}
    per_sample = recall_values(places)
    spread = _for_each_text(image_places, target)
    if spread is not None:
        per_sample |= _prefixed(recall_values(spread))
    protocol = encoder.protocol | {
        "ties": ties,
        "images": str(len(embedded)),
        "captions": str(len(captions)),
        "text_cut": f"{MAX_CHARACTERS} characters, then {encoder.max_tokens} tokens",
    }
    protocol["hash"] = protocol_hash(protocol)
    if by_text.share_of_ties > TOLERATED_TIES:
        protocol["warning"] = _tie_warning(by_text.share_of_ties, len(captions), ties)
    samples = [
        {"source": source, "caption": caption} for source, caption in zip(sources, captions, strict=False)
    ]
    return Evaluation(metrics=metrics, per_sample=per_sample, samples=samples, protocol=protocol)


def clip_recall_of_files(
    encoder: ClipEncoder, captions: CaptionSet, *, ties: Ties = "optimistic"
) -> Evaluation:
    """CLIP Recall of captions of picture files (see `pairs.read_captions`), both directions."""
    return clip_recall(
        encoder,
        captions.images,
        captions.captions,
        target=torch.tensor(captions.target),
        sources=captions.sources,
        ties=ties,
    )


def protocol_hash(protocol: dict[str, str]) -> str:
    """A short name for exactly this protocol: figures of different hashes do not compare."""
    told = {name: value for name, value in protocol.items() if name not in _NOT_PROTOCOL}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _finite(embeddings: Tensor, name: str) -> Tensor:
    if not embeddings.isfinite().all():
        raise ValueError(f"{name} computes embeddings that are not numbers; measure with another CLIP")
    return embeddings


def _prefixed(figures: dict[str, Any]) -> dict[str, Any]:
    return {f"image_{name}": value for name, value in figures.items()}


def _for_each_text(image_places: Tensor, target: Tensor | None) -> Tensor | None:
    """The place of each caption's picture; None where their mean would not be the mean over pictures."""
    if target is None:
        return image_places
    _, row, count = target.to(image_places.device).unique(return_inverse=True, return_counts=True)
    return image_places[row] if bool((count == count[0]).all()) else None


def _tie_warning(share: float, number: int, ties: Ties) -> str:
    effect = {"optimistic": "as won", "pessimistic": "as lost", "expected": "half"}[ties]
    return (
        f"{round(share * number)} of {number} captions are exactly as close to a wrong picture as to their "
        f"own and count {effect}; look for pictures that occur twice and for half-precision embeddings"
    )


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
