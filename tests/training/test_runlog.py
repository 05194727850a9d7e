"""What a run folder holds, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from toy_run import SCHEDULE, experiment_of, run_in

from sightloop.report.run import read_run
from sightloop.training.alarms import Alarm
from sightloop.training.gallery import gallery_samples
from sightloop.training.loop import train
from sightloop.training.run_files import Run
from sightloop.types import Credit, Evaluation, Images, Prompt, Rollout, Tokens, Turn

SHORT = replace(SCHEDULE, steps=5)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_report_reads_what_a_run_writes(tmp_path: Path) -> None:
    train(experiment_of(SHORT), run_in(tmp_path / "run", SHORT))
    run = read_run(tmp_path / "run")
    assert (run.recipe, run.planned_steps, run.finished) == ("toy", 5, True)
    assert list(run.train) == [1, 2, 3, 4, 5]
    assert list(run.evals) == [0, 3, 5]
    assert list(run.galleries) == [5]
    assert list(run.evaluations["held_out"]) == [0, 3, 5]
    assert run.best_step == 5
    wanted = {
        "reward/total", "reward/blue", "tokens/length", "tokens/ended", "tokens/distinct", "advantage/std",
        "critic/explained_variance", "critic/loss", "policy/loss", "policy/probability", "policy/entropy",
        "gradient/norm_policy", "gradient/norm_critic", "learning_rate", "speed/images_per_second",
        "seconds/collect", "seconds/credit", "seconds/update", "memory/peak_gib",
    }  # fmt: skip
    assert run.train[3].keys() == wanted
    environment = run.environment
    assert environment["ranks"] == 1 and environment["versions"]["torch"] == str(torch.__version__)
    sample = run.galleries[5][0]
    assert len(sample.rewards) == len(sample.credit) == len(sample.values) == len(sample.pieces)
    assert (tmp_path / "run" / sample.image).is_file()
    assert sample.source == "image 32"


def test_a_folder_with_anything_in_it_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        ValueError, match=r"is not empty; go on with --resume .*, replace it with --overwrite"
    ):
        run_in(tmp_path)
    with pytest.raises(ValueError, match="is not empty and not a run; --overwrite only replaces runs"):
        Run.create(tmp_path, recipe="toy", config={}, schedule=SHORT, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_overwriting_a_run_removes_it_but_not_its_images(tmp_path: Path) -> None:
    train(experiment_of(SHORT), run_in(tmp_path / "run", SHORT))
    (tmp_path / "run" / "pictures").mkdir()
    (tmp_path / "run" / "pictures" / "0.png").write_bytes(b"picture")
    Run.create(tmp_path / "run", recipe="toy", config={"new": 1}, schedule=SHORT, overwrite=True)
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert left == ["config.json", "environment.json", "pictures"]
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {
        "format": 3,
        "recipe": "toy",
        "config": {"new": 1},
    }
    assert (tmp_path / "run" / "pictures" / "0.png").read_bytes() == b"picture"


def test_what_a_start_that_was_killed_left_behind_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "config.json.partial").write_text("{")
    run_in(tmp_path)
    assert not (tmp_path / "config.json.partial").exists()


def test_there_must_be_a_run_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.json: there is no run to go on with"):
        run_in(tmp_path / "nowhere", resume=True)


def test_each_resume_is_noted_with_its_step(tmp_path: Path) -> None:
    train(experiment_of(SHORT), run_in(tmp_path / "run", SHORT))
    for steps in (6, 7):
        schedule = replace(SHORT, steps=steps)
        train(experiment_of(schedule), run_in(tmp_path / "run", schedule, resume=True))
    noted = json.loads((tmp_path / "run" / "environment.json").read_text())["resumed"]
    assert [(one["step"], one["ranks"]) for one in noted] == [(5, 1), (6, 1)]


def test_what_is_not_a_number_is_null_in_every_file_and_raises_an_alarm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_in(tmp_path / "run", replace(SHORT, best_metric=None))
    run.log(1, "train", {"reward/total": math.nan, "tokens/length": 2.0})
    run.log_evaluation(
        1, "words", Evaluation(metrics={"length": math.inf}, per_sample={"length": [math.nan]})
    )
    (train_line, eval_line) = lines(tmp_path / "run" / "metrics.jsonl")
    assert train_line == {"step": 1, "kind": "train", "reward/total": None, "tokens/length": 2.0}
    assert eval_line == {"step": 1, "kind": "eval", "words/length": None}
    kept = json.loads((tmp_path / "run" / "evaluations" / "words_step_000001.json").read_text())
    assert (kept["metrics"], kept["per_sample"]) == ({"length": None}, {"length": [None]})
    (alarm,) = lines(tmp_path / "run" / "alarms.jsonl")
    assert alarm["message"] == "not a finite number at step 1: reward/total"
    assert "alarm at step 1: not a finite number" in capsys.readouterr().err


def test_an_alarm_goes_to_the_file_and_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_in(tmp_path / "run").alarm(Alarm(step=7, name="words", message="captions are becoming alike"))
    expected = {"step": 7, "name": "words", "message": "captions are becoming alike"}
    assert lines(tmp_path / "run" / "alarms.jsonl") == [expected]
    assert "alarm at step 7: captions are becoming alike" in capsys.readouterr().err


def test_things_are_due_every_so_often_and_at_the_end(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", SHORT)
    assert [step for step in range(1, 6) if run.due(step, 2)] == [2, 4, 5]


def test_evaluated_images_are_copied_small_and_once(tmp_path: Path) -> None:
    Image.new("RGB", (600, 300), (200, 10, 10)).save(tmp_path / "big.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    sources = [
        str(tmp_path / "big.png"),
        str(tmp_path / "broken.png"),
        "shard.tar!0.png",
        str(tmp_path / "big.png"),
    ]
    samples = [{"source": source, "caption": "red"} for source in sources]
    run = run_in(tmp_path / "run", replace(SHORT, best_metric=None))
    run.log_evaluation(0, "words", Evaluation(metrics={"length": 1.0}, samples=samples))
    kept = json.loads((tmp_path / "run" / "evaluations" / "words_step_000000.json").read_text())["samples"]
    assert ["image" in sample for sample in kept] == [True, False, False, True]
    assert kept[0]["image"] == kept[3]["image"]
    with Image.open(tmp_path / "run" / kept[0]["image"]) as copy:
        assert (copy.size, copy.getpixel((0, 0))) == ((256, 128), (200, 10, 10))


def test_a_gallery_shows_the_last_turn_with_its_own_credit(tmp_path: Path) -> None:
    first = Tokens(ids=torch.zeros(1, 2, dtype=torch.long), mask=torch.ones(1, 2, dtype=torch.bool))
    mask = torch.tensor([[True, False, True, False]])
    last = Tokens(ids=torch.zeros(1, 4, dtype=torch.long), mask=mask)
    picture = Images(pixels=torch.full((1, 3, 2, 2), 9, dtype=torch.uint8))
    rollout = Rollout(
        turns=(
            Turn(prompt=Prompt(texts=[""], images=picture), tokens=first),
            Turn(prompt=Prompt(texts=["?"]), tokens=last),
        ),
        rewards=torch.tensor([[0.5, 0.0, 1.5, 0.0]]),
        reward_parts={"right": torch.tensor([2.0])},
        group=torch.tensor([0]),
        pieces=[["yes"]],
        sources=["p.png"],
        values=torch.tensor([[12.0, 13.0, 14.0, 15.0]]),
    )
    numbers = torch.arange(6.0)[None]
    credit = Credit(advantages=numbers, loss_weights=numbers)
    (sample,) = gallery_samples(tmp_path, rollout, credit)
    with Image.open(tmp_path / sample.pop("image")) as kept:
        assert kept.getpixel((1, 1)) == (9, 9, 9)
    assert sample == {
        "source": "p.png",
        "pieces": ["yes", ""],
        "rewards": [0.5, 1.5],
        "credit": [2.0, 4.0],
        "values": [12.0, 14.0],
        "ended": True,
        "parts": {"right": 2.0},
    }


def test_a_gallery_of_bare_tokens_needs_no_text_sources_or_images(tmp_path: Path) -> None:
    mask = torch.ones(20, 1, dtype=torch.bool)
    rollout = Rollout(
        turns=(Turn(prompt=Prompt(texts=[""] * 20), tokens=Tokens(ids=mask.long(), mask=mask)),),
        rewards=mask.float(),
        reward_parts={},
        group=torch.arange(20),
    )
    samples = gallery_samples(tmp_path, rollout, Credit(advantages=mask.float(), loss_weights=mask / 20))
    assert len(samples) == 16
    assert (samples[0]["source"], samples[0]["image"], samples[0]["values"]) == ("", "", None)


def test_every_line_is_on_disk_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", replace(SHORT, best_metric=None))
    for step in (1, 2):
        run.log(step, "train", {"reward/total": 1.0, "tokens/length": 2.0})
        assert len(lines(tmp_path / "run" / "metrics.jsonl")) == step
