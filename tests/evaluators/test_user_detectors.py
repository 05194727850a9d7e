"""A detector that is a function in a user's file, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from geneval_painter import paint, some_quizzes

from sightloop.cli import main
from sightloop.evaluators.geneval_options import DetectorOptions
from sightloop.evaluators.open_detector import model_kind, open_judge
from sightloop.planning.image_plan import judges_named
from sightloop.recipes.unirl.config import QuizJudge, QuizRewards, UniConfig

FILE = """
import numpy as np
from sightloop.world.checker import detect

def eyes(images):
    return [
        [{"class": s.name, "box": np.asarray(s.box), "score": np.float32(s.score), "color": s.color}
         for s in detect(np.asarray(image))]
        for image in images
    ]

def told(images, names):
    assert all(names)
    return eyes(images)

def blind(images):
    return []

def broken(images):
    return images[0].color_of
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    quizzes = some_quizzes(1)
    paint(tmp_path / "images", quizzes, per_prompt=1)
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps(quiz.metadata()) for quiz in quizzes))
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path


def evaluate(folder: Path, function: str, *options: str) -> None:
    words = ["evaluate", "geneval", "--images", str(folder / "images"), "--detector"]
    words += [f"{folder / 'mine.py'}:{function}", "--prompt-file", str(folder / "prompts.jsonl")]
    main([*words, *options, "--threshold", "0.8", "--counting-threshold", "0.8", "--detect-batch", "4"])


def test_a_function_in_a_file_sees_the_objects(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(mine, "eyes")
    said = capsys.readouterr().out
    assert "geneval (mine.py:eyes): 6 prompts" in said
    assert next(line for line in said.splitlines() if line.startswith("ov")).split()[:2] == [
        "overall",
        "1.0000",
    ]
    protocol = json.loads((mine / "images" / "results.protocol.json").read_text())["protocol"]
    assert protocol["detector"] == "mine.py:eyes" and len(protocol["detector_source"]) == 12
    # A second call goes on from what was seen, and one that is told the names sees the same.
    evaluate(mine, "eyes")
    evaluate(mine, "told", "--output", str(mine / "told.jsonl"))
    assert (mine / "told.jsonl").read_text() == (mine / "images" / "results.jsonl").read_text()


def test_another_version_of_the_function_does_not_go_on(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(mine, "eyes")
    (mine / "mine.py").write_text(FILE + "\n# changed\n")
    with pytest.raises(SystemExit):
        evaluate(mine, "eyes")
    assert "detector_source" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("blind", "mine.py:blind gave 0 answers for 4 images"),
        ("broken", "mine.py:broken' failed: AttributeError: 'Image' object has no attribute 'color_of'"),
        ("none", "has no 'none'; it holds: detect, eyes, told, blind, broken"),
    ],
)
def test_a_function_that_cannot_be_used_is_named(
    mine: Path, function: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        evaluate(mine, function)
    assert told in capsys.readouterr().err


def test_a_function_is_no_model_to_look_for(mine: Path) -> None:
    name = f"{mine / 'mine.py'}:eyes"
    judge = open_judge(DetectorOptions(detector=name))
    assert judge.rules.threshold == 0.3 and judge.protocol["detector"] == "mine.py:eyes"
    config = UniConfig(rewards=QuizRewards(detector=1.0), judge=QuizJudge(detector=name))
    assert judges_named(config) == {}
    with pytest.raises(ValueError, match="neither a folder nor a model"):
        model_kind(name.replace(":", "/"))
