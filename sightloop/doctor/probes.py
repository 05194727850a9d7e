"""Images whose right caption is known: scenes for the embedded world's models, drawn shapes for others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageDraw

from sightloop.types import Images
from sightloop.world.language import full_caption
from sightloop.world.scenes import COLOR_RGB, COLORS, SHAPES, Scene, Thing, render

_SEED = 20240401
_SIDE = 224
_SMOOTH = 4
_DRAWN = (("red", "circle"), ("blue", "square"), ("green", "triangle"), ("yellow", "cross"))


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Images, each with its true caption and as many false ones."""

    images: Images
    true: list[str]
    false: list[list[str]]
    """For each image the captions that must come behind the true one."""

    @property
    def pairs(self) -> tuple[Images, list[str]]:
        """Every image with its true caption, then every image with each of its false ones."""
        rows = list(range(len(self.true))) + [row for row, texts in enumerate(self.false) for _ in texts]
        texts = [*self.true, *(text for texts in self.false for text in texts)]
        return self.images.rows(torch.tensor(rows)), texts

    def margins(self, scores: torch.Tensor) -> torch.Tensor:
        """The score of each true caption less that of the best false one, from the scores of `pairs`."""
        place, worst = len(self.true), []
        for texts in self.false:
            worst.append(scores[place : place + len(texts)].max())
            place += len(texts)
        return scores[: len(self.true)] - torch.stack(worst)

    def bgr(self) -> Probe:
        """The same with red and blue in each other's place in the pixels."""
        return replace(self, images=Images(pixels=self.images.pixels.flip(1)))


def world_probe(number: int = 16) -> Probe:
    """Scenes of two things, one of them red or blue; false: another color, red for blue, shape or corner."""
    rng = np.random.default_rng(_SEED)
    scenes: list[Scene] = []
    for row in range(number):
        marked = "red" if row % 2 else "blue"
        other = COLORS[int(rng.integers(len(COLORS)))]
        shapes = rng.permutation(SHAPES)[:2].tolist()
        first = Thing(size="large", color=marked, shape=shapes[0], corner="top-left")
        second = Thing(size="small", color=other, shape=shapes[1], corner="bottom-right")
        scenes.append(Scene(ground=("white", "gray", "black")[row % 3], things=(first, second)))
    pixels = np.stack([render(scene, rng) for scene in scenes])
    return Probe(
        images=Images(pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2)),
        true=[full_caption(scene) for scene in scenes],
        false=[[full_caption(other) for other in _false(scene)] for scene in scenes],
    )


def _false(scene: Scene) -> Sequence[Scene]:
    first, second = scene.things
    swapped = "blue" if first.color == "red" else "red"
    shape = next(shape for shape in SHAPES if shape not in (first.shape, second.shape))
    changed = ({"color": swapped}, {"shape": shape}, {"color": swapped, "shape": shape})
    return [replace(scene, things=(replace(first, **change), second)) for change in changed]


def drawn_probe() -> Probe:
    """A red circle, a blue square, a green triangle and a yellow cross on white, each with its caption."""
    captions = [f"a {color} {shape} on a white background" for color, shape in _DRAWN]
    pixels = np.stack([np.asarray(_drawn(color, shape)) for color, shape in _DRAWN])
    return Probe(
        images=Images(pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2)),
        true=captions,
        false=[[other for other in captions if other != own] for own in captions],
    )


def _drawn(color: str, shape: str) -> Image.Image:
    side = _SIDE * _SMOOTH
    image = Image.new("RGB", (side, side), "white")
    draw, fill = ImageDraw.Draw(image), COLOR_RGB[color]
    low, middle, high = side // 5, side // 2, side - side // 5
    if shape == "circle":
        draw.ellipse((low, low, high, high), fill=fill)
    elif shape == "square":
        draw.rectangle((low, low, high, high), fill=fill)
    elif shape == "triangle":
        draw.polygon([(middle, low), (high, high), (low, high)], fill=fill)
    else:
        arm = side // 12
        draw.rectangle((low, middle - arm, high, middle + arm), fill=fill)
        draw.rectangle((middle - arm, low, middle + arm, high), fill=fill)
    return image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
