"""Writes run folders of a model that draws and answers: images of the embedded world, ever better ones."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sightloop.quizzes.grammar import CATEGORIES, Quiz
from sightloop.world.quizzes import right_answers, sample_quiz, scene_for
from sightloop.world.scenes import render


@dataclass(frozen=True, kw_only=True)
class DrawingStory:
    """What happens in a synthetic run."""

    steps: int = 200
    planned: int = 200
    evaluate_every: int = 50
    gallery_every: int = 50
    prompts: int = 24
    per_prompt: int = 4
    pictured: int = 96
    groups: int = 4
    group_size: int = 8
    second_turn: str = "answer"
    """Whether the words of a gallery are the model's answer or, as in supervised training, the `truth`."""
    alarms: list[dict[str, Any]] = field(default_factory=list)
    seed: int = 0


def write_drawing_run(folder: Path, story: DrawingStory) -> Path:
    """Write a whole run folder and return it."""
    rng = np.random.default_rng(story.seed)
    for name in ("samples", "images", "evaluations", "checkpoints"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    config = {"schedule": {"steps": story.planned, "best_metric": "joint/drawn"}, "groups": {"size": 8}}
    _write_json(folder / "config.json", {"recipe": "unirl-grpo", "config": config})
    quizzes = [sample_quiz(rng, CATEGORIES[index % len(CATEGORIES)]) for index in range(story.prompts)]
    records: list[dict[str, Any]] = []
    for step in range(story.steps + 1):
        progress = 1 - math.exp(-step / 80)
        if step:
            records.append({"step": step, "kind": "train", **_train_metrics(rng, step, progress)})
        if step % story.evaluate_every == 0:
            found = _evaluate(folder, story, quizzes, step)
            records.append({"step": step, "kind": "eval", **found})
        if step and step % story.gallery_every == 0:
            _gallery(folder, story, step, progress)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "alarms.jsonl").write_text("".join(json.dumps(alarm) + "\n" for alarm in story.alarms))
    return folder


def _train_metrics(rng: np.random.Generator, step: int, progress: float) -> dict[str, float]:
    noise = rng.standard_normal(12)
    return {
        "reward/total": 0.9 + 0.7 * progress + 0.08 * noise[0],
        "reward/facts": 0.7 + 0.4 * progress + 0.05 * noise[1],
        "reward/all_facts": 0.6 + 0.25 * progress + 0.04 * noise[2],
        "tokens/length": 5.1 + 0.1 * noise[3],
        "tokens/ended": 1.0,
        "tokens/distinct": 0.03 + 0.002 * noise[4],
        "advantage/std": 0.8 + 0.05 * noise[5],
        "drawing/loss": 0.01 * noise[6],
        "drawing/log_prob": -2.6 + 0.9 * progress + 0.05 * noise[7],
        "drawing/entropy": 2.1 - 0.8 * progress + 0.04 * noise[8],
        "drawing/kl": 0.12 * progress + 0.004 * abs(noise[9]),
        "answering/loss": 0.01 * noise[10],
        "answering/log_prob": -0.2 + 0.1 * progress + 0.01 * noise[11],
        "answering/entropy": 0.31 - 0.15 * progress + 0.01 * noise[0],
        "answering/kl": 0.03 * progress + 0.001 * abs(noise[1]),
        "groups/all": 16.0,
        "groups/zero_variance": float(round(3 + 6 * progress + abs(noise[2]))),
        "gradient/norm_policy": 0.4 + 0.1 * abs(noise[3]),
        "gradient/norm_drawing": 0.3 + 0.1 * abs(noise[4]),
        "gradient/norm_answering": 0.2 + 0.1 * abs(noise[5]),
        "gradient/cosine": 0.1 + 0.1 * noise[6],
        "learning_rate": 2e-4 * min(1.0, step / 10),
        "speed/images_per_second": 40 + 2 * noise[7],
        "seconds/collect": 0.5 + 0.02 * noise[8],
        "seconds/credit": 0.01,
        "seconds/update": 0.7 + 0.02 * noise[9],
        "memory/peak_gib": 1.05,
    }


