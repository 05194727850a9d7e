"""Pre-training of the image tokenizers: the tiny MAGVIT-v2 of Show-o and the tiny VQ of Janus.

Codes are taught, not found: what a cell of 8 x 8 pixels shows (which quarter of which shape, in which color,
on which ground) has a fixed number. The encoder learns to name it from images with jitter and noise, the
decoder to draw it without them. Found codes need many times the training and make the policies' task harder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from transformers.models.janus.modeling_janus import JanusVQVAE

from experiments.world.fitting import Stage, fit
from experiments.world.unified_models import GRID, new_magvit2, vq_config
from sightloop.models.show_o.magvit2 import Magvit2
from sightloop.world.checker import SURE, corner_of, detect
from sightloop.world.held_out_scenes import stack_images
from sightloop.world.quizzes import DRAWN_SIZE, sample_drawn_scene
from sightloop.world.scenes import COLORS, CORNERS, GROUNDS, SHAPES, Scene, Thing, render

_EMPTY = len(COLORS)
"""Stands where the color stands in the code of a cell without a thing."""
_SHARPNESS = 20.0
"""Inverse temperature of the cosines between a latent and the codes of the tiny VQ."""


def codes_of(scenes: list[Scene]) -> Int[Tensor, "B N"]:
    """The taught codes of scenes, row by row: 2 bits ground, 2 bits quarter, 3 bits color, 2 bits shape."""
    codes = np.zeros((len(scenes), GRID, GRID), dtype=np.int64)
    for grid, scene in zip(codes, scenes, strict=True):
        grid[:] = GROUNDS.index(scene.ground) * 128 + _EMPTY * 4
        for thing in scene.things:
            row, column = divmod(CORNERS.index(thing.corner), 2)
            what = COLORS.index(thing.color) * 4 + SHAPES.index(thing.shape)
            ground = GROUNDS.index(scene.ground) * 128
            quarters = np.array([[0, 32], [64, 96]]) + ground + what
            grid[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = quarters
    return torch.from_numpy(codes).flatten(1)


class StillGenerator(np.random.Generator):
    """Random numbers that are always their mean: what is rendered with it has no jitter and no noise."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def standard_normal(self, size: Any = None, *_: Any, **__: Any) -> Any:
        """0."""
        return 0.0 if size is None else np.zeros(size)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        """The middle."""
        middle = (low + high) / 2
        return middle if size is None else np.full(size, middle)


@dataclass(frozen=True, kw_only=True)
class DrawnWorld:
    """Scenes, their images as people take them, the same without jitter and noise, and their codes."""

    scenes: list[Scene]
    pixels: UInt8[Tensor, "B 3 H W"]
    plain: UInt8[Tensor, "B 3 H W"]
    codes: Int[Tensor, "B N"]
    num_taught: int
    """The scenes behind the first so many are held out."""


def make_drawn_world(num_taught: int = 3000, num_held_out: int = 300) -> DrawnWorld:
    """Mostly scenes full of things: the more things, the more a step teaches."""
    rng = np.random.default_rng([0, crc32(b"drawn")])
    number = num_taught + num_held_out
    scenes = [sample_drawn_scene(rng) if rng.random() < 0.4 else _full_scene(rng) for _ in range(number)]
    still = StillGenerator()
    return DrawnWorld(
        scenes=scenes,
        pixels=stack_images([render(scene, rng) for scene in scenes]),
        plain=stack_images([render(scene, still) for scene in scenes]),
        codes=codes_of(scenes),
        num_taught=num_taught,
    )


def _full_scene(rng: np.random.Generator) -> Scene:
    num_things = int(rng.integers(3, 5))
    things = tuple(
        Thing(
            size=DRAWN_SIZE,
            color=COLORS[rng.integers(len(COLORS))],
            shape=SHAPES[rng.integers(len(SHAPES))],
            corner=CORNERS[corner],
        )
        for corner in sorted(rng.permutation(4)[:num_things].tolist())
    )
    return Scene(ground=GROUNDS[rng.integers(len(GROUNDS))], things=things)


