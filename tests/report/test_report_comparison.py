"""Several runs on one page: the same images beside each other, curves in one chart, what differs said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report.parsed_page import Page
from report.run_files import begin, evaluate, log, samples_of
from report.synthetic_run import Story, write_run

from sightloop.cli import main
from sightloop.report.comparison import run_names, write_comparison
from sightloop.report.run import read_run


def small(folder: Path, captions: list[str], *, steps: int = 4) -> Path:
    """A run with two evaluated captions."""
    begin(folder, steps=steps)
    log(folder, "train", {step: {"reward/total": float(step)} for step in range(1, steps + 1)})
    for step in (0, steps):
        evaluate(folder, "held_out", step, per_sample={"recall@1": [0.0, 1.0]}, samples=samples_of(captions))
    return folder


def test_two_runs_show_the_same_images_with_both_captions(tmp_path: Path) -> None:
    folders = [
        small(tmp_path / "a", ["a cat", "a dog"]),
        small(tmp_path / "b", ["a lynx", "a wolf"], steps=8),
    ]
    page = Page(write_comparison(folders, tmp_path / "both.html").read_text(encoding="utf-8"))
    assert all(caption in page.text for caption in ("a cat", "a dog", "a lynx", "a wolf"))
    assert len(page.all("path", "run0")) == len(page.all("path", "run1")) == 2
    assert "schedule.steps" in page.text
    assert not [each for each in page.all("script") if each.get("src")]


def test_runs_of_other_images_are_not_compared_on_them(tmp_path: Path) -> None:
    folders = [small(tmp_path / "a", ["a cat", "a dog"]), small(tmp_path / "b", ["a cat"] * 2)]
    path = folders[1] / "evaluations" / "held_out_step_000004.json"
    path.write_text(path.read_text().replace("1.png", "7.png"))
    page = Page(write_comparison(folders, tmp_path / "both.html").read_text(encoding="utf-8"))
    assert "not evaluated on the same images" in page.text


def test_a_run_keeps_its_color_where_another_has_no_curve(tmp_path: Path) -> None:
    folders = [small(tmp_path / "a", ["a cat", "a dog"]), small(tmp_path / "b", ["a lynx", "a wolf"])]
    log(folders[1], "train", {step: {"reward/own": float(step)} for step in range(1, 5)})
    page = Page(write_comparison(folders, tmp_path / "both.html").read_text(encoding="utf-8"))
    assert len(page.all("path", "run0")) + 1 == len(page.all("path", "run1"))


def test_evaluations_that_were_not_made_alike_are_told(tmp_path: Path) -> None:
    folders = [small(tmp_path / "a", ["a cat", "a dog"]), small(tmp_path / "b", ["a lynx", "a wolf"])]
    for folder, beams in zip(folders, ("1", "5"), strict=True):
        path = folder / "evaluations" / "held_out_step_000004.json"
        record = json.loads(path.read_text()) | {"protocol": {"beams": beams, "ties": "optimistic"}}
        path.write_text(json.dumps(record))
    page = Page(write_comparison(folders, tmp_path / "both.html").read_text(encoding="utf-8"))
    assert "Held out was not measured alike, so compare with care: beams (1 and 5)." in page.text


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    runs = [read_run(begin(tmp_path / above / "run")) for above in ("a", "b")]
    assert run_names(runs) == ["a/run", "b/run"]
    assert run_names(runs[:1]) == ["run"]


def test_the_command_writes_the_page_and_prints_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(write_run(tmp_path / name, Story(steps=50, planned=50))) for name in ("a", "b")]
    main(["report", *folders])
    printed = capsys.readouterr().out
    assert "a, step 50" in printed and "b, step 50" in printed
    assert f"comparison: {tmp_path / 'comparison.html'}" in printed
    assert (tmp_path / "comparison.html").is_file()
