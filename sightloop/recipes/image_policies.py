"""Image generators by the name of a folder, or the embedded world's where none is named."""

from __future__ import annotations

from pathlib import Path

import torch

from sightloop.models.families import FAMILIES, GeneratorFamily, Learning, Parts, WorldModel
from sightloop.models.named_models import load_generator
from sightloop.models.protocols import ImageGenerator
from sightloop.process.long_work import at_work
from sightloop.world.bundled import WEIGHTS

WORLD_MODELS: dict[str, Path] = {
    name: WEIGHTS / row.world
    for name, row in FAMILIES.items()
    if isinstance(row, GeneratorFamily) and row.world
}
"""The embedded world's own."""


def load_image_policy(
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    world_model: WorldModel = "show-o",
    parts: Parts | None = None,
    learning: Learning | None = None,
) -> ImageGenerator:
    """The image generator of a folder or hub name, or the embedded world's `world_model` if `name` is empty.

    Raises:
        ValueError: as for `load_generator`.
    """
    folder = Path(name) if name else world_folder(world_model)
    with at_work(f"loading {folder}"):
        return load_generator(folder, device=device, dtype=dtype, parts=parts, learning=learning)


def world_folder(world_model: WorldModel) -> Path:
    """The folder of one of the embedded world's models.

    Raises:
        ValueError: there is none of this name.
    """
    if world_model not in WORLD_MODELS:
        raise ValueError(f"world_model is {world_model!r}; there are: {', '.join(WORLD_MODELS)}")
    folder = WORLD_MODELS[world_model]
    if not folder.is_dir():
        raise ValueError(f"the embedded world's {world_model} is not at {folder}; install the package again")
    return folder
