"""Scenes of the embedded world: up to four colored shapes in the corners of a plain ground, and their
images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

SIZES = ("small", "large")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "cross")
CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
GROUNDS = ("white", "gray", "black")
SIDE = 32
"""Width and height of an image, in pixels."""

COLOR_RGB = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (240, 225, 50),
    "purple": (150, 60, 180),
    "orange": (245, 135, 30),
}
_GROUND_LEVEL = {"white": 0.95, "gray": 0.5, "black": 0.08}
_RADIUS = {"small": 3.9, "large": 6.6}
_NUM_THINGS_PROBABILITY = (0.1, 0.3, 0.35, 0.25)
_SUPERSAMPLE = 2


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One shape in one corner."""

    size: str
    color: str
    shape: str
    corner: str


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A ground and its things in reading order."""

    ground: str
    things: tuple[Thing, ...]

    def to_json(self) -> dict[str, Any]:
        """The scene as plain data."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Scene:
        """The scene written by `to_json`."""
        return Scene(ground=data["ground"], things=tuple(map(_thing, data["things"])))


def _thing(data: dict[str, str]) -> Thing:
    # Scenes of the last release spelled the word in British English.
    return Thing(**{name.replace("colour", "color"): value for name, value in data.items()})  # words:skip


def sample_scene(rng: np.random.Generator) -> Scene:
    """One to four things in distinct corners, 40% of them large."""
    num_things = int(rng.choice(4, p=_NUM_THINGS_PROBABILITY)) + 1
    corners = sorted(rng.permutation(4)[:num_things].tolist())
    things = tuple(
        Thing(
            size=SIZES[int(rng.random() < 0.4)],
            color=COLORS[rng.integers(len(COLORS))],
            shape=SHAPES[rng.integers(len(SHAPES))],
            corner=CORNERS[corner],
        )
        for corner in corners
    )
    return Scene(ground=GROUNDS[rng.integers(len(GROUNDS))], things=things)


def mutate(scene: Scene, rng: np.random.Generator, num_changes: int = 1) -> Scene:
    """The scene with `num_changes` attributes replaced: a hard negative for a judge."""
    ground, things = scene.ground, list(scene.things)
    for _ in range(num_changes):
        which = int(rng.integers(len(things)))
        kind = rng.choice(["size", "color", "shape", "corner", "ground"])
        if kind == "ground":
            ground = _another(ground, GROUNDS, rng)
        elif kind == "corner":
            free = [corner for corner in CORNERS if corner not in {thing.corner for thing in things}]
            if free:
                things[which] = replace(things[which], corner=free[rng.integers(len(free))])
        else:
            options = {"size": SIZES, "color": COLORS, "shape": SHAPES}[kind]
            changed = _another(getattr(things[which], kind), options, rng)
            things[which] = replace(things[which], **{kind: changed})
    return Scene(ground=ground, things=tuple(sorted(things, key=lambda thing: CORNERS.index(thing.corner))))


def _another(value: str, options: Sequence[str], rng: np.random.Generator) -> str:
    others = [option for option in options if option != value]
    return others[rng.integers(len(others))]


def render(scene: Scene, rng: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """An image of the scene with jitter in place, size and color, and a little noise."""
    side = SIDE * _SUPERSAMPLE
    y_grid, x_grid = np.mgrid[0:side, 0:side] / _SUPERSAMPLE + 0.5 / _SUPERSAMPLE
    image = np.full((side, side, 3), _GROUND_LEVEL[scene.ground] * (1 + 0.04 * rng.standard_normal()))
    for thing in scene.things:
        radius = _RADIUS[thing.size] * (1 + 0.04 * rng.standard_normal())
        row, column = divmod(CORNERS.index(thing.corner), 2)
        half = SIDE / 2
        center_y = half * (row + 0.5) + rng.uniform(-1.2, 1.2)
        center_x = half * (column + 0.5) + rng.uniform(-1.2, 1.2)
        covered = inside(thing.shape, (x_grid - center_x) / radius, (y_grid - center_y) / radius)
        image[covered] = np.array(COLOR_RGB[thing.color]) / 255 * (1 + 0.05 * rng.standard_normal())
    image = image.reshape(SIDE, _SUPERSAMPLE, SIDE, _SUPERSAMPLE, 3).mean((1, 3))
    image = image + 0.02 * rng.standard_normal(image.shape)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def inside(shape: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points a shape of radius 1 at the origin covers; y points down."""
    abs_x, abs_y = np.abs(x), np.abs(y)
    if shape == "circle":
        return x * x + y * y < 1
    if shape == "square":
        return np.maximum(abs_x, abs_y) < 0.85
    if shape == "triangle":
        return (y < 0.75) & (abs_x < (y + 1) * 0.57)
    return ((abs_x < 0.33) & (abs_y < 1)) | ((abs_y < 0.33) & (abs_x < 1))
