"""A run that is killed, interrupted or moved goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_run import SCHEDULE, Collector, ToyPolicy, experiment_of, held_out, run_in, traces

from sightloop.training import checkpoint
from sightloop.training.loop import train
from sightloop.training.optimizer import make_optimizer
from sightloop.types import Evaluation

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}


def started(script: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(HERE / script), *words],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def killed(folder: Path, moments: Sequence[str]) -> dict[str, list[str]]:
    out, err = started("killed_runs.py", str(folder), *moments).communicate(timeout=500)
    assert out, err
    found = json.loads(out)
    # Enough happens in a run for the moments to fall into every part of it.
    assert found["events"] > 150
    assert {"metrics.jsonl", "checkpoints/best", "samples/step_000005.json"} <= set(found["files"])
    return found["differences"]


def test_a_killed_run_goes_on_bit_by_bit_as_if_undisturbed(tmp_path: Path) -> None:
    # Before the first checkpoint, within checkpoints, and twice in one run.
    moments = ["8", "38,12", "150"]
    assert killed(tmp_path, moments) == {moment: [] for moment in moments}


@pytest.mark.slow
def test_a_run_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    moments = [str(moment) for moment in range(1, 190, 19)]
    assert killed(tmp_path, moments) == {moment: [] for moment in moments}


def wait_for_lines(path: Path, count: int) -> None:
    for _ in range(600):
        if path.exists() and path.read_text().count("\n") >= count:
            return
        time.sleep(0.05)
    pytest.fail(f"{path} did not get {count} lines")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_run_told_to_stop_saves_says_how_to_go_on_and_ends_well(number: int, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    process = started("toy_run.py", str(folder), "--pause", "0.3")
    wait_for_lines(folder / "metrics.jsonl", 2)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    done = len([line for line in (folder / "metrics.jsonl").read_text().splitlines() if '"train"' in line])
    assert 1 <= done < SCHEDULE.steps
    assert f"stopped after step {done}; go on with: sightloop train --resume {folder}" in err
    assert checkpoint.finished_checkpoints(folder / "checkpoints")[-1].step == done
    train(experiment_of(), run_in(tmp_path / "undisturbed"))
    train(experiment_of(), run_in(folder, resume=True))
    expected, found = traces(tmp_path / "undisturbed"), traces(folder)
    # The run-time check of annotations, which only this process has, draws from Python's generator.
    assert {name for name in expected if found.get(name) != expected[name]} <= {
        name for name in expected if name.endswith("random.pt")
    }


@pytest.mark.slow
def test_a_second_interrupt_ends_the_run_at_once(tmp_path: Path) -> None:
    process = started("toy_run.py", str(tmp_path / "run"), "--pause", "30")
    wait_for_lines(tmp_path / "run" / "metrics.jsonl", 1)
    process.send_signal(signal.SIGINT)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "losing step 1" in err and "Ended: SIGINT" in err


def rigged(*figures: float) -> dict[str, Callable[[ToyPolicy], Evaluation]]:
    rest = iter(figures)
    return {"held_out": lambda policy: replace(held_out(policy), metrics={"blue": next(rest)})}


def test_the_newest_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    schedule = replace(SCHEDULE, steps=9, save_every=2, eval_every=2, keep_checkpoints=2)
    experiment = replace(experiment_of(schedule), evaluators=rigged(0.0, 5.0, 9.0, 1.0, 2.0, 3.0))
    train(experiment, run_in(tmp_path / "run", schedule))
    folder = tmp_path / "run" / "checkpoints"
    assert [saved.step for saved in checkpoint.finished_checkpoints(folder)] == [4, 8, 9]
    assert checkpoint.best_step(folder) == 4
    assert sorted(path.name for path in folder.iterdir()) == [
        "best",
        "step_000004",
        "step_000008",
        "step_000009",
    ]


def test_the_best_evaluation_gets_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    schedule = replace(SCHEDULE, steps=7, save_every=7, eval_every=3, keep_checkpoints=1)
    experiment = replace(experiment_of(schedule), evaluators=rigged(9.0, 1.0, 0.5, 0.2))
    train(experiment, run_in(tmp_path / "run", schedule))
    folder = tmp_path / "run" / "checkpoints"
    # Step 3 is the best that training reached, though the start was better.
    assert [saved.step for saved in checkpoint.finished_checkpoints(folder)] == [3, 7]
    assert checkpoint.best_step(folder) == 3


def test_evaluations_do_not_touch_the_random_numbers_of_training(tmp_path: Path) -> None:
    often, seldom = replace(SCHEDULE, steps=6, eval_every=1), replace(SCHEDULE, steps=6, eval_every=6)
    for schedule in (often, seldom):
        train(experiment_of(schedule), run_in(tmp_path / str(schedule.eval_every), schedule))
    weights = [tmp_path / every / "checkpoints/step_000006/trainable.safetensors" for every in ("1", "6")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_finished_run_can_be_prolonged(tmp_path: Path) -> None:
    short, long = replace(SCHEDULE, steps=4), replace(SCHEDULE, steps=8)
    train(experiment_of(short), run_in(tmp_path / "in two", short))
    train(experiment_of(long), run_in(tmp_path / "in two", long, resume=True))
    train(experiment_of(long), run_in(tmp_path / "in one", long))
    two, one = (
        checkpoint.finished_checkpoints(tmp_path / name / "checkpoints")[-1] for name in ("in two", "in one")
    )
    assert two.step == one.step == 8
    weights = [(saved.folder / "trainable.safetensors").read_bytes() for saved in (one, two)]
    assert weights[0] == weights[1]


def test_a_resumed_finished_run_changes_nothing(tmp_path: Path) -> None:
    train(experiment_of(), run_in(tmp_path / "run"))
    before = traces(tmp_path / "run")
    train(experiment_of(), run_in(tmp_path / "run", resume=True))
    assert traces(tmp_path / "run") == before


def test_half_a_line_that_a_killed_run_left_is_forgotten(tmp_path: Path) -> None:
    short = replace(SCHEDULE, steps=4)
    train(experiment_of(short), run_in(tmp_path / "run", short))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "kind": "tr')
    train(experiment_of(short), run_in(tmp_path / "run", short, resume=True))
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == lines


def test_rates_of_a_resumed_run_follow_the_schedule_in_force(tmp_path: Path) -> None:
    short = replace(SCHEDULE, steps=4)
    train(experiment_of(short), run_in(tmp_path / "run", short))
    slower = replace(short, steps=5, learning_rate=0.001)
    train(experiment_of(slower), run_in(tmp_path / "run", slower, resume=True))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line)["learning_rate"] for line in lines if '"train"' in line]
    assert rates[3:] == [0.05, 0.001]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    short = replace(SCHEDULE, steps=2)
    experiment = experiment_of(short)
    train(experiment, run_in(tmp_path / "run", short))
    (saved,) = checkpoint.finished_checkpoints(tmp_path / "run" / "checkpoints")
    with pytest.raises(ValueError, match=r"2 tensors are in only one of them, as 'policy\.table'"):
        checkpoint.load_trainable(saved.folder, {"policy": torch.nn.Linear(1, 1, bias=False)})
    wider = experiment_of(short).policy
    wider.table = torch.nn.Parameter(torch.zeros(7, 4))
    with pytest.raises(ValueError, match=r"'policy\.table' is \(6, 4\) in .*; the model has \(7, 4\)"):
        checkpoint.load_trainable(saved.folder, {"policy": wider})


def test_loading_weights_alone_restores_them(tmp_path: Path) -> None:
    short = replace(SCHEDULE, steps=3)
    trained = experiment_of(short, collector=Collector(noise=()))
    train(trained, run_in(tmp_path / "run", short))
    (saved,) = checkpoint.finished_checkpoints(tmp_path / "run" / "checkpoints")
    fresh = experiment_of(short)
    assert not torch.equal(fresh.policy.table, trained.policy.table)
    checkpoint.load_trainable(saved.folder, {"policy": fresh.policy})
    assert torch.equal(fresh.policy.table, trained.policy.table)


def test_a_checkpoint_of_another_number_of_ranks_is_gone_on_from(tmp_path: Path) -> None:
    short = replace(SCHEDULE, steps=2)
    experiment = experiment_of(short)
    train(experiment, run_in(tmp_path / "run", short))
    (saved,) = checkpoint.finished_checkpoints(tmp_path / "run" / "checkpoints")
    state = json.loads((saved.folder / "state.json").read_text())
    (saved.folder / "state.json").write_text(json.dumps({**state, "batches": state["batches"] * 2}))
    fresh = experiment_of(short)
    into = checkpoint.Saveable(
        trainable=fresh.trainable,
        optimizer=make_optimizer(fresh.trainable, short),
        batches=fresh.batches,
    )
    checkpoint.read_checkpoint(saved, into)
    assert fresh.batches.state_dict() == experiment.batches.state_dict()
    assert torch.equal(fresh.policy.table, experiment.policy.table)
