"""Writes run folders that look like real ones: images of the embedded world, ever longer captions."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sightloop.world.language import caption as short_or_full
from sightloop.world.language import caption_tokens, count_facts
from sightloop.world.scenes import COLORS, Scene, render, sample_scene

EVALUATED = 60
PICTURED = 40


@dataclass(frozen=True, kw_only=True)
class Story:
    """What happens in a synthetic run."""

    steps: int = 200
    planned: int = 200
    evaluate_every: int = 50
    gallery_every: int = 50
    best: int | None = None
    alarms: list[dict[str, Any]] = field(default_factory=list)
    seed: int = 0


def write_run(folder: Path, story: Story) -> Path:
    """Write a whole run folder and return it."""
    rng = np.random.default_rng(story.seed)
    for name in ("samples", "images", "evaluations", "checkpoints"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", {"recipe": "vlrm", "config": _config(story.planned)})
    _write_json(folder / "environment.json", _environment())
    records: list[dict[str, Any]] = []
    scenes = [sample_scene(rng) for _ in range(EVALUATED)]
    images = [_picture(folder, render(scene, rng)) for scene in scenes[:PICTURED]]
    for step in range(story.steps + 1):
        progress = 1 - math.exp(-step / 60)
        if step:
            records.append({"step": step, "kind": "train", **_train_metrics(rng, step, progress)})
        if step % story.evaluate_every == 0:
            records.append({"step": step, "kind": "eval", **_evaluate(folder, scenes, images, step, rng)})
        if step and step % story.gallery_every == 0:
            _gallery(folder, step, progress, rng)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "alarms.jsonl").write_text("".join(json.dumps(alarm) + "\n" for alarm in story.alarms))
    if story.best is not None:
        (folder / "checkpoints" / "best").write_text(f"step_{story.best:06}\n")
    return folder


def write_empty_run(folder: Path) -> Path:
    """Write a run that has just started: settings and nothing else."""
    folder.mkdir(parents=True)
    _write_json(folder / "config.json", {"recipe": "vlrm", "config": {"schedule": {"steps": 200}}})
    (folder / "metrics.jsonl").write_text("")
    return folder


def _train_metrics(rng: np.random.Generator, step: int, progress: float) -> dict[str, float]:
    noise = rng.standard_normal(12)
    return {
        "reward/total": 0.4 + 3.2 * progress + 0.35 * noise[0],
        "reward/similarity": 0.6 + 2.9 * progress + 0.3 * noise[1],
        "reward/reference": -0.9 + 0.4 * progress + 0.1 * noise[2],
        "reward/repeats": -0.05 - 0.1 * progress + 0.02 * noise[3],
        "reward/no_end": -0.02 * (1 - progress) + 0.004 * noise[4],
        "tokens/length": 6.2 + 8.5 * progress + 0.4 * noise[5],
        "tokens/ended": float(min(1.0, 0.96 + 0.03 * progress + 0.01 * noise[6])),
        "tokens/distinct": 0.021 + 0.004 * progress + 0.001 * noise[7],
        "critic/explained_variance": 0.3 * progress - 0.05 + 0.05 * noise[8],
        "critic/loss": 1.4 * math.exp(-step / 40) + 0.3 + 0.05 * abs(noise[9]),
        "advantage/std": 0.9 - 0.2 * progress + 0.03 * noise[10],
        "policy/loss": -0.01 + 0.02 * noise[11],
        "policy/probability": 0.61 + 0.2 * progress + 0.01 * noise[0],
        "policy/entropy": 0.82 - 0.35 * progress + 0.02 * noise[1],
        "gradient/norm_policy": 0.5 + 0.2 * abs(noise[2]) + 2 * math.exp(-step / 5),
        "gradient/norm_critic": 1.5 + 0.5 * abs(noise[3]),
        "learning_rate": 2e-4 * min(1.0, step / 10),
        "speed/images_per_second": 118 + 6 * noise[4],
        "seconds/collect": 0.9 + 0.05 * noise[5],
        "seconds/credit": 0.2 + 0.01 * noise[6],
        "seconds/update": 1.1 + 0.05 * noise[7],
        "memory/peak_gib": 1.31,
    }


def _evaluate(
    folder: Path, scenes: list[Scene], images: list[str], step: int, rng: np.random.Generator
) -> dict[str, float]:
    progress = 1 - math.exp(-step / 60)
    captions = [_told(scene, progress, index) for index, scene in enumerate(scenes)]
    truths = [
        short_or_full(scene, "full", np.random.default_rng(index)) for index, scene in enumerate(scenes)
    ]
    facts = [count_facts(scene, text) for scene, text in zip(scenes, captions, strict=True)]
    luck = np.random.default_rng(7).random(len(scenes))
    ranks = [1 if u < 0.12 + 0.75 * progress else 3 if u < 0.3 + 0.68 * progress else 12 for u in luck]
    samples = [
        {"source": f"pictures/held_out/{index:05}.png", "caption": caption, "truth": truth}
        | ({"image": images[index]} if index < len(images) else {})
        for index, (caption, truth) in enumerate(zip(captions, truths, strict=True))
    ]
    per_sample = {f"recall@{k}": [float(rank <= k) for rank in ranks] for k in (1, 5, 10)}
    per_sample |= {
        "mrr": [1 / rank for rank in ranks],
        "length": [float(len(caption_tokens(text))) for text in captions],
        "colors": [float(sum(word in COLORS for word in caption_tokens(text))) for text in captions],
        "repeats": [0.02 * float(rng.random() < 0.4) for _ in captions],
        "no_end": [0.0 for _ in captions],
        "told": [fact.true / fact.total for fact in facts],
        "hallucinates": [float(fact.false > 0) for fact in facts],
    }
    metrics = {name: float(np.mean(values)) for name, values in per_sample.items()}
    true, false = sum(fact.true for fact in facts), sum(fact.false for fact in facts)
    metrics |= {"precision": true / (true + false), "distinct_1": 0.08 - 0.04 * progress}
    metrics |= {"median_rank": float(np.median(ranks)), "image_recall@1": 0.1 + 0.6 * progress}
    metrics |= {"share_of_ties": 0.0}
    protocol = {"encoder": "clip", "decoding": "greedy", "captions": str(len(scenes)), "hash": "0123456789ab"}
    record = {"name": "held_out", "step": step, "metrics": metrics, "per_sample": per_sample}
    path = folder / "evaluations" / f"held_out_step_{step:06}.json"
    _write_json(path, record | {"samples": samples, "protocol": protocol})
    return {f"held_out/{name}": value for name, value in metrics.items()}


def _told(scene: Scene, progress: float, index: int) -> str:
    rng = np.random.default_rng(index)
    style = "full" if rng.random() < progress else "short"
    text = short_or_full(scene, style, rng)
    if rng.random() < 0.35 * progress:
        text = text.replace("small", "large", 1)
    return text


def _gallery(folder: Path, step: int, progress: float, rng: np.random.Generator) -> None:
    samples: list[dict[str, Any]] = []
    for index in range(8):
        scene = sample_scene(rng)
        text = short_or_full(scene, "full" if rng.random() < progress else "short", rng)
        pieces = [
            word if word == "," or place == 0 else f" {word}"
            for place, word in enumerate(caption_tokens(text))
        ]
        ended = index != 5
        length = len(pieces) + ended
        rewards = [-0.3 * float(rng.random() < 0.08) for _ in range(length)]
        similarity = float(2.5 * progress + rng.standard_normal())
        reference = float(-0.5 + 0.2 * rng.standard_normal())
        rewards[-1] += similarity + reference - (0 if ended else 1)
        values = [float(1.8 * progress + 0.3 * rng.standard_normal()) for _ in range(length)]
        returns = np.cumsum(rewards[::-1])[::-1]
        samples.append(
            {
                "source": f"pictures/train/{step + index:05}.png",
                "image": _picture(folder, render(scene, rng)),
                "pieces": [*pieces, ""] if ended else pieces,
                "rewards": rewards,
                "credit": [float(value) for value in (returns - values) / 1.2],
                "values": values,
                "ended": ended,
                "parts": {"similarity": similarity, "reference": reference, "no_end": -float(not ended)},
            }
        )
    _write_json(folder / "samples" / f"step_{step:06}.json", {"step": step, "samples": samples})


def _picture(folder: Path, pixels: np.ndarray) -> str:
    name = f"images/{hashlib.sha1(pixels.tobytes()).hexdigest()}.png"
    Image.fromarray(pixels).save(folder / name)
    return name


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


def _config(steps: int) -> dict[str, Any]:
    return {
        "schedule": {"steps": steps, "micro_batch": 64, "seed": 3, "best_metric": "held_out/recall@1"},
        "rewards": {"similarity": 4.0, "reference": 1.0, "repeats": 0.3, "no_end": 1.0},
        "sampling": {"max_tokens": 32, "temperature": 1.0, "top_k": 6},
        "learning_rate": 2e-4,
        "clip": 1.0,
        "model": "shapes",
        "objective": "probability",
    }


def _environment() -> dict[str, Any]:
    return {
        "python": "3.11.2",
        "platform": "Linux x86_64",
        "versions": {"sightloop": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "devices": ["x86_64"],
        "ranks": 1,
        "threads": 1,
        "command": ["sightloop", "train", "vlrm", "--seed", "3"],
        "git_commit": None,
    }
