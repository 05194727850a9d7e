"""Mask2Former (arXiv 2112.01527) as GenEval's detector: mmdetection's preparation and reading of its output.

Differences from GenEval's own detector:
1. The weights: a checkpoint of transformers, not mmdetection's own training of the same network. Figures of
   the two are not the same figure; counting is the most exposed, for its threshold is 0.9.
2. Images are made smaller by Pillow's bilinear filter, which averages, as those weights were tested;
   mmdetection uses OpenCV's, which does not.

transformers' own image processor and its `post_process_instance_segmentation` are not used: published
processors say 384 x 384 pixels, padding is not cut off, masks are cut to 0 and 1 before they are resized, and
there are no boxes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerModel
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPreTrainedModel

from sightloop.geneval.detectors import DetectorImage
from sightloop.geneval.prompts import CLASSES
from sightloop.geneval.rules import OFFICIAL, Detection
from sightloop.models.only_numbers import require_numbers
from sightloop.models.open import ModelRole, in_one_sentence, open_model
from sightloop.models.transformers_internals import without_tensors

MAX_INSTANCES = 100
_MEAN = (123.675, 116.28, 103.53)
_SPREAD = (58.395, 57.12, 57.375)
_MASKS_AT_ONCE = 16
Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, kw_only=True)
class Resizing:
    """The size that the network sees; the defaults are those of the official configuration."""

    short: int = 800
    """The shorter side is at most this long."""
    long: int = 1333
    """The longer side is at most this long."""
    divisor: int = 32
    """Zeros are added on the right and below up to a multiple of this."""

    def resized(self, size: Size) -> Size:
        """An image's size before the zeros are added."""
        scale = min(self.short / min(size), self.long / max(size))
        return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)

    def padded(self, size: Size) -> Size:
        """The size with the zeros, of an image that was resized to `size`."""
        height, width = (math.ceil(side / self.divisor) * self.divisor for side in size)
        return height, width


@dataclass(frozen=True, kw_only=True)
class Instances:
    """What the network saw in one image, in the image's own pixels."""

    labels: Int[Tensor, " N"]
    scores: Float[Tensor, " N"]
    boxes: Int[Tensor, "N 4"]
    masks: Bool[Tensor, "N H W"]


