"""What a person sees while a run goes on."""

from __future__ import annotations

import pytest

from sightloop.training.progress import Progress

FIGURES = {"reward/total": 1.234, "tokens/length": 9.87}


def test_without_a_terminal_there_is_one_line_an_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(first=1, steps=10, visible=True)
    for _ in range(5):
        progress.step(FIGURES)
    assert capsys.readouterr().err == ""
    progress.evaluation(5, {"recall@1": 0.5123})
    progress.evaluation(10, {"recall@1": 0.75})
    progress.close()
    assert capsys.readouterr().err.splitlines() == [
        "step 5 of 10: reward 1.23, length 9.9, R@1 0.512, less than a minute left",
        "step 10 of 10: reward 1.23, length 9.9, R@1 0.750",
    ]


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(first=1, steps=10, visible=False)
    progress.step(FIGURES)
    progress.evaluation(5, {"recall@1": 0.5})
    progress.say("finished")
    progress.close()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_terminal_gets_a_bar_with_figures_and_no_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = Progress(first=4, steps=10, visible=True)
    progress.step(FIGURES)
    progress.evaluation(4, {"recall@1": 0.5})
    progress.say("a sentence")
    progress.close()
    shown = capsys.readouterr().err
    assert "4/10" in shown and "reward=1.23" in shown and "R@1=0.500" in shown
    assert "a sentence\n" in shown and "step 4 of 10" not in shown
