"""Trained captioners in and out: VLRM's published forms, and plain transformers folders.

VLRM's authors published 257 tensors (query tokens, Q-Former, language projection) in half precision, and a
full
sharded model. Everything written here appears under its final name only when it is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, Blip2ForConditionalGeneration

from sightloop.models.blip2 import Blip2Captioner, Bridge

BRIDGE_PREFIXES = ("query_tokens", "qformer.", "language_projection.")
_SHARD = "2GB"
_NOT_COPIED = {".safetensors", ".bin", ".pt", ".h5", ".msgpack"}


def load_vlrm(model: Blip2ForConditionalGeneration, path: Path) -> None:
    """Put published weights into a BLIP-2 model: the 257 tensors (.pt, .safetensors), or a full folder.

    Raises:
        ValueError: tensors are missing, unknown or of another shape; nothing is loaded then.
    """
    tensors = dict(_read(path))
    bridge = Bridge(model)
    wanted = bridge.state_dict()
    given = {name: tensor for name, tensor in tensors.items() if name.startswith(BRIDGE_PREFIXES)}
    foreign = sorted(set(tensors) - set(given)) if not path.is_dir() else []
    _require(path, wanted, given, foreign)
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(given[name])


def _read(path: Path) -> Iterator[tuple[str, Tensor]]:
    if path.is_dir():
        files = sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))
        if not files:
            raise ValueError(f"{path} holds no .safetensors and no .bin file")
        for file in files:
            yield from _read(file)
    elif not path.is_file():
        raise ValueError(f"{path} does not exist; give the published .pt file or the folder of its shards")
    elif path.suffix == ".safetensors":
        yield from load_file(path).items()
    else:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
            raise ValueError(f"{path} does not hold a dictionary of tensors")
        yield from loaded.items()


def _require(
    path: Path, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], foreign: list[str]
) -> None:
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} is unknown" for name in [*given, *foreign] if name not in wanted]
    problems += [
        f"{name} is {tuple(given[name].shape)}, the model wants {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"{path} does not fit the model: {'; '.join(problems[:3])}{more}")


def load_published(folder: Path, base: Path, *, dtype: torch.dtype = torch.float32) -> Blip2Captioner:
    """A full published VLRM folder on the configuration and processor of a current BLIP-2 folder.

    The published configuration predates `image_token_index`, without which current transformers fails.
    """
    model = Blip2ForConditionalGeneration.from_pretrained(
        folder, config=AutoConfig.from_pretrained(base), dtype=dtype
    )
    plain = Blip2Captioner.from_pretrained(base, dtype=dtype)
    return Blip2Captioner(model, plain.words, plain.pictures)


def export_tensors(captioner: Blip2Captioner, path: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write query tokens, Q-Former and projection under their published names; .pt or .safetensors."""
    tensors = {
        name: tensor.detach().to("cpu", dtype).contiguous()
        for name, tensor in captioner.bridge().state_dict().items()
    }
    if path.suffix not in {".pt", ".safetensors"}:
        raise ValueError(f"{path} must end in .pt or .safetensors")
    with _whole(path) as partial:
        if path.suffix == ".pt":
            torch.save(tensors, partial)
        else:
            save_file(tensors, partial)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model card says."""

    base: str
    steps: int
    figures: Mapping[str, tuple[float, float]]
    """Held-out figures before and after."""
    license_name: str = ""


def export_folder(
    captioner: Blip2Captioner, output: Path, *, base: str, card: Card, dtype: torch.dtype = torch.float16
) -> None:
    """Write a folder that `Blip2ForConditionalGeneration.from_pretrained` loads without sightloop.

    Raises:
        ValueError: the output exists and is not empty.
    """
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty; choose another folder")
    model: Any = captioner.model
    with _whole(output) as partial:
        partial.mkdir(parents=True)
        state = {name: tensor.detach().to("cpu", dtype) for name, tensor in model.state_dict().items()}
        model.save_pretrained(partial, state_dict=state, max_shard_size=_SHARD)
        captioner.words.save_pretrained(partial)
        captioner.pictures.save_pretrained(partial)
        for file in Path(base).iterdir() if Path(base).is_dir() else ():
            if file.is_file() and file.suffix not in _NOT_COPIED and not (partial / file.name).exists():
                shutil.copy(file, partial / file.name)
        (partial / "README.md").write_text(card_text(card), encoding="utf-8")


def card_text(card: Card) -> str:
    """The model card as Markdown with the hub's header."""
    head = ["---", "library_name: transformers", "pipeline_tag: image-to-text"]
    if card.license_name:
        head.append(f"license: {card.license_name}")
    if not Path(card.base).exists():
        head.append(f"base_model: {card.base}")
    rows = [f"| {name} | {before:.3f} | {after:.3f} |" for name, (before, after) in card.figures.items()]
    lines = [
        *head,
        "tags: [image-captioning, reinforcement-learning, vlrm, sightloop]",
        "---",
        "",
        "# A BLIP-2 captioner trained by what a judge sees",
        "",
        f"`{Path(card.base).name}` after {card.steps} steps of VLRM (arXiv 2404.01911) with sightloop:",
        "query tokens, Q-Former and language projection were trained on the judgement of a frozen",
        "image-text matcher, a language model and text rules, without reference captions. Vision tower",
        "and language model are those of the base.",
        "",
        "| held-out figure | before | after |",
        "|---|--:|--:|",
        *rows,
        "",
        "```python",
        "from transformers import AutoProcessor, Blip2ForConditionalGeneration",
        "",
        'model = Blip2ForConditionalGeneration.from_pretrained("FOLDER")',
        'processor = AutoProcessor.from_pretrained("FOLDER")',
        "```",
        "",
        "Captions are longer than the base model's and may name things that are not there; check before",
        "relying on them. The paper decodes with 5 beams, no repeated bigram, 4 to 60 new tokens.",
    ]
    return "\n".join(lines) + "\n"


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    # The suffix stays last: writers choose their format by it.
    partial = path.with_name(f".partial-{path.name}")
    shutil.rmtree(partial, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        if path.is_dir():
            path.rmdir()
        os.replace(partial, path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)