def values_of(pixels: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Pixels in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def redraw_loss(redrawn: Float[Tensor, "B 3 H W"], wanted: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
    """Absolute and squared error of pixels, and absolute error of their steps to the right and down."""
    error = redrawn - wanted
    steps = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + steps


def share_recovered(pixels: UInt8[Tensor, "B 3 H W"], scenes: list[Scene]) -> float:
    """Share of images in which the checker finds exactly the scene's things: shape, color and corner."""
    right = 0
    for picture, scene in zip(pixels, scenes, strict=True):
        seen = detect(picture.permute(1, 2, 0).contiguous().numpy())
        found = sorted((d.name, d.color, corner_of(d)) for d in seen if d.score > SURE)
        right += found == sorted((t.shape, t.color, t.corner) for t in scene.things)
    return right / len(scenes)


@dataclass(frozen=True, kw_only=True)
class _Targets:
    """How one kind of tokenizer is taught."""

    name_loss: Callable[[Tensor, Tensor], Tensor]
    """Loss of naming the cells of pixel values with their codes."""
    name: Callable[[Tensor], Tensor]
    """Codes of pixel values."""
    draw: Callable[[Tensor], Tensor]
    """Pixel values of codes."""
    naming: float
    """Share of the steps in which the encoder learns too: it is done earlier than the decoder."""


def _train(world: DrawnWorld, model: nn.Module, example: _Targets, stage: Stage) -> None:
    model.requires_grad_(True)

    def loss_at(step: int, rng: np.random.Generator) -> Tensor:
        index = rng.integers(0, world.num_taught, 32)
        codes = world.codes[index]
        loss = redraw_loss(example.draw(codes), values_of(world.plain[index]))
        if step >= stage.steps * example.naming:
            return loss
        # A quarter of the images is plain, as those that the policies draw will be.
        given = torch.cat([world.pixels[index[:24]], world.plain[index[24:]]])
        return loss + example.name_loss(values_of(given), codes)

    def report() -> str:
        held = slice(world.num_taught, None)
        named = example.name(values_of(world.pixels[held]))
        redrawn = ((example.draw(named) + 1) / 2).clamp(0, 1).mul(255).to(torch.uint8)
        off = (redrawn.float() - world.plain[held].float()).abs().mean().item()
        cells = (named == world.codes[held]).float().mean().item()
        right = share_recovered(redrawn, world.scenes[held])
        return f"held out: cells named {cells:.4f}, off by {off:.2f} of 255, checker right {right:.4f}"

    fit(stage, nn.ModuleDict({"model": model}), list(model.parameters()), loss_at=loss_at, report=report)


def train_magvit2(world: DrawnWorld, work: Path, steps: int = 1000) -> Magvit2:
    """The tokenizer of the tiny Show-o: every bit of a code is the sign of a channel."""
    torch.manual_seed(6)
    model = new_magvit2()

    def name_loss(values: Tensor, codes: Tensor) -> Tensor:
        latents = model.latents(values)
        signs = model.quantize.signs_of(codes, (GRID, GRID))
        return F.softplus(-2 * latents * signs).mean() + 0.02 * (latents.abs() - 1).square().mean()

    example = _Targets(name_loss=name_loss, name=model.encode, draw=model.decode, naming=0.35)
    _train(world, model, example, Stage(name="magvit2", steps=steps, peak_lr=2e-3, work=work))
    return model.eval().requires_grad_(False)


def train_vq(world: DrawnWorld, work: Path, steps: int = 1200) -> JanusVQVAE:
    """The tokenizer of the tiny Janus: a code is the nearest direction of a learned codebook."""
    torch.manual_seed(7)
    model = JanusVQVAE(vq_config())
    nn.init.normal_(model.quantize.embedding.weight)

    def cosines(values: Tensor) -> Tensor:
        unit = F.normalize(model.quant_conv(model.encoder(values)), dim=1)
        book = F.normalize(model.quantize.embedding.weight, dim=-1)
        return torch.einsum("bdhw,cd->bhwc", unit, book).flatten(1, 2)

    def name_loss(values: Tensor, codes: Tensor) -> Tensor:
        return F.cross_entropy(_SHARPNESS * cosines(values).flatten(0, 1), codes.flatten())

    def name(values: Tensor) -> Tensor:
        return cosines(values).argmax(-1)

    decode: Any = model.decode
    example = _Targets(name_loss=name_loss, name=name, draw=decode, naming=0.6)
    _train(world, model, example, Stage(name="vq", steps=steps, peak_lr=2e-3, work=work))
    return model.eval().requires_grad_(False)
