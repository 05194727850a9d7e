"""Held-out quizzes and scenes of the embedded world, their images, and what the checker finds in them."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from sightloop.geneval.rules import Detection
from sightloop.quizzes.grammar import CATEGORIES, Quiz
from sightloop.types import Images
from sightloop.world.checker import detect
from sightloop.world.quizzes import sample_quiz, scene_for
from sightloop.world.scenes import Scene, render


def stack_images(images: list[UInt8[np.ndarray, "H W 3"]]) -> UInt8[Tensor, "B 3 H W"]:
    """Rendered images as one batch."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def held_out_quizzes(per_category: int, seed: int = 0) -> list[Quiz]:
    """Quizzes for the gates, the same for all models."""
    rng = np.random.default_rng([seed, crc32(b"gates")])
    return [sample_quiz(rng, category) for category in CATEGORIES for _ in range(per_category)]


def held_out_scenes(quizzes: list[Quiz], seed: int = 0) -> list[Scene]:
    """A scene that fulfills each quiz."""
    rng = np.random.default_rng([seed, crc32(b"gate scenes")])
    return [scene_for(quiz, rng) for quiz in quizzes]


def images_of(scenes: list[Scene], seed: int = 0) -> Images:
    """An image of each scene, with jitter and noise."""
    rng = np.random.default_rng([seed, crc32(b"gate pictures")])
    return Images(pixels=stack_images([render(scene, rng) for scene in scenes]))


def detect_in(images: Images) -> list[list[Detection]]:
    """What the checker finds in images."""
    return [detect(image.permute(1, 2, 0).contiguous().cpu().numpy()) for image in images.pixels]
