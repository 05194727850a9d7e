"""What the commands `draw` and `ask` do: images of prompts, and answers about an image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from sightloop.api.drawing_sheet import labelled_sheet
from sightloop.api.model import Model, image_pixels
from sightloop.cli.image_options import AskOptions, DrawOptions, ModelOptions
from sightloop.models.atomic_files import atomic_write
from sightloop.models.protocols import ImageGenerator
from sightloop.recipes.image_policies import world_folder
from sightloop.runs.restore import open_generator
from sightloop.terminal import one_line, say
from sightloop.text_files import read_lines
from sightloop.training import distributed
from sightloop.world.boundary import MODEL_KEY, drawn_by, require_world_images, require_world_words


@dataclass(frozen=True, kw_only=True)
class _Drawing:
    path: Path
    prompt: str
    place: int
    """Which one of its prompt it is, from 0."""


def generate_images(options: DrawOptions) -> list[Path]:
    """Write numbered images as soon as they are drawn, a sheet of them, and beside it how they were drawn;
    numbers go on behind those in the folder.

    An image depends on the prompt, the seed and which one of the call it is, not on how many are generated.

    Raises:
        ValueError: a setting out of its range, or one that the policy does not have.
    """
    prompts = _prompts(options)
    author = _author(options.source, texts=prompts)
    model = Model(_open(options.source), name=options.source.model)
    how = {"rounds": options.steps, "guidance": options.guidance, "temperature": options.temperature}
    sampling = model.sampling(**how)
    first = 1 + max(
        (int(path.stem) for path in options.output.glob("*.png") if path.stem.isdigit()), default=0
    )
    drawings: list[_Drawing] = []
    for drawn in model.drawings(prompts, number=options.number, seed=options.seed, **how):
        options.output.mkdir(parents=True, exist_ok=True)
        for image in drawn:
            at, place = divmod(len(drawings), options.number)
            path = options.output / f"{first + len(drawings):04}.png"
            if distributed.rank() == 0:
                texts = {"prompt": prompts[at], MODEL_KEY: author, "seed": str(options.seed)}
                _save(image, path, texts)
            drawings.append(_Drawing(path=path, prompt=prompts[at], place=place))
    sheet = options.output / f"sheet_{drawings[0].path.stem}-{drawings[-1].path.stem}.png"
    settings = {
        "model": author,
        "seed": options.seed,
        "guidance": sampling.guidance,
        "rounds": sampling.decode_steps,
        "temperature": sampling.temperature,
        "dtype": options.source.dtype,
    }
    if distributed.rank() == 0:
        _write_sheet(drawings, sheet, settings)
    return [*(each.path for each in drawings), sheet]


def _write_sheet(drawings: list[_Drawing], sheet: Path, settings: dict[str, Any]) -> None:
    line = ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)
    labelled = [(each.path, each.prompt) for each in drawings]
    prompts = [each.prompt for each in drawings if each.place == 0]
    _save(labelled_sheet(labelled, line), sheet, {"prompt": "\n".join(prompts), MODEL_KEY: settings["model"]})
    images = [{"image": each.path.name, "prompt": each.prompt, "place": each.place} for each in drawings]
    with atomic_write(sheet.with_suffix(".json")) as partial:
        record = json.dumps({**settings, "images": images}, indent=1, ensure_ascii=False)
        partial.write_text(record + "\n", encoding="utf-8")


def _prompts(options: DrawOptions) -> list[str]:
    if options.prompt and options.prompt_file is not None:
        raise ValueError(f"both a prompt and --prompt-file {options.prompt_file} are given; leave one out")
    prompts = [options.prompt] if options.prompt_file is None else _lines(options.prompt_file, "prompts")
    if not all(prompt.strip() for prompt in prompts):
        raise ValueError("the prompt is empty; say what to draw")
    if options.output.exists() and not options.output.is_dir():
        raise ValueError(f"{options.output} is a file; name a folder")
    return prompts


def _lines(file: Path, what: str) -> list[str]:
    found = [line.text.strip() for line in read_lines(file)]
    if not found:
        raise ValueError(f"{file} holds no {what}; write one a line")
    return found


def _save(image: Image.Image, path: Path, texts: dict[str, str]) -> None:
    chunks = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        chunks.add_itxt(name, text)
    with atomic_write(path) as partial:
        image.save(partial, pnginfo=chunks)


def answers_of(options: AskOptions) -> list[tuple[str, str]]:
    """Each question with its most likely answer about the image of a file.

    Raises:
        ValueError: no question, a file that is no image, or a model that cannot answer.
    """
    pixels = image_pixels(options.image)
    asked = list(options.question)
    if options.question_file is not None:
        asked += _lines(options.question_file, "questions")
    if not asked or not all(question.strip() for question in asked):
        raise ValueError("the question is empty; say what to ask")
    _author(options.source, texts=asked, image=options.image)
    model = Model(_open(options.source), name=options.source.model)
    answers = model.answer(Image.fromarray(pixels), asked, max_tokens=options.max_tokens)
    return list(zip(asked, answers, strict=True))


def answer_questions(options: AskOptions) -> None:
    """Print the answers, or write them as JSON lines.

    Raises:
        ValueError: as `answers_of`.
    """
    found = answers_of(options)
    if options.output is not None:
        if distributed.rank():
            return
        lines = [
            json.dumps({"image": str(options.image), "question": question, "answer": answer})
            for question, answer in found
        ]
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return say(f"wrote {len(lines)} answers to {options.output}", is_error=True)
    for question, answer in found:
        say(answer if len(found) == 1 else f"{one_line(question)}\t{one_line(answer)}")
    if any(not answer for _, answer in found):
        say("an empty line is an answer without a word", is_error=True)


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
