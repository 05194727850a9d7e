"""A reward that can be hacked, trained on alone: the judge that only watches notices."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from sightloop.cli import main
from sightloop.recipes.catalog import RECIPES
from sightloop.recipes.vlrm import build as vlrm
from sightloop.runs.restore import saved_step

NO_OTHER_REWARD = [
    word
    for name in ("similarity", "reference", "missing-end", "bad-phrases", "repeats")
    for word in (f"--rewards.{name}", "0")
]
FAST = ["--learning-rate", "1e-3", "--batch", "64"]
SHORT = ["--steps", "20", "--eval-every", "4", "--save-every", "10", "--held-out.limit", "60"]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_length_as_the_only_reward_raises_the_alarm_and_the_best_checkpoint_is_from_before_the_fall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vlrm, "NUM_SCENES", 512)
    run = tmp_path / "run"
    reward = ["--custom-rewards", "length=1", *NO_OTHER_REWARD]
    main(["train", "vlrm", "--run", str(run), *FAST, *SHORT, *reward])

    records = lines_of(run / "metrics.jsonl")
    earned = [record["reward/total"] for record in records if record["kind"] == "train"]
    recall = {r["step"]: r["held_out/recall@1"] for r in records if r["kind"] == "eval"}
    best = max((step for step in recall if step), key=lambda step: (recall[step], step))
    assert fmean(earned[-4:]) > 1.5 * fmean(earned[:4])
    assert 0 < best < 20 and recall[20] < recall[best] - 0.1
    assert records[-1]["held_out/precision"] < 0.8

    (alarm,) = [line for line in lines_of(run / "alarms.jsonl") if line["name"] == "hacking"]
    assert best < alarm["step"] <= 20
    assert "while held_out/recall@1 fell from" in alarm["message"]
    kept = saved_step(run, "best")
    assert kept.step == best and (kept.folder / "trainable.safetensors").is_file()

    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Trained on: length (weight 1)." in page
    assert "Only watched, never trained on: held out, whose figure “R@1” keeps the best checkpoint" in page
    assert alarm["message"][1:60] in page


@pytest.mark.parametrize(
    ("recipe", "watched"),
    [("vlrm", "held_out/recall@1"), ("unirl-grpo", "joint/drawn"), ("unirl-sft", "joint/drawn")],
)
def test_every_preset_of_a_recipe_keeps_the_best_by_the_judge_that_watches(recipe: str, watched: str) -> None:
    presets = RECIPES[recipe].presets
    assert len(presets) >= 2
    assert {preset.schedule.best_metric for preset in presets.values()} == {watched}
