"""Questions about scenes as rows: JSON lines beside their images, read by the same loader as anyone's."""

from __future__ import annotations

import json
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image

from sightloop.world.quizzes import right_answers, sample_quiz, scene_for
from sightloop.world.scenes import render

ROWS = "rows.jsonl"


def write_rows(folder: Path, *, number: int, seed: int) -> Path:
    """Write `number` rows into `folder` unless they are there: image, prompt, right answers, category."""
    file = folder / ROWS
    if file.exists():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, crc32(folder.name.encode())])
    lines: list[str] = []
    for index in range(number):
        quiz = sample_quiz(rng)
        name = f"{index:05d}.png"
        Image.fromarray(render(scene_for(quiz, rng), rng)).save(folder / name)
        row = {"image": name, "prompt": quiz.question, "reference": right_answers(quiz)}
        lines.append(json.dumps(row | {"category": quiz.category}))
    # The file comes last: a folder without it is unfinished and written again.
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
