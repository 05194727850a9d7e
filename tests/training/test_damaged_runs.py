"""Damaged, lost and foreign files of a run folder: named, passed over, never taken for what was written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from toy_run import SCHEDULE, ToyPolicy, experiment_of, held_out, run_in, traces

from sightloop.training import checkpoint
from sightloop.training.loop import train
from sightloop.types import Evaluation

# Checkpoints 3 (the best), 8 and 11 are kept.
LONG = replace(SCHEDULE, eval_every=3, save_every=4, keep_checkpoints=2)


def worse(policy: ToyPolicy) -> Evaluation:
    """An evaluation that training makes worse."""
    found = held_out(policy)
    return replace(found, metrics={"blue": -found.metrics["blue"]})


def trained(folder: Path, *, resume: bool) -> None:
    experiment = replace(experiment_of(LONG), evaluators={"held_out": worse})
    train(experiment, run_in(folder, LONG, resume=resume))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    trained(folder, resume=False)
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def resumed(folder: Path) -> None:
    trained(folder, resume=True)


def differing(run: Path, whole: Path) -> set[str]:
    found, expected = traces(run), traces(whole)
    # The run-time check of annotations, which only this process has, draws from Python's generator.
    names = {name for name in found.keys() | expected.keys() if not name.endswith("random.pt")}
    return {name for name in names if found.get(name) != expected.get(name)}


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def zeroed(path: Path) -> None:
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(data[:half] + bytes(64) + data[half + 64 :])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


FILES = ["trainable.safetensors", "optimizer.pt", "random.pt", "state.json", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("hurt", [flipped, zeroed, cut, emptied, Path.unlink])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(
    run: Path, whole: Path, name: str, hurt: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    newest = run / "checkpoints" / "step_000011"
    hurt(newest / name)
    resumed(run)
    told = capsys.readouterr().err
    assert str(newest / name) in told
    assert "the run goes on from the checkpoint before it, of step 8" in told
    assert differing(run, whole) == set()


def test_two_damaged_checkpoints_are_both_passed_over(run: Path, whole: Path) -> None:
    flipped(run / "checkpoints" / "step_000011" / "optimizer.pt")
    shutil.rmtree(run / "checkpoints" / "step_000008")
    (run / "checkpoints" / "step_000008").mkdir()
    resumed(run)
    assert differing(run, whole) == set()


def test_a_run_of_which_no_checkpoint_is_whole_is_refused_and_left_alone(run: Path) -> None:
    for saved in checkpoint.finished_checkpoints(run / "checkpoints"):
        flipped(saved.folder / "trainable.safetensors")
    before = traces(run)
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be used: .*trainable\.safetensors"):
        resumed(run)
    assert traces(run) == before


def test_strange_files_and_folders_are_passed_over(run: Path, whole: Path) -> None:
    checkpoints = run / "checkpoints"
    shutil.copytree(checkpoints / "step_000008", checkpoints / "step_backup")
    shutil.copytree(checkpoints / "step_000008", checkpoints / "step_000099 copy")
    (checkpoints / "step_000009.zip").write_text("zip")
    (checkpoints / "step_000010").write_text("a file")
    (run / "samples" / "notes.json").write_text("{}")
    (run / "evaluations" / "mine.json").write_text("{}")
    resumed(run)
    strange = {"step_backup", "step_000099 copy", "step_000009.zip", "step_000010", "notes.json", "mine.json"}
    assert {name for name in differing(run, whole) if not strange & set(Path(name).parts)} == set()


@pytest.mark.parametrize(
    ("hurt", "told"),
    [
        (lambda lines: [], "lines 1-16 are lost"),
        (lambda lines: lines[-2:], "lines 1-14 are lost"),
        (lambda lines: lines[:4] + lines[5:], "line 5 is lost"),
        (lambda lines: [*lines[:4], lines[4][: len(lines[4]) // 2], *lines[5:]], "line 5 is not what"),
        (lambda lines: [*lines[:4], "\0" * 40, *lines[5:]], "line 5 is not what was written"),
        (lambda lines: [*lines[:4], lines[4].replace("1", "2"), *lines[5:]], "line 5 is not what was"),
        (lambda lines: [*lines[:4], '{"step": 2}', *lines[4:]], "line 5 was not written by the run"),
    ],
)
def test_lost_and_damaged_lines_are_named_and_the_best_checkpoint_stays(
    run: Path,
    whole: Path,
    hurt: Callable[[list[str]], list[str]],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    assert len(lines) == 16
    metrics.write_text("".join(f"{line}\n" for line in hurt(lines)))
    resumed(run)
    said = capsys.readouterr().err
    assert f"{metrics}: {told}" in said and "the choice of the best step go on without it" in said
    assert differing(run, whole) <= {"metrics.jsonl"}
    assert set(metrics.read_text().splitlines()) <= set(lines)


def test_half_of_a_last_line_that_was_saved_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut(run / "metrics.jsonl")
    resumed(run)
    assert f"{run / 'metrics.jsonl'}: line 16 is lost, or cut" in capsys.readouterr().err


def test_a_lost_history_costs_no_best_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = run / "checkpoints"
    assert checkpoint.best_step(checkpoints) == 3
    (run / "metrics.jsonl").unlink()
    (run / "evaluations" / "held_out_step_000003.json").unlink()
    resumed(run)
    assert f"{run / 'metrics.jsonl'} is missing" in capsys.readouterr().err
    assert checkpoint.best_step(checkpoints) == 3 and (checkpoints / "step_000003").is_dir()


@pytest.mark.parametrize("text", ["", "none", "\0\0\0", "12345"])
def test_a_damaged_best_is_found_again(run: Path, whole: Path, text: str) -> None:
    (run / "checkpoints" / "best").write_text(text)
    resumed(run)
    assert differing(run, whole) == set()


def as_in_the_last_release(run: Path) -> None:
    for saved in checkpoint.finished_checkpoints(run / "checkpoints"):
        (saved.folder / "manifest.json").unlink()
        state = json.loads((saved.folder / "state.json").read_text())
        del state["manifest"]
        (saved.folder / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize(
    ("name", "hurt"),
    [("trainable.safetensors", cut), ("optimizer.pt", zeroed), ("random.pt", emptied), ("state.json", cut)],
)
def test_a_run_of_the_last_release_goes_on_and_falls_back_too(
    run: Path, name: str, hurt: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    as_in_the_last_release(run)
    lines = (run / "metrics.jsonl").read_text()
    resumed(run)
    assert str(run / "checkpoints") not in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_text() == lines
    hurt(run / "checkpoints" / "step_000011" / name)
    resumed(run)
    assert str(run / "checkpoints" / "step_000011" / name) in capsys.readouterr().err


def test_lost_lines_of_a_run_of_the_last_release_are_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_in_the_last_release(run)
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    metrics.write_text("\n".join([*lines[:2], '{"kind": "train"}', *lines[6:]]) + "\n")
    resumed(run)
    told = capsys.readouterr().err
    assert f"{metrics}: line 3 cannot be read as a record of a run" in told
    assert f"{metrics}: the lines of the steps 2-4 are lost" in told
