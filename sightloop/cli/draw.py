"""What the commands `draw` and `ask` do: pictures of a prompt, and an answer about a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin
from torch import Tensor

from sightloop.data.decode import BrokenImageError, upright
from sightloop.image_files import read_regular
from sightloop.models.atomic_files import atomic_write
from sightloop.models.protocols import ImageGenerator
from sightloop.rollouts.seeds import image_seed
from sightloop.types import Images, Prompt, Sampling
from sightloop.world.boundary import MODEL_KEY

_BATCH = 4
_GAP = 4


@dataclass(frozen=True, kw_only=True)
class DrawJob:
    """What to draw, and under which law; None = the law of the model's authors."""

    prompt: str
    number: int = 4
    output: Path = Path("drawings")
    steps: int | None = None
    guidance: float | None = None
    temperature: float | None = None
    seed: int = 0
    author: str = ""
    """Who draws, told by the files; empty = nothing is told."""

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError("the prompt is empty; say what to draw")
        if self.number < 1:
            raise ValueError(f"number is {self.number}; draw at least 1 picture")
        if self.output.exists() and not self.output.is_dir():
            raise ValueError(f"{self.output} is a file; name a folder")

    def sampling(self, policy: ImageGenerator) -> Sampling:
        """The law.

        Raises:
            ValueError: a setting out of its range.
        """
        chosen: dict[str, Any] = {"decode_steps": self.steps, "guidance": self.guidance}
        chosen["temperature"] = self.temperature
        return policy.drawing(**{name: value for name, value in chosen.items() if value is not None})


def draw(policy: ImageGenerator, job: DrawJob) -> list[Path]:
    """Draw numbered pictures and a sheet of them; numbers go on behind those in the folder.

    A picture depends on the prompt, the seed and which one of the call it is, not on how many are drawn.

    Raises:
        ValueError: a setting out of its range, or one that the policy does not have.
    """
    sampling = job.sampling(policy)
    drawn: list[Tensor] = []
    for start in range(0, job.number, _BATCH):
        places = range(start, min(start + _BATCH, job.number))
        seeds = [image_seed(job.prompt, place, job.seed) for place in places]
        with torch.no_grad():
            tokens = policy.sample(
                Prompt(texts=[job.prompt] * len(places), wants="image", seeds=seeds), sampling
            )
            drawn += list(policy.pixels(tokens).pixels.cpu())
    job.output.mkdir(parents=True, exist_ok=True)
    first = 1 + max((int(path.stem) for path in job.output.glob("*.png") if path.stem.isdigit()), default=0)
    paths = [job.output / f"{first + place:04}.png" for place in range(len(drawn))]
    pictures = [Image.fromarray(pixels.permute(1, 2, 0).numpy()) for pixels in drawn]
    for path, picture in zip(paths, pictures, strict=True):
        _save(picture, path, job)
    sheet = job.output / f"sheet_{paths[0].stem}-{paths[-1].stem}.png"
    _save(contact_sheet(pictures), sheet, job)
    return [*paths, sheet]


def _save(picture: Image.Image, path: Path, job: DrawJob) -> None:
    told = PngImagePlugin.PngInfo()
    told.add_itxt("prompt", job.prompt)
    if job.author:
        told.add_itxt(MODEL_KEY, job.author)
    with atomic_write(path) as partial:
        picture.save(partial, pnginfo=told)


def contact_sheet(pictures: list[Image.Image]) -> Image.Image:
    """Pictures of one size side by side, about as many rows as columns."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    width, height = pictures[0].size
    size = (columns * (width + _GAP) + _GAP, rows * (height + _GAP) + _GAP)
    sheet = Image.new("RGB", size, "white")
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        sheet.paste(picture, (_GAP + column * (width + _GAP), _GAP + row * (height + _GAP)))
    return sheet


@dataclass(frozen=True, kw_only=True)
class AskJob:
    """A question about a picture."""

    picture: UInt8[np.ndarray, "H W 3"]
    question: str
    max_tokens: int = 64

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise ValueError("the question is empty; say what to ask")


def ask(policy: ImageGenerator, job: AskJob) -> str:
    """The most likely answer."""
    pixels = torch.from_numpy(job.picture).permute(2, 0, 1)[None]
    prompt = Prompt(texts=[job.question], images=Images(pixels=pixels))
    tokens = policy.sample(prompt, Sampling(max_tokens=job.max_tokens, temperature=0.0))
    return "".join(policy.decode(tokens)[0]).strip()


def read_picture(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """A picture file of any mode and size as RGB.

    Raises:
        ValueError: it is missing, damaged or no picture.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is no file; name a picture")
    try:
        return upright(read_regular(path))
    except BrokenImageError as error:
        raise ValueError(f"{path}: {error}") from error
