"""Writes the smallest run folders: only what a test is about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def begin(folder: Path, *, steps: int | None = None) -> Path:
    """An empty run folder with a configuration."""
    folder.mkdir(parents=True)
    config = {} if steps is None else {"schedule": {"steps": steps}}
    (folder / "config.json").write_text(json.dumps({"recipe": "vlrm", "config": config}))
    return folder


def log(folder: Path, kind: str, values: Mapping[int, Mapping[str, float | None]]) -> None:
    """Append records of one kind, by step."""
    with (folder / "metrics.jsonl").open("a") as file:
        for step, record in values.items():
            file.write(json.dumps({"step": step, "kind": kind, **record}) + "\n")


def evaluate(
    folder: Path,
    name: str,
    step: int,
    *,
    per_sample: Mapping[str, Sequence[float]],
    samples: Sequence[Mapping[str, str]],
    protocol: Mapping[str, str] | None = None,
) -> None:
    """Write one evaluation whose figures are the means of the per-sample values."""
    metrics = {metric: sum(values) / len(values) for metric, values in per_sample.items()}
    content: dict[str, Any] = {"name": name, "step": step, "metrics": metrics, "per_sample": per_sample}
    content |= {"samples": samples, "protocol": protocol or {}}
    (folder / "evaluations").mkdir(exist_ok=True)
    (folder / "evaluations" / f"{name}_step_{step:06}.json").write_text(json.dumps(content))


def samples_of(captions: Sequence[str], **more: str) -> list[dict[str, str]]:
    """Samples `0.png`, `1.png` and so on with these captions."""
    return [{"source": f"{index}.png", "caption": caption, **more} for index, caption in enumerate(captions)]


def show(folder: Path, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
    """Write one gallery."""
    (folder / "samples").mkdir(exist_ok=True)
    content = {"step": step, "samples": samples}
    (folder / "samples" / f"step_{step:06}.json").write_text(json.dumps(content))


def gallery_sample(
    pieces: Sequence[str], rewards: Sequence[float], credit: Sequence[float]
) -> dict[str, Any]:
    """One caption of a gallery that ended and has no critic."""
    return {
        "source": "some/where/cat.png",
        "image": "images/cat.png",
        "pieces": list(pieces),
        "rewards": list(rewards),
        "credit": list(credit),
        "values": None,
        "ended": True,
        "parts": {"similarity": 3.1},
    }


def drawing(prompt: str, drawn: bool, answered: bool | None = None, **more: str) -> dict[str, str]:
    """One judged drawing of an evaluation, and the verdict on the answer about it if it was asked about."""
    words = {True: "right", False: "wrong"}
    sample = {"source": prompt, "drawn": words[drawn]}
    if answered is not None:
        sample["answered"] = words[answered]
    return sample | more


def two_evaluations(folder: Path, before: Sequence[dict[str, str]], after: Sequence[dict[str, str]]) -> Path:
    """A run evaluated before and after 30 steps."""
    begin(folder, steps=30)
    for step, samples in ((0, before), (30, after)):
        sides = [side for side in ("drawn", "answered") if side in samples[0]]
        values = {side: [float(sample[side] == "right") for sample in samples] for side in sides}
        evaluate(folder, "joint", step, per_sample=values, samples=samples)
    return folder
