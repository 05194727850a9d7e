"""Draws GenEval's images with a policy, into GenEval's folder; goes on where it was stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin
from torch import Tensor

from sightloop.geneval.prompts import GenEvalPrompt
from sightloop.image_files import open_image
from sightloop.models.protocols import ImageGenerator
from sightloop.process.long_work import at_work
from sightloop.rollouts.seeds import image_seed
from sightloop.text_files import form_of, read_json
from sightloop.training import distributed
from sightloop.types import Prompt, Sampling
from sightloop.world.boundary import MODEL_KEY

PROMPT_KEY = "GenEval prompt"
"""The text chunk of a PNG file that says what it was drawn for."""
_RECORD = "drawing.json"
_SHEET = "contact_sheet.png"
_SHEET_COLUMNS, _SHEET_SIDE = 10, 128


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How images are drawn."""

    per_prompt: int = 4
    """Images of each prompt; officially 4."""
    seed: int = 0
    batch: int = 8
    """Images drawn together; they do not depend on it."""

    def __post_init__(self) -> None:
        for name in ("per_prompt", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; use at least 1")


def draw_prompts(
    policy: ImageGenerator,
    prompts: Sequence[GenEvalPrompt],
    folder: Path,
    *,
    name: str,
    sampling: Sampling,
    drawing: Drawing,
) -> int:
    """Draw every prompt's images that are not there yet; how many were drawn.

    An image's seed is made from its prompt, its number and `drawing.seed`, so it does not depend on the
    other prompts, the order or the batch. `name` says which policy it is.

    Raises:
        ValueError: the folder holds images that were drawn in another way or for other prompts.
    """
    identity = {"policy": name} | _drawing_template(policy)
    missing = distributed.first_rank_does(lambda: _prepared(prompts, folder, identity, sampling, drawing))

    def drawn(some: Sequence[tuple[int, int]]) -> UInt8[Tensor, "N 3 H W"]:
        texts = [prompts[place].text for place, _ in some]
        seeds = [image_seed(prompts[place].text, number, drawing.seed) for place, number in some]
        with torch.no_grad():
            tokens = policy.sample(Prompt(texts=texts, wants="image", seeds=seeds), sampling)
            return policy.pixels(tokens).pixels.cpu()

    total = len(prompts) * drawing.per_prompt
    with at_work("drawn", total=total, unit="images") as work:
        work.advance(total - len(missing))
        parts = list(_parts(missing, drawing.batch))
        for some, pixels in zip(parts, distributed.in_turns(parts, drawn), strict=True):
            if distributed.rank() == 0:
                for (place, number), image in zip(some, pixels, strict=True):
                    texts = {PROMPT_KEY: prompts[place].text, MODEL_KEY: name}
                    _save(folder / _file(place, number), image, texts)
            work.advance(len(some))
    distributed.first_rank_does(lambda: contact_sheet(prompts, folder).save(folder / _SHEET))
    return len(missing)


def _prepared(
    prompts: Sequence[GenEvalPrompt],
    folder: Path,
    identity: dict[str, str],
    sampling: Sampling,
    drawing: Drawing,
) -> list[tuple[int, int]]:
    """The folder with its records; place and number of every image that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    _check_record(folder, identity, sampling, drawing)
    for place, prompt in enumerate(prompts):
        _write_metadata(folder / f"{place:05}", prompt)
    return [
        (place, number)
        for place in range(len(prompts))
        for number in range(drawing.per_prompt)
        if not (folder / _file(place, number)).exists()
    ]


def drawing_record(folder: Path) -> dict[str, Any] | None:
    """How the images of a folder were drawn; None if sightloop did not draw them."""
    file = folder / _RECORD
    return read_json(file) if file.exists() else None


def contact_sheet(prompts: Sequence[GenEvalPrompt], folder: Path) -> Image.Image:
    """The first images of some prompts of each task, a row a task."""
    rows: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        rows.setdefault(prompt.tag, []).append(place)
    columns = min(_SHEET_COLUMNS, max(map(len, rows.values())))
    sheet = Image.new("RGB", (columns * _SHEET_SIDE, len(rows) * _SHEET_SIDE), "white")
    for row, places in enumerate(rows.values()):
        shown = min(columns, len(places))
        for column in range(shown):
            image = open_image(folder / _file(places[column * len(places) // shown], 0))
            small = image.resize((_SHEET_SIDE, _SHEET_SIDE), Image.Resampling.BICUBIC)
            sheet.paste(small, (column * _SHEET_SIDE, row * _SHEET_SIDE))
    return sheet


def _file(place: int, number: int) -> str:
    return f"{place:05}/samples/{number:04}.png"


def _parts(missing: Sequence[tuple[int, int]], size: int) -> Iterator[Sequence[tuple[int, int]]]:
    for start in range(0, len(missing), size):
        yield missing[start : start + size]


def _drawing_template(policy: ImageGenerator) -> dict[str, str]:
    return {name: text for name, text in templates_of(policy).items() if name == "drawing template"}


def _check_record(folder: Path, identity: dict[str, str], sampling: Sampling, drawing: Drawing) -> None:
    settings = {**identity, **asdict(sampling), "seed": drawing.seed, "per_prompt": drawing.per_prompt}
    before = drawing_record(folder)
    if before is None:
        if any(folder.glob("*/samples/*.png")):
            raise ValueError(f"{folder} holds images that this command did not draw; name another folder")
        _replace(folder / _RECORD, (json.dumps(settings, indent=1) + "\n").encode())
        return
    # More images of each prompt may be drawn later: those that are there stay as they are.
    changed = [key for key in settings if key != "per_prompt" and before.get(key) != settings[key]]
    with form_of(str(folder / _RECORD)):
        fewer = before["per_prompt"] > drawing.per_prompt
    if changed or fewer:
        key = changed[0] if changed else "per_prompt"
        raise ValueError(
            f"{folder} was drawn with {key} {before.get(key)!r}, now it is {settings[key]!r}; go on with the "
            "same settings or name another folder"
        )
    _replace(folder / _RECORD, (json.dumps(settings, indent=1) + "\n").encode())


def _write_metadata(path: Path, prompt: GenEvalPrompt) -> None:
    file = path / "metadata.jsonl"
    line = json.dumps(prompt.metadata)
    if file.exists():
        if read_json(file) != prompt.metadata:
            raise ValueError(f"{file} is another prompt than {prompt.text!r}; name another folder")
        return
    (path / "samples").mkdir(parents=True, exist_ok=True)
    _replace(file, f"{line}\n".encode())


def _save(path: Path, picture: UInt8[Tensor, "3 H W"], texts: dict[str, str]) -> None:
    image = Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).numpy()))
    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    # Whole or not at all: an image that is there counts as drawn.
    partial = path.with_suffix(".partial")
    image.save(partial, format="PNG", pnginfo=info)
    os.replace(partial, path)


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def templates_of(policy: ImageGenerator) -> dict[str, str]:
    """The strings around a policy's prompts and questions, for records."""
    return dict(policy.templates)
