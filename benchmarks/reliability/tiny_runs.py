"""The smallest runs of every recipe on the bundled models, as words of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sightloop.world.bundled import WEIGHTS
from sightloop.world.image_folder import write_images
from sightloop.world.quizzes import sample_quiz

_QUIZZES = ("--batch", "2", "--group", "2", "--micro-batch", "2", "--log-every-seconds", "600")
_ROUNDS = ("--draw.rounds", "2")
_ONE_PASS = ("--micro-batch", "4")
RECIPES: dict[str, tuple[str, ...]] = {
    "a2c": ("vlrm", "shapes"),
    "scst": ("vlrm", "shapes", "--algorithm", "scst"),
    "group": ("vlrm", "shapes", "--algorithm", "group", "--draw.per-image", "2"),
    "rs": ("vlrm", "shapes-rs"),
    "grpo show-o": ("unirl-grpo", "shapes", *_ROUNDS),
    "grpo janus": ("unirl-grpo", "shapes-janus"),
    "sft show-o": ("unirl-sft", "shapes", *_ROUNDS, *_ONE_PASS),
    "sft janus": ("unirl-sft", "shapes-janus", *_ONE_PASS),
    "grpo show-o, 2 updates": ("unirl-grpo", "shapes", *_ROUNDS, "--algorithm", "grpo", "--updates", "2"),
    "grpo janus, averaged grader": (
        "unirl-grpo",
        "shapes-janus",
        "--answer.answerer",
        "average",
        "--objectives.answering",
        "0",
    ),
}


def some_quizzes(number: int) -> list[dict[str, Any]]:
    """Lines of a file of quizzes."""
    rng = np.random.default_rng(0)
    return [
        {**quiz.metadata(), "question": quiz.question, "answer": quiz.answer}
        for quiz in (sample_quiz(rng, "colors") for _ in range(number))
    ]


def make_images(place: Path) -> None:
    """The few images that all runs below are trained and evaluated on, and the quiz of the others."""
    (place / "quiz.jsonl").write_text(json.dumps(some_quizzes(1)[0]))
    write_images(place / "images", number=8, seed=0)
    write_images(place / "held_out", number=4, seed=1)


def train_words(recipe: str, place: Path, run: Path) -> list[str]:
    """`sightloop train ...` of a recipe with the images in `place`, without its schedule."""
    name, preset, *rest = RECIPES[recipe]
    words = ["train", name, "--preset", preset, "--run", str(run)]
    if name != "vlrm":
        evaluated = ("--joint.quiz-file", str(place / "quiz.jsonl"))
        return [*words, *_QUIZZES, *evaluated, *rest]
    words += ["--model", str(WEIGHTS / "captioner"), "--judge", str(WEIGHTS / "judge")]
    words += ["--images", str(place / "images"), "--held-out.images", str(place / "held_out")]
    words += ["--held-out.clip", str(WEIGHTS / "clip"), "--held-out.max-tokens", "4"]
    if preset == "shapes-rs":
        words += ["--judge.retrieval-clip", str(WEIGHTS / "clip_retrieval")]
    words += [
        "--batch",
        "4",
        "--micro-batch",
        "2",
        "--draw.max-tokens",
        "4",
        "--log-every-seconds",
        "600",
    ]
    return [*words, *rest]
