"""The embedded world as files: PNG images in a folder, read by the same loader as anyone's photographs.

`scenes.jsonl` beside them tells the truth about each; only evaluation reads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sightloop.text_files import form_of, read_json_lines, read_lines
from sightloop.world.bundled import MANIFEST
from sightloop.world.language import FactCount, count_facts, parses
from sightloop.world.scenes import Scene, render, sample_scene

_CHECKED = 4
"""Scenes of a folder that are drawn again to compare them."""


def write_images(folder: Path, *, number: int, seed: int, replace: bool = False) -> Path:
    """Draw `number` scenes into `folder`, unless it holds them already; `replace` takes the place of others.

    Raises:
        ValueError: the folder holds another number of scenes, or those of another seed.
    """
    manifest = folder / MANIFEST
    rng = np.random.default_rng([seed, crc32(folder.name.encode())])
    if replace and manifest.exists() and not _holds(folder, number=number, seed=seed):
        for name in read_scenes(folder):
            (folder / Path(name).name).unlink(missing_ok=True)
        manifest.unlink()
    if manifest.exists():
        held = len(read_lines(manifest))
        if held != number:
            raise ValueError(
                f"{folder} holds {held} scenes, not {number}; choose another folder or remove it"
            )
        if not _holds(folder, number=number, seed=seed):
            raise ValueError(
                f"{folder} holds other scenes than seed {seed} draws; choose another folder or remove it"
            )
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(number):
        scene, pixels = _draw(rng)
        name = f"{index:05d}.png"
        Image.fromarray(pixels).save(folder / name)
        lines.append(json.dumps({"file": name, **scene.to_json()}))
    # The manifest comes last: a folder without it is unfinished and drawn again.
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _holds(folder: Path, *, number: int, seed: int) -> bool:
    rng = np.random.default_rng([seed, crc32(folder.name.encode())])
    drawn = [_draw(rng)[0] for _ in range(min(number, _CHECKED))]
    held = list(read_scenes(folder).values())
    return len(held) == number and held[:_CHECKED] == drawn


def _draw(rng: np.random.Generator) -> tuple[Scene, UInt8[np.ndarray, "H W 3"]]:
    scene = sample_scene(rng)
    return scene, render(scene, rng)


def read_scenes(folder: Path) -> dict[str, Scene]:
    """The scene of each image by file name."""
    scenes: dict[str, Scene] = {}
    for place, record in read_json_lines(folder / MANIFEST):
        with form_of(place):
            scenes[record["file"]] = Scene.from_json(record)
    return scenes


def truth_of(folder: Path) -> Callable[[str, str], FactCount]:
    """Counts the facts of a caption against the scene of its image (named by path)."""
    scenes = read_scenes(folder)

    def truth(source: str, caption: str) -> FactCount:
        if (scene := scenes.get(Path(source).name)) is None:
            raise ValueError(f"{folder / MANIFEST} says nothing about {source}")
        return count_facts(scene, caption)

    return truth


def share_grammatical(captions: list[str]) -> float:
    """Share of captions that the world's grammar accepts."""
    return sum(map(parses, captions)) / len(captions)
