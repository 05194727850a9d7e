"""Runs side by side."""

from __future__ import annotations

from pathlib import Path

import pytest
from report.run_files import begin, evaluate

from sightloop.report.compare import compare_runs


def run_with(folder: Path, lengths: list[float], *, image: str = "images/a.png") -> Path:
    """A run evaluated once, on images in a folder of its own."""
    samples = [
        {"source": f"{folder}/pictures/{index}.png", "caption": "a", "image": image}
        for index in range(len(lengths))
    ]
    evaluate(begin(folder), "held_out", 30, per_sample={"length": lengths}, samples=samples)
    return folder


def test_two_runs_on_the_same_images_are_paired(tmp_path: Path) -> None:
    first, second = run_with(tmp_path / "one", [4.0, 6.0]), run_with(tmp_path / "two", [5.0, 7.0])
    lines = compare_runs([first, second]).splitlines()
    assert lines[0].split("  ")[0] == "metric"
    assert "one, step 30" in lines[0] and "two, step 30" in lines[0]
    assert lines[2].split() == ["held_out/length", "5.00", "6.00", "+1.00", "[+1.00,", "+1.00]", "higher"]


def test_two_runs_on_other_images_are_not_paired(tmp_path: Path) -> None:
    first = run_with(tmp_path / "one", [4.0, 6.0])
    second = run_with(tmp_path / "two", [5.0, 7.0], image="images/b.png")
    assert compare_runs([first, second]).splitlines()[2].split() == [
        "held_out/length",
        "5.00",
        "6.00",
        "+1.00",
        "-",
    ]


def test_more_runs_stand_in_columns(tmp_path: Path) -> None:
    folders = [run_with(tmp_path / name, [length]) for name, length in (("a", 4.0), ("b", 5.0), ("c", 12.0))]
    assert compare_runs(folders).splitlines()[2].split() == ["held_out/length", "4.0", "5.0", "12.0"]


def test_a_comparison_needs_two_evaluated_runs(tmp_path: Path) -> None:
    first = run_with(tmp_path / "one", [4.0])
    with pytest.raises(ValueError, match="at least two"):
        compare_runs([first])
    with pytest.raises(ValueError, match="no evaluation yet"):
        compare_runs([first, begin(tmp_path / "two")])
