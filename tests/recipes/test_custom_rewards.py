"""A function in a file of one's own, named on the command line, trains a captioner."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sightloop.cli import main
from sightloop.recipes.vlrm import build as vlrm

FILE = """
def long(prompts, completions, **columns):
    return [len(text) for text in completions]

def warm(images, prompts):
    return [image.resize((1, 1)).getpixel((0, 0))[0] / 255 for image in images]

def broken(completions, **columns):
    return [float("nan")] * len(completions)
"""
SMALL = ["--batch", "4", "--steps", "1", "--held-out.limit", "4", "--algorithm", "group"]
ONE_IMAGE_TWICE = ["--draw.per-image", "2", "--rewards.similarity", "0", "--rewards.reference", "0"]


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vlrm, "NUM_SCENES", 4)


def train(folder: Path, *named: str) -> None:
    (folder / "mine.py").write_text(FILE)
    rewards = [f"{folder / 'mine.py'}:{each}" for each in named]
    main(
        [
            "train",
            "vlrm",
            "--run",
            str(folder / "run"),
            *SMALL,
            *ONE_IMAGE_TWICE,
            "--custom-rewards",
            *rewards,
        ]
    )


def test_functions_of_ones_own_are_rewards_of_the_run(tmp_path: Path) -> None:
    train(tmp_path, "long=0.01", "warm=0")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    step = next(record for line in lines if (record := json.loads(line)).get("reward/long"))
    assert step["reward/long"] > 1 and 0 < step["reward/warm"] < 1
    assert {"reward/repeats", "reward/missing_end"} <= step.keys()
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["config"]["custom_rewards"]
    assert [text.rpartition(":")[2] for text in saved] == ["long=0.01", "warm=0"]


def test_a_reward_that_is_no_number_stops_the_run_with_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train(tmp_path, "broken")
    said = capsys.readouterr().err
    assert "mine.py:broken' says nan about" in said and ".png, text" in said


def test_a_reward_that_does_not_exist_is_refused_before_anything_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train(tmp_path, "longer=2")
    assert "has no 'longer'; it holds: long, warm, broken" in capsys.readouterr().err
