"""What the terminal says about a run: few figures by plain names, captions, the way to the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from report.run_files import begin
from report.synthetic_drawing_run import DrawingStory, write_drawing_run
from report.synthetic_run import Story, write_run

from sightloop.cli import main
from sightloop.report.run import read_run
from sightloop.report.terminal_summary import NUM_FIGURES, run_summary


def test_few_figures_and_three_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", Story(steps=50, planned=50))
    main(["report", str(folder)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines[: lines.index("")]) == 2 + NUM_FIGURES + 1
    assert lines[2].startswith("R@1  ") and "held_out/" not in "".join(lines)
    captions = [line.split(maxsplit=1)[1] for line in lines if line.startswith("  after")]
    after = [sample["caption"] for sample in read_run(folder).evaluations["held_out"][50].samples]
    assert len(captions) == 3 and captions[0] == after[0] and captions[2] == after[-1]
    assert lines[-1] == f"in the browser: sightloop view {folder}"
    main(["report", str(folder), "--all"])
    assert capsys.readouterr().out.count("held_out/") > NUM_FIGURES


def test_a_run_that_draws_tells_how_many_drawings_changed(tmp_path: Path) -> None:
    folder = write_drawing_run(tmp_path / "run", DrawingStory(steps=50, prompts=6))
    assert "of 24 drawings " in run_summary(folder) and "became right" in run_summary(folder)


def test_a_run_without_an_evaluation_says_so(tmp_path: Path) -> None:
    assert run_summary(begin(tmp_path / "run")) == "run: No training step has been logged yet."
