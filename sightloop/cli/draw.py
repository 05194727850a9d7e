"""What the commands `draw` and `ask` do: images of a prompt, and an answer about an image."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin
from torch import Tensor

from sightloop.cli.image_options import AskOptions, DrawOptions, ModelOptions
from sightloop.data.decode import BrokenImageError, upright
from sightloop.evaluators.joint import most_likely_answers
from sightloop.image_files import read_regular
from sightloop.models.atomic_files import atomic_write
from sightloop.models.protocols import ImageGenerator
from sightloop.recipes.image_policies import world_folder
from sightloop.rollouts.seeds import image_seed
from sightloop.runs.restore import open_generator
from sightloop.types import Images, Prompt
from sightloop.world.boundary import MODEL_KEY, drawn_by, require_world_images, require_world_words

_BATCH = 4
_GAP = 4


def generate_images(options: DrawOptions) -> list[Path]:
    """Write numbered images and a sheet of them; numbers go on behind those in the folder.

    An image depends on the prompt, the seed and which one of the call it is, not on how many are generated.

    Raises:
        ValueError: a setting out of its range, or one that the policy does not have.
    """
    _require_sense(options)
    author = _author(options.source, texts=[options.prompt])
    policy = _open(options.source)
    chosen = {"decode_steps": options.steps, "guidance": options.guidance, "temperature": options.temperature}
    sampling = policy.default_sampling(**{name: value for name, value in chosen.items() if value is not None})
    images: list[Tensor] = []
    for start in range(0, options.number, _BATCH):
        places = range(start, min(start + _BATCH, options.number))
        seeds = [image_seed(options.prompt, place, options.seed) for place in places]
        with torch.no_grad():
            tokens = policy.sample(
                Prompt(texts=[options.prompt] * len(places), wants="image", seeds=seeds), sampling
            )
            images += list(policy.pixels(tokens).pixels.cpu())
    options.output.mkdir(parents=True, exist_ok=True)
    first = 1 + max(
        (int(path.stem) for path in options.output.glob("*.png") if path.stem.isdigit()), default=0
    )
    paths = [options.output / f"{first + place:04}.png" for place in range(len(images))]
    pictures = [Image.fromarray(pixels.permute(1, 2, 0).numpy()) for pixels in images]
    for path, picture in zip(paths, pictures, strict=True):
        _save(picture, path, options.prompt, author)
    sheet = options.output / f"sheet_{paths[0].stem}-{paths[-1].stem}.png"
    _save(grid_of(pictures), sheet, options.prompt, author)
    return [*paths, sheet]


def _require_sense(options: DrawOptions) -> None:
    if not options.prompt.strip():
        raise ValueError("the prompt is empty; say what to draw")
    if options.output.exists() and not options.output.is_dir():
        raise ValueError(f"{options.output} is a file; name a folder")


def _save(picture: Image.Image, path: Path, prompt: str, author: str) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("prompt", prompt)
    texts.add_itxt(MODEL_KEY, author)
    with atomic_write(path) as partial:
        picture.save(partial, pnginfo=texts)


def grid_of(pictures: list[Image.Image]) -> Image.Image:
    """Images of one size side by side, about as many rows as columns."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    width, height = pictures[0].size
    size = (columns * (width + _GAP) + _GAP, rows * (height + _GAP) + _GAP)
    sheet = Image.new("RGB", size, "white")
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        sheet.paste(picture, (_GAP + column * (width + _GAP), _GAP + row * (height + _GAP)))
    return sheet


def answer_question(options: AskOptions) -> str:
    """The most likely answer about the image of a file.

    Raises:
        ValueError: a file that is no image, or a model that cannot answer.
    """
    image = read_image(options.image)
    if not options.question.strip():
        raise ValueError("the question is empty; say what to ask")
    _author(options.source, texts=[options.question], image=options.image)
    images = Images(pixels=torch.from_numpy(image).permute(2, 0, 1)[None])
    (answer,) = most_likely_answers(_open(options.source), [options.question], images, options.max_tokens)
    return answer


def read_image(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """An image file of any mode and size as RGB.

    Raises:
        ValueError: it is missing, damaged or no image.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is no file; name an image")
    try:
        return upright(read_regular(path))
    except BrokenImageError as error:
        raise ValueError(f"{path}: {error}") from error


def _author(source: ModelOptions, *, texts: list[str], image: Path | None = None) -> str:
    """Who will generate or answer; the embedded world's models are refused what is not of their world."""
    if source.model:
        return Path(source.model).name
    if image is not None:
        require_world_images([str(image)], what="model", option="--model")
    require_world_words(texts, world_folder(source.world_model), option="--model")
    return drawn_by(source.world_model)


def _open(source: ModelOptions) -> ImageGenerator:
    return open_generator(
        source.model,
        world_model=source.world_model,
        parts=source.parts,
        dtype=source.dtype,
        device=source.device,
    )
