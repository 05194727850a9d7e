"""GenEval's folder of images: `00000/metadata.jsonl` and `00000/samples/0000.png`, a folder a prompt.

Images may also be JPEG files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sightloop.geneval.prompts import GenEvalPrompt, parse_prompt
from sightloop.geneval.results import check_complete
from sightloop.text_files import form_of, read_json

_IMAGE_FILE = re.compile(r"\d+\.(png|jpe?g)", re.IGNORECASE)
_LEFT_BY_SYSTEMS = {"thumbs.db", "desktop.ini"}


@dataclass(frozen=True, kw_only=True)
class PromptImages:
    """A prompt and its images."""

    prompt: GenEvalPrompt
    files: tuple[str, ...]
    """Paths inside the folder, with forward slashes."""


def read_folder(folder: str | Path, *, expected: Sequence[GenEvalPrompt] | None = None) -> list[PromptImages]:
    """All prompts and images in order; `expected` has to be there, without it the official 553 prompts.

    Raises:
        ValueError: what would give another number than the benchmark's: a gap in the numbering, a
            folder without images or metadata, different numbers of images, other files, missing prompts.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(
            f"{root} is no folder; it should hold 00000/metadata.jsonl and 00000/samples/0000.png"
        )
    numbered = sorted(
        (p for p in root.iterdir() if p.is_dir() and p.name.isdigit()), key=lambda p: int(p.name)
    )
    if not numbered:
        raise ValueError(f"{root} holds no numbered folders; it should hold 00000/metadata.jsonl and so on")
    for place, path in enumerate(numbered):
        if int(path.name) != place:
            raise ValueError(
                f"{root} has no folder {place:05} but {path.name}: numbers start at 0 and leave nothing out"
                if int(path.name) > place
                else f"{root} has the number {int(path.name)} twice, the second time as {path.name}"
            )
    drawn = [PromptImages(prompt=_prompt_of(path), files=_images_of(path)) for path in numbered]
    most = max(len(each.files) for each in drawn)
    for path, each in zip(numbered, drawn, strict=True):
        if len(each.files) != most:
            raise ValueError(
                f"{path} has {len(each.files)} images, others have {most}; give every prompt as many"
            )
    with form_of(str(root)):
        check_complete([each.prompt for each in drawn], expected=expected)
    return drawn


def _prompt_of(path: Path) -> GenEvalPrompt:
    file = path / "metadata.jsonl"
    if not file.is_file():
        raise ValueError(f"{file} does not exist; it holds the prompt's line of the prompts file")
    with form_of(str(file), "it holds the prompt's line of the prompts file"):
        return parse_prompt(read_json(file))


def _images_of(path: Path) -> tuple[str, ...]:
    samples = path / "samples"
    files = sample_files(samples)
    if not files:
        raise ValueError(f"{samples} holds no images; a prompt without images cannot be left out")
    return tuple(f"{path.name}/samples/{file.name}" for file in files)


def sample_files(folder: Path) -> list[Path]:
    """The images in a folder of samples, by their numbers; hidden files are passed over.

    Raises:
        ValueError: another file, or two of one number.
    """
    found: dict[int, Path] = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        if entry.name.startswith(".") or entry.name.lower() in _LEFT_BY_SYSTEMS:
            continue
        if not _IMAGE_FILE.fullmatch(entry.name):
            raise ValueError(f"{entry} is not named as an image (0000.png); remove or rename it")
        if (number := int(entry.stem)) in found:
            raise ValueError(f"{entry} has the number of {found[number].name}; remove one of them")
        found[number] = entry
    return [found[number] for number in sorted(found)]
