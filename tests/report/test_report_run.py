"""Reading run folders: finished, running, resumed, damaged."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from report.run_files import begin, evaluate, gallery_sample, log, samples_of, show

from sightloop.report.run import read_run, run_image

PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR"


def test_a_run_that_has_just_started_is_empty(tmp_path: Path) -> None:
    run = read_run(begin(tmp_path / "run", steps=20))
    assert (run.name, run.recipe, run.last_step, run.planned_steps) == ("run", "vlrm", 0, 20)
    assert not run.finished
    assert (run.train, run.evals, run.galleries, run.evaluations, run.alarms) == ({}, {}, {}, {}, [])


def test_a_resumed_run_keeps_what_was_logged_last(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    log(folder, "train", {1: {"a": 1.0}, 2: {"a": 2.0}, 3: {"a": 3.0}})
    log(folder, "train", {2: {"a": 20.0}})
    assert read_run(folder).train == {1: {"a": 1.0}, 2: {"a": 20.0}, 3: {"a": 3.0}}


def test_records_of_one_evaluation_step_are_joined(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    log(folder, "eval", {0: {"recall/mrr": 0.5}})
    log(folder, "eval", {0: {"captions/length": 6.0}})
    evaluate(folder, "truth", 0, per_sample={"precision": [1.0, 0.0]}, samples=samples_of(["a", "b"]))
    assert read_run(folder).evals == {0: {"truth/precision": 0.5, "recall/mrr": 0.5, "captions/length": 6.0}}


def test_a_last_line_that_is_still_being_written_is_left_for_later(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    log(folder, "train", {1: {"a": 1.0}})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "ki')
    assert list(read_run(folder).train) == [1]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    (folder / "metrics.jsonl").write_text('{"step": 1,\n{"step": 2, "kind": "train"}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl line 1 is not JSON"):
        read_run(folder)


def test_null_reads_as_not_a_number(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    log(folder, "train", {1: {"a": None}})
    assert math.isnan(read_run(folder).train[1]["a"])


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run folder at"):
        read_run(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"neither config\.json nor metrics\.jsonl"):
        read_run(tmp_path)


def test_an_evaluation_without_a_step_in_its_name_is_refused(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    (folder / "evaluations").mkdir()
    (folder / "evaluations" / "recall.json").write_text("{}")
    with pytest.raises(ValueError, match="EVALUATOR_step_NUMBER"):
        read_run(folder)


def test_the_best_step_is_read_from_a_file_or_a_link(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    (folder / "checkpoints" / "step_000070").mkdir(parents=True)
    best = folder / "checkpoints" / "best"
    best.write_text("step_000150\n")
    assert read_run(folder).best_step == 150
    best.unlink()
    best.symlink_to("step_000070")
    assert read_run(folder).best_step == 70


def test_a_gallery_without_a_critic_has_no_values(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    show(folder, 40, [gallery_sample(["a"], [0.0, 1.0], [0.5, -0.5])])
    (sample,) = read_run(folder).galleries[40]
    assert (sample.pieces, sample.credit, sample.values) == (["a"], [0.5, -0.5], [])


def test_only_images_of_the_run_travel_with_the_page(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run")
    for path in (tmp_path / "outside.png", folder / "small.png"):
        path.write_bytes(PNG + (64).to_bytes(4, "big") + (48).to_bytes(4, "big"))
    (folder / "large.png").write_bytes(PNG + (65).to_bytes(4, "big") + (48).to_bytes(4, "big"))
    (folder / "text.png").write_text("no image")
    run = read_run(folder)
    assert run_image(run, "../outside.png") is None
    assert run_image(run, str(tmp_path / "outside.png")) is None
    assert run_image(run, "missing.png") is None
    assert run_image(run, "text.png") is None
    assert run_image(run, "") is None
    small, large = run_image(run, "small.png"), run_image(run, "large.png")
    assert small is not None and small.is_tiny and small.uri.startswith("data:image/png;base64,iVBOR")
    assert large is not None and not large.is_tiny
