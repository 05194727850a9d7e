"""The same command on the CPU and on another device, and all that both leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from recipes.unirl_runs import figures

from sightloop.cli import main


def train_on_both(place: Path, device: torch.device, words: Sequence[str]) -> tuple[Path, Path]:
    """Runs of the same words on the CPU and on the device."""
    runs = place / "cpu", place / "device"
    for run, name in zip(runs, ("cpu", str(device)), strict=True):
        main(["train", *words, "--run", str(run), "--device", name])
    return runs


def left_by(run: Path) -> dict[str, Any]:
    """What a run wrote: figures, samples, evaluations, images by content, trained weights."""
    texts = {
        # Images of the embedded world lie in the run's own folder.
        str(path.relative_to(run)): path.read_text(encoding="utf-8").replace(str(run), "run")
        for folder in ("samples", "evaluations")
        for path in (run / folder).glob("*.json")
    }
    weights = {
        str(path.relative_to(run)): path.read_bytes() for path in run.glob("checkpoints/*/*.safetensors")
    }
    pictures = {path.name: path.read_bytes() for path in run.glob("images/*")}
    return {"figures": figures(run), **texts, **weights, **pictures}


def assert_same(one: Path, other: Path) -> None:
    """Bit for bit."""
    first, second = left_by(one), left_by(other)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
