"""Detectors of free vocabulary for prompts beyond COCO's 80 classes: Grounding DINO and OWLv2.

They are told what to look for: the names of an image's prompt and nothing else. So they are readier to see
it than a detector that has to choose among 80 classes, their scores are of another scale, and figures of the
two kinds do not compare. Boxes come without masks: a color is judged on the whole box.

Differences from how transformers runs them:
1. Images are prepared here with Pillow alone (OWLv2's own processor needs scipy, and blurs before it
   shrinks).
2. The score of a name is the mean over its tokens, as Grounding DINO's authors score COCO; a box goes to the
   name that fits it best.
3. Of boxes of one name that overlap by half or more the surest is kept.

Sources: Grounding DINO (arXiv 2303.05499), OWLv2 (arXiv 2306.09683).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import transformers
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import GroundingDinoForObjectDetection, Owlv2ForObjectDetection

from sightloop.geneval.detectors import DetectorImage
from sightloop.geneval.mask2former import Resizing, prepared
from sightloop.geneval.rules import Detection
from sightloop.models.only_numbers import require_numbers
from sightloop.models.open import ModelRole, in_one_sentence, open_model
from sightloop.models.written_text import read_texts

Family = Literal["grounding-dino", "owlv2"]
FAMILIES = {
    "grounding-dino": ModelRole(
        what="a Grounding DINO",
        fits=lambda config: config.model_type == "grounding-dino",
        model=GroundingDinoForObjectDetection,
        text=lambda config: config.text_config,
    ),
    "owlv2": ModelRole(
        what="an OWLv2",
        fits=lambda config: config.model_type == "owlv2",
        model=Owlv2ForObjectDetection,
        text=lambda config: config.text_config,
    ),
}
"""By transformers' names of the model types."""
USUAL_THRESHOLD = 0.3
"""Score above which a box counts, also where things are counted; not tuned to GenEval."""
_OVERLAP = 0.5
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_SPREAD = (0.26862954, 0.26130258, 0.27577711)
_GREY = (128, 128, 128)
_QUERY = "a photo of a {name}"
UNPADDED = Resizing(divisor=1)
"""Images of one size go together, so that none needs a border."""


