"""Models that a user names: found and opened by the table of families, or one sentence that tells why not."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from sightloop.models.downloads import fetched_file
from sightloop.models.families import (
    ANY_CAPTIONER,
    FAMILIES,
    CaptionerChoices,
    CaptionerFamily,
    GeneratorFamily,
    Learning,
    Parts,
    detect_family,
    known_as,
)
from sightloop.models.open import local_folder, open_config
from sightloop.models.protocols import Captioner, ImageGenerator, require_members
from sightloop.text_files import read_json, read_whole

ADAPTER_CONFIG = "adapter_config.json"
_TENSORS = (".pt", ".safetensors")
_IN_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)/([\w./-]+\.(?:pt|safetensors))")
_BASE_MODEL = re.compile(r"^base_model: *(?:\n *- *)?[\"']?([\w./-]+)", re.MULTILINE)
_VLRM_STARTED_FROM = "Salesforce/blip2-opt-2.7b"


def model_config(name: str) -> PreTrainedConfig:
    """The configuration of a model folder or hub name; of a folder of adapters, that of their base.

    Raises:
        ValueError: there is no such model, it is a run, it cannot be reached, or it has code of its own.
    """
    _refuse_run(name)
    while (base := base_of(name)) != name:
        name = base
    return open_config(name)


def base_of(name: str) -> str:
    """The model that the adapters of a folder in peft's form, or VLRM's tensors, were trained on; any other
    name as it is.

    Raises:
        ValueError: the folder does not say.
    """
    if (file := tensor_file(name)) is not None:
        return _base_of_tensors(file)
    config = Path(name) / ADAPTER_CONFIG
    if not config.is_file() or (Path(name) / "config.json").is_file():
        return name
    base = read_json(config).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(f"{config} names no base_model_name_or_path; write there which model it adapts")
    return base


def captioner_family(name: str) -> CaptionerFamily:
    """The row of the captioner in a folder or of a hub name.

    Raises:
        ValueError: as for `model_config`, unless the folder names a row that transformers does not know.
    """
    _refuse_run(name)
    found = known_as(Path(name))
    if found is not None and isinstance(found.row, CaptionerFamily) and not found.row.of_transformers:
        return found.row
    kind = ("model_type", model_config(name).model_type)
    rows = [row for row in FAMILIES.values() if isinstance(row, CaptionerFamily)]
    row = next((row for row in rows if kind in row.marks), FAMILIES[ANY_CAPTIONER])
    assert isinstance(row, CaptionerFamily)
    return row


def tensor_file(name: str) -> Path | None:
    """The file of trained tensors that a name means, in the form in which VLRM's authors published theirs:
    a file, one in a repository of the hub (ORGANIZATION/NAME/FILE.pt), which is fetched, or the only one of a
    folder that holds no model. None for any other name.

    Raises:
        ValueError: the folder holds several.
    """
    place = Path(name)
    if place.suffix in _TENSORS and place.is_file():
        return place
    if not place.exists() and (in_repository := _IN_REPOSITORY.fullmatch(name)):
        return fetched_file(*in_repository.groups())
    if not place.is_dir() or any((place / known).exists() for known in ("config.json", ADAPTER_CONFIG)):
        return None
    files = sorted(file for file in place.iterdir() if file.suffix in _TENSORS and not _is_of_model(file))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(
            f"{name!r} holds several files of trained tensors ({names}); name one, as {files[0]}"
        )
    return files[0] if files else None


def _is_of_model(file: Path) -> bool:
    return file.name.startswith(("model", "pytorch_model"))


def _base_of_tensors(file: Path) -> str:
    """The model beside a file of trained tensors, or else the one that a model card there names."""
    beside = file.parent
    if (beside / "config.json").is_file() and any(map(_is_of_model, beside.iterdir())):
        return str(beside)
    card = beside / "README.md"
    header = read_whole(card).decode(errors="replace").split("---")[1:2] if card.is_file() else []
    found = _BASE_MODEL.search("".join(header))
    return found[1] if found else _VLRM_STARTED_FROM


def load_captioner(
    name: str, *, dtype: torch.dtype, device: torch.device, choices: CaptionerChoices | None = None
) -> Captioner:
    """The captioner in a folder or of a hub name; frozen weights are in `dtype`.

    Raises:
        ValueError: no model of this name can be read, or `choices` that its family does not have.
    """
    choices = CaptionerChoices() if choices is None else choices
    row = captioner_family(name)
    file = tensor_file(name)
    start = name if file is None else base_of(name)
    if file is not None and row.load_trained is None:
        raise ValueError(
            f"{file} holds trained tensors of a Q-Former, and {start!r} has none; name its BLIP-2 as "
            f"base_model in {file.parent / 'README.md'}, or put the file into the folder of its BLIP-2"
        )
    captioner = row.load(start, dtype=dtype, device=device, choices=choices)
    if file is not None and row.load_trained is not None:
        row.load_trained(captioner, file)
    return require_members(captioner, Captioner, what="every captioner")


def generator_family(folder: Path) -> GeneratorFamily:
    """The row of the image generator in a folder or of a hub name, which is fetched.

    Raises:
        ValueError: no such model, or one of something that cannot draw.
    """
    _refuse_run(str(folder))
    row = detect_family(local_folder(folder)).row
    if not isinstance(row, GeneratorFamily):
        titles = " or ".join(row.title for row in FAMILIES.values() if isinstance(row, GeneratorFamily))
        raise ValueError(
            f"{folder} is {row.title} alone, which cannot draw from prompts; give the folder of a {titles}"
        )
    return row


def load_generator(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    parts: Parts | None = None,
    learning: Learning | None = None,
) -> ImageGenerator:
    """The image generator in a folder or of a hub name; frozen weights are in `dtype`, `learning`
    None = it is not trained.

    Raises:
        ValueError: no such folder, something that cannot draw, or a checkpoint that does not fit.
    """
    policy = generator_family(folder).load(
        folder,
        dtype=dtype,
        device=device,
        parts=Parts() if parts is None else parts,
        learning=learning,
    )
    return require_members(policy, ImageGenerator, what="every image generator")


def _refuse_run(name: str) -> None:
    if (Path(name) / "metrics.jsonl").is_file():
        raise ValueError(f"{name!r} is a run; write its model with `sightloop export` and name that folder")