@without_tensors(r"criterion\..*")
class Segmenter(Mask2FormerPreTrainedModel):
    """Mask2Former without its training loss, which would need scipy even where nothing is trained."""

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__(config)
        self.model = Mask2FormerModel(config)
        self.class_predictor = nn.Linear(config.hidden_dim, int(config.num_labels or 0) + 1)
        self.post_init()

    def forward(
        self, pixel_values: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B Q C"], Float[Tensor, "B Q h w"]]:
        """Logits of classes, the last one "nothing", and of masks at a quarter of the size."""
        found: Any = self.model(pixel_values=pixel_values, output_hidden_states=True)
        classes = self.class_predictor(found.transformer_decoder_intermediate_states[-1].transpose(0, 1))
        return classes.float(), found.masks_queries_logits[-1].float()


class Mask2FormerDetector:
    """A Mask2Former of transformers that was trained on COCO's 80 classes for instances."""

    def __init__(
        self, model: Segmenter, *, name: str, floor: float = OFFICIAL.floor, resizing: Resizing | None = None
    ) -> None:
        if model.config.num_labels != len(CLASSES):
            raise ValueError(
                f"{name} knows {model.config.num_labels} classes; GenEval needs a checkpoint of COCO's 80 "
                "for instances, such as facebook/mask2former-swin-small-coco-instance"
            )
        self.model: Any = model.eval().requires_grad_(False)
        self.floor = floor
        self.resizing = resizing or Resizing()
        self.vocabulary: frozenset[str] | None = frozenset(CLASSES)
        weight = self.model.class_predictor.weight.detach().float().cpu().numpy()
        self.protocol = {
            "detector": "hf-mask2former",
            "detector_checkpoint": name,
            "detector_weights": hashlib.sha256(weight.tobytes()).hexdigest()[:12],
            "detector_dtype": str(self.model.dtype).removeprefix("torch."),
            "detector_size": f"{self.resizing.short} to {self.resizing.long}",
            "floor": str(floor),
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        }

    @staticmethod
    def from_pretrained(
        folder: str | Path,
        *,
        floor: float = OFFICIAL.floor,
        resizing: Resizing | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Mask2FormerDetector:
        """Load a folder of the hub's format (or a hub name); `floor` is the lowest score that can matter.

        Raises:
            ValueError: weights are missing, or it knows other classes.
        """
        wanted = ModelRole(
            what="a Mask2Former", fits=lambda config: config.model_type == "mask2former", model=Segmenter
        )
        found = open_model(folder, wanted, dtype=dtype, device=device)
        return Mask2FormerDetector(found.model, name=found.name, floor=floor, resizing=resizing)

    @torch.no_grad()
    def detect(self, pictures: Sequence[DetectorImage]) -> list[list[Detection]]:
        """The objects of each image, with masks; images of one size go through the network together."""
        found: dict[int, list[Detection]] = {}
        for places in _of_one_size(pictures, self.resizing):
            images = [pictures[place].image for place in places]
            pixels = torch.stack([prepared(image, self.resizing) for image in images])
            with in_one_sentence(self.model.name_or_path, "the model"):
                classes, masks = self.model(pixels.to(self.model.device, self.model.dtype))
            for values in (classes, masks):
                require_numbers(values, self.model.name_or_path, "detections")
            for row, (place, image) in enumerate(zip(places, images, strict=True)):
                size = image.height, image.width
                seen = instances(
                    classes[row], masks[row], size=size, resizing=self.resizing, floor=self.floor
                )
                found[place] = _detections(seen)
        return [found[place] for place in range(len(pictures))]


def prepared(image: Image.Image, resizing: Resizing) -> Float[Tensor, "3 H W"]:
    """An RGB image as the network sees it."""
    height, width = resizing.resized((image.height, image.width))
    smaller = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(smaller, dtype=np.float32)).permute(2, 0, 1)
    normal = (pixels - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_SPREAD)[:, None, None]
    full = resizing.padded((height, width))
    below, right = full[0] - height, full[1] - width
    # After normalizing: the border is 0 for the network, not black.
    return F.pad(normal, (0, right, 0, below))


def instances(
    classes: Float[Tensor, "Q C"],
    masks: Float[Tensor, "Q h w"],
    *,
    size: Size,
    resizing: Resizing,
    floor: float = 0.0,
) -> Instances:
    """The instances of an image of `size` as mmdetection reads them off the logits.

    A query may come up under several classes and nothing suppresses overlaps. The score is that of the class
    times the mean probability inside the mask, hence never above that of the class: no mask is made for what
    cannot exceed `floor`, and nothing of that score or less is returned.
    """
    chances = classes.softmax(-1)[:, :-1]
    best = chances.flatten().topk(min(MAX_INSTANCES, chances.numel()))
    likely = best.values > floor
    scores, chosen = best.values[likely], best.indices[likely]
    if not len(chosen):
        empty = masks.new_zeros((0, *size), dtype=torch.bool)
        return Instances(labels=chosen, scores=scores, boxes=boxes_of(empty), masks=empty)
    queries, labels = chosen // chances.shape[1], chosen % chances.shape[1]
    drawn = [_full_size(masks[some], size, resizing) for some in queries.split(_MASKS_AT_ONCE)]
    shapes = [logits > 0 for logits in drawn]
    inside = [
        (logits.sigmoid() * shape).flatten(1).sum(1) / (shape.flatten(1).sum(1) + 1e-6)
        for logits, shape in zip(drawn, shapes, strict=True)
    ]
    scores, shape = scores * torch.cat(inside), torch.cat(shapes)
    kept = scores > floor
    return Instances(labels=labels[kept], scores=scores[kept], boxes=boxes_of(shape[kept]), masks=shape[kept])


def boxes_of(masks: Bool[Tensor, "N H W"]) -> Int[Tensor, "N 4"]:
    """Left, top, right, bottom around each mask, the last two one pixel beyond; zeros for an empty mask."""
    sides: list[Tensor] = []
    for axis in (1, 2):
        hit = masks.any(axis)
        first = hit.int().argmax(1)
        last = hit.shape[1] - hit.flip(1).int().argmax(1)
        sides.append(torch.stack([first, last], 1) * hit.any(1, keepdim=True))
    return torch.stack([sides[0][:, 0], sides[1][:, 0], sides[0][:, 1], sides[1][:, 1]], 1)


def _full_size(masks: Float[Tensor, "N h w"], size: Size, resizing: Resizing) -> Float[Tensor, "N H W"]:
    """Logits in the image's own pixels: enlarged with the border, the border cut off, then resized."""
    height, width = resizing.resized(size)
    whole = F.interpolate(masks[None], resizing.padded((height, width)), mode="bilinear", align_corners=False)
    return F.interpolate(whole[:, :, :height, :width], size, mode="bilinear", align_corners=False)[0]


def _of_one_size(images: Sequence[DetectorImage], resizing: Resizing) -> Iterator[list[int]]:
    groups: dict[Size, list[int]] = {}
    for place, image in enumerate(images):
        size = resizing.padded(resizing.resized((image.image.height, image.image.width)))
        groups.setdefault(size, []).append(place)
    yield from groups.values()


def _detections(seen: Instances) -> list[Detection]:
    boxes: list[list[float]] = seen.boxes.float().tolist()
    return [
        Detection(name=CLASSES[label], box=(box[0], box[1], box[2], box[3]), score=score, mask=mask)
        for label, box, score, mask in zip(
            seen.labels.tolist(), boxes, seen.scores.tolist(), seen.masks.cpu().numpy(), strict=True
        )
    ]