class ZeroShotDetector:
    """Looks for the names of each image's prompt."""

    def __init__(
        self,
        model: Any,
        words: Any,
        *,
        family: Family,
        name: str,
        floor: float = USUAL_THRESHOLD,
        resizing: Resizing = UNPADDED,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = words
        self.family: Family = family
        self.floor = floor
        self.resizing = resizing
        self.vocabulary: frozenset[str] | None = None
        weights = hashlib.sha256()
        for key, value in sorted(self.model.state_dict().items()):
            if value.ndim == 1:
                weights.update(key.encode() + value.detach().float().cpu().numpy().tobytes())
        self.protocol = {
            "detector": f"zero-shot {family}",
            "detector_checkpoint": name,
            "detector_weights": weights.hexdigest()[:12],
            "detector_dtype": str(self.model.dtype).removeprefix("torch."),
            "detector_size": (
                f"{resizing.short} to {resizing.long}"
                if family == "grounding-dino"
                else str(self.model.config.vision_config.image_size)
            ),
            "detector_overlap": str(_OVERLAP),
            "floor": str(floor),
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        }

    @staticmethod
    def from_pretrained(
        folder: str | Path,
        *,
        floor: float = USUAL_THRESHOLD,
        resizing: Resizing = UNPADDED,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> ZeroShotDetector:
        """Load a folder of the hub's format (or a hub name); `floor` is the lowest score that can matter.

        `resizing` is for Grounding DINO; OWLv2 has one size.

        Raises:
            ValueError: it is neither Grounding DINO nor OWLv2, or weights are missing.
        """
        found = open_model(folder, *FAMILIES.values(), dtype=dtype, device=device)
        return ZeroShotDetector(
            found.model,
            found.words,
            family=cast("Family", found.kind),
            name=found.name,
            floor=floor,
            resizing=resizing,
        )

    @torch.no_grad()
    def detect(self, pictures: Sequence[DetectorImage]) -> list[list[Detection]]:
        """The objects of each image's names; images of one size and prompt go through together.

        Raises:
            ValueError: an image has no names to look for.
        """
        found: dict[int, list[Detection]] = {}
        for places in _alike(pictures):
            some = [pictures[place] for place in places]
            names = some[0].names
            if not names:
                raise ValueError(f"{some[0].file} has no names to look for; give the classes of its prompt")
            see = self._grounding_dino if self.family == "grounding-dino" else self._owlv2
            scores, boxes = see([picture.image for picture in some], names)
            for values in (scores, boxes):
                require_numbers(values, self.model.name_or_path, "detections")
            for row, place in enumerate(places):
                size = pictures[place].image.size
                found[place] = self._detections(scores[row], boxes[row], names, size)
        return [found[place] for place in range(len(pictures))]

    def _grounding_dino(
        self, images: Sequence[Image.Image], names: Sequence[str]
    ) -> tuple[Float[Tensor, "B Q N"], Float[Tensor, "B Q 4"]]:
        text, spans = detector_text(names)
        read = read_texts(
            self.tokenizer,
            [text] * len(images),
            return_tensors="pt",
            return_offsets_mapping=True,
            return_token_type_ids=True,
        )
        offsets: list[tuple[int, int]] = [(int(a), int(b)) for a, b in read.pop("offset_mapping")[0].tolist()]
        pixels = torch.stack([prepared(image, self.resizing) for image in images])
        with in_one_sentence(self.model.name_or_path, "the model"):
            seen = self.model(
                pixel_values=pixels.to(self.model.device, self.model.dtype), **read.to(self.model.device)
            )
        chances = seen.logits.float().sigmoid()
        columns = [
            [place for place, (a, b) in enumerate(offsets) if start <= a < b <= end] for start, end in spans
        ]
        scores = torch.stack([chances[:, :, tokens].mean(-1) for tokens in columns], -1)
        width, height = images[0].size
        return scores, _corners(seen.pred_boxes.float()) * scores.new_tensor([width, height, width, height])

    def _owlv2(
        self, images: Sequence[Image.Image], names: Sequence[str]
    ) -> tuple[Float[Tensor, "B Q N"], Float[Tensor, "B Q 4"]]:
        config = self.model.config
        read = read_texts(
            self.tokenizer,
            [_QUERY.format(name=name) for name in names] * len(images),
            return_tensors="pt",
            padding="max_length",
            truncation=True,
            max_length=config.text_config.max_position_embeddings,
        ).to(self.model.device)
        pixels = torch.stack([squared(image, int(config.vision_config.image_size)) for image in images])
        with in_one_sentence(self.model.name_or_path, "the model"):
            seen = self.model(
                input_ids=read["input_ids"],
                attention_mask=read["attention_mask"],
                pixel_values=pixels.to(self.model.device, self.model.dtype),
            )
        return seen.logits.float().sigmoid(), _corners(seen.pred_boxes.float()) * max(images[0].size)

    def _detections(
        self, scores: Float[Tensor, "Q N"], boxes: Float[Tensor, "Q 4"], names: Sequence[str], size: Any
    ) -> list[Detection]:
        best, label = scores.max(1)
        width, height = size
        inside = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
        # Thinner than a pixel there is nothing to see, and no crop to judge a color on.
        sides = inside[:, 2:].round() - inside[:, :2].round()
        likely = (best > self.floor) & (sides > 0).all(1)
        found: list[Detection] = []
        for place, name in enumerate(names):
            own = likely & (label == place)
            kept = surest(inside[own], best[own])
            for box, score in zip(inside[own][kept].tolist(), best[own][kept].tolist(), strict=True):
                found.append(Detection(name=name, box=(box[0], box[1], box[2], box[3]), score=score))
        return found


def detector_text(names: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Grounding DINO's text of names, and where each of them stands in it.

    >>> detector_text(["dog", "Unicorn"])
    ('dog. unicorn.', [(0, 3), (5, 12)])
    """
    text, spans = "", []
    for name in names:
        text += " " if text else ""
        spans.append((len(text), len(text) + len(name)))
        text += f"{name.lower()}."
    return text, spans


def squared(image: Image.Image, side: int) -> Float[Tensor, "3 S S"]:
    """An RGB image as OWLv2 sees it: grey below or to the right up to a square, then resized."""
    longest = max(image.size)
    square = Image.new("RGB", (longest, longest), _GREY)
    square.paste(image, (0, 0))
    small = square.resize((side, side), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(small, dtype=np.float32)).permute(2, 0, 1) / 255
    return (pixels - torch.tensor(_CLIP_MEAN)[:, None, None]) / torch.tensor(_CLIP_SPREAD)[:, None, None]


def surest(boxes: Float[Tensor, "N 4"], scores: Float[Tensor, " N"]) -> list[int]:
    """Places of the boxes that overlap no surer one by half or more (IoU), the surest first."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept: list[int] = []
    for place in scores.argsort(descending=True, stable=True).tolist():
        others = boxes[kept]
        low = others[:, :2].maximum(boxes[place, :2])
        high = others[:, 2:].minimum(boxes[place, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        if bool((shared < _OVERLAP * (areas[kept] + areas[place] - shared)).all()):
            kept.append(place)
    return kept


def _corners(boxes: Float[Tensor, "B Q 4"]) -> Float[Tensor, "B Q 4"]:
    """Left, top, right, bottom of boxes given by center and size."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([center - half, center + half], -1)


def _alike(images: Sequence[DetectorImage]) -> Iterator[list[int]]:
    groups: dict[Any, list[int]] = {}
    for place, image in enumerate(images):
        groups.setdefault((image.names, image.image.size), []).append(place)
    yield from groups.values()
