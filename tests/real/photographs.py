"""Photographs that ship inside of packages, and what can be seen on them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image

from sightloop.types import Images

FOLDERS = {
    "skimage": "data",
    "sklearn": "datasets/images",
    "matplotlib": "mpl-data/sample_data",
}
"""Where the packages of scikit-image, scikit-learn and matplotlib keep their images."""
PHOTOGRAPHS = {
    "astronaut.png": "skimage",
    "camera.png": "skimage",
    "chelsea.png": "skimage",
    "coffee.png": "skimage",
    "coins.png": "skimage",
    "motorcycle_left.png": "skimage",
    "page.png": "skimage",
    "rocket.jpg": "skimage",
    "text.png": "skimage",
    "china.jpg": "sklearn",
    "flower.jpg": "sklearn",
    "grace_hopper.jpg": "matplotlib",
}


def folder_of(package: str) -> Path:
    """The folder of images of a package, which is not imported."""
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations, package
    return Path(spec.submodule_search_locations[0]) / FOLDERS[package]


def path_of(name: str) -> Path:
    """The file of a photograph."""
    return folder_of(PHOTOGRAPHS[name]) / name


def photograph(name: str) -> Image.Image:
    """A photograph in RGB."""
    with Image.open(path_of(name)) as image:
        return image.convert("RGB")


def side_by_side(*names: str, height: int = 300) -> Image.Image:
    """Photographs in a row, from left to right, all of one height."""
    images = [photograph(name) for name in names]
    images = [image.resize((image.width * height // image.height, height)) for image in images]
    row, left = Image.new("RGB", (sum(image.width for image in images), height)), 0
    for image in images:
        row.paste(image, (left, 0))
        left += image.width
    return row


def as_images(*pictures: Image.Image) -> Images:
    """Images of one size as a batch."""
    rows = [torch.frombuffer(bytearray(each.tobytes()), dtype=torch.uint8) for each in pictures]
    width, height = pictures[0].size
    return Images(pixels=torch.stack(rows).view(-1, height, width, 3).permute(0, 3, 1, 2).contiguous())
