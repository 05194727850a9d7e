"""Copies of the bundled models with a fault in them, and what a command says about one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sightloop.cli import main
from sightloop.world.bundled import WEIGHTS


def copy_of(name: str, folder: Path, *, without: tuple[str, ...] = ()) -> Path:
    """A copy of a bundled model; the files of these names are left out."""
    return Path(shutil.copytree(WEIGHTS / name, folder / f"my_{name}", ignore=lambda *_: set(without)))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """The folder, its weights changed."""
    tensors = load_file(folder / "model.safetensors")
    changed = change(tensors)
    tensors = changed if isinstance(changed, dict) else tensors
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def without(folder: Path, *parts: str) -> Path:
    """The folder, every tensor taken out whose name holds one of these."""
    return change_tensors(
        folder, lambda tensors: {k: v for k, v in tensors.items() if not any(part in k for part in parts)}
    )


def change_json(file: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The folder of a JSON file, which is changed."""
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    return file.parent


def pictures(folder: Path, number: int = 3) -> Path:
    """A folder of images and `captions.jsonl` beside it."""
    (folder / "pictures").mkdir()
    rows: list[str] = []
    for place in range(number):
        pixels = np.random.default_rng(place).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{place}.png")
        rows.append(json.dumps({"image": f"pictures/{place}.png", "caption": f"a red circle {place}"}))
    (folder / "captions.jsonl").write_text("\n".join(rows) + "\n")
    return folder / "pictures"


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command ends with; nothing else went wrong before it."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(list(words))
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert end.value.code == 2 and told.startswith("sightloop: "), told
    return told