def _evaluate(folder: Path, story: DrawingStory, quizzes: list[Quiz], step: int) -> dict[str, float]:
    progress = 1 - math.exp(-step / 80)
    samples: list[dict[str, str]] = []
    for index in range(story.prompts * story.per_prompt):
        quiz = quizzes[index // story.per_prompt]
        luck = np.random.default_rng(1000 + index).random(3)
        # Most drawings get better; some that were right are lost.
        drawn = bool(luck[0] < 0.5 + 0.35 * progress and not (luck[1] < 0.2 * progress and luck[0] < 0.5))
        answered = bool(luck[2] < 0.7 + 0.2 * progress)
        sample = {
            "source": quiz.prompt,
            "category": quiz.category,
            "question": quiz.question,
            "answer": right_answers(quiz)[-1] if answered else _wrong(quiz, index).answer,
            "truth": quiz.answer,
            "drawn": _word(drawn),
            "answered": _word(answered),
        }
        if index < story.pictured:
            sample["image"] = _draw(folder, quiz if drawn else _wrong(quiz, index), index)
        samples.append(sample)
    drawn = np.array([sample["drawn"] == "right" for sample in samples])
    answered = np.array([sample["answered"] == "right" for sample in samples])
    fixed = np.random.default_rng(5).random(60) < 0.85 + 0.08 * progress
    per_sample = {
        "drawn": drawn,
        "answered": answered,
        "both": drawn & answered,
        "only_drawn": drawn & ~answered,
        "only_answered": ~drawn & answered,
        "answered_fixed": fixed,
    }
    metrics = {name: float(values.mean()) for name, values in per_sample.items()}
    metrics |= {
        "imbalance": metrics["only_drawn"] + metrics["only_answered"],
        "gap": metrics["answered"] - metrics["drawn"],
        "answered_if_drawn": float(answered[drawn].mean()),
        "drawn_if_answered": float(drawn[answered].mean()),
    }
    for category in dict.fromkeys(quiz.category for quiz in quizzes):
        of_category = np.array([sample["category"] == category for sample in samples])
        metrics[f"drawn_{category}"] = float(drawn[of_category].mean())
        metrics[f"answered_{category}"] = float(answered[of_category].mean())
    record = {
        "name": "joint",
        "step": step,
        "metrics": metrics,
        "per_sample": {name: values.astype(float).tolist() for name, values in per_sample.items()},
        "samples": samples,
        "protocol": {
            "prompts": str(story.prompts),
            "per_prompt": str(story.per_prompt),
            "decoding": "greedy",
        },
    }
    _write_json(folder / "evaluations" / f"joint_step_{step:06}.json", record)
    return {f"joint/{name}": value for name, value in metrics.items()}


def _gallery(folder: Path, story: DrawingStory, step: int, progress: float) -> None:
    rng = np.random.default_rng(step)
    samples: list[dict[str, Any]] = []
    for group in range(story.groups):
        quiz = sample_quiz(rng)
        right = rng.random(story.group_size) < (1.0 if group == 1 else 0.4 + 0.4 * progress)
        rewards = right * 2.0
        credit = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        for member in range(story.group_size):
            seen = quiz if right[member] else _wrong(quiz, member)
            spoken = quiz if story.second_turn == "truth" else seen
            words = spoken.answer.split()
            pieces = [word if place == 0 else f" {word}" for place, word in enumerate(words)]
            worth = 1.0 if story.second_turn == "truth" else float(credit[member])
            samples.append(
                {
                    "source": quiz.prompt,
                    "image": _draw(folder, seen, step + member),
                    "question": quiz.question,
                    "truth": quiz.answer,
                    "answer": seen.answer,
                    "pieces": [*pieces, ""],
                    "rewards": [*([0.0] * len(pieces)), float(rewards[member])],
                    "credit": [worth] * (len(pieces) + 1),
                    "values": None,
                    "ended": True,
                    "reward": float(rewards[member]),
                    "parts": {"facts": float(rewards[member]), "all_facts": float(right[member])},
                    "group": 10 * step + group,
                    "group_size": story.group_size,
                    "drawing_credit": 0.0 if story.second_turn == "truth" else float(credit[member]),
                    "drawing_log_prob": -2.1 + 0.1 * float(rng.standard_normal()),
                }
            )
    _write_json(folder / "samples" / f"step_{step:06}.json", {"step": step, "samples": samples})


def _wrong(quiz: Quiz, seed: int) -> Quiz:
    """Another quiz of the category, with another answer."""
    rng = np.random.default_rng(seed)
    while (other := sample_quiz(rng, quiz.category)).answer in right_answers(quiz):
        pass
    return other


def _draw(folder: Path, quiz: Quiz, seed: int) -> str:
    rng = np.random.default_rng(seed)
    pixels = render(scene_for(quiz, rng), rng)
    name = f"images/{hashlib.sha1(pixels.tobytes()).hexdigest()}.png"
    Image.fromarray(pixels).save(folder / name)
    return name


def _word(right: bool) -> str:
    return "right" if right else "wrong"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))
