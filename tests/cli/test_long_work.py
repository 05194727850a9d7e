"""Commands say what they are at where it takes long, on the error stream alone."""

from __future__ import annotations

import time

import pytest

from sightloop.cli import app, main
from sightloop.process import long_work
from sightloop.process.long_work import LongWork, at_work, counted, how_far, speaks_itself
from sightloop.terminal import say
from sightloop.training.progress import Progress


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_work, "FIRST_SECONDS", 0.02)
    monkeypatch.setattr(long_work, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(app, "COMMANDS", app.COMMANDS | {"doctor": (long_command, "")})


def long_command(_words: list[str]) -> None:
    with at_work("loading big-model"):
        time.sleep(0.3)
    for number in counted(range(4), "captions", total=4, unit="images"):
        time.sleep(0.1)
        say(f"image {number}")


def test_without_a_terminal_there_are_lines_and_results_stay_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_work, "LOG_SECONDS", 0.15)
    main(["doctor"])
    said = capsys.readouterr()
    assert said.out == "image 0\nimage 1\nimage 2\nimage 3\n"
    first, *others = said.err.splitlines()
    assert first == "loading big-model: 0 s so far"
    assert any(line.startswith("captions: 2 of 4 images, 0 s, about 0 s left") for line in others), others
    assert "\r" not in said.err


def test_an_error_among_what_is_counted_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []

    def fail(_words: list[str]) -> None:
        kept.append(counted(range(4), "captions", total=4, unit="images"))
        next(kept[0])
        raise ValueError("no such image")

    monkeypatch.setattr(app, "COMMANDS", app.COMMANDS | {"doctor": (fail, "")})
    with pytest.raises(SystemExit):
        main(["doctor"])
    kept.pop().close()
    assert capsys.readouterr().err.splitlines()[-1] == "sightloop: no such image"


def test_on_a_terminal_one_line_is_written_again_and_gone_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    main(["doctor"])
    said = capsys.readouterr()
    assert said.out == "image 0\nimage 1\nimage 2\nimage 3\n"
    assert "captions: [##########..........] 2 of 4 images" in said.err
    assert "\n" not in said.err and said.err.endswith("\r\x1b[K")


def test_training_tells_of_itself_and_how_far_an_evaluation_is(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(first=1, steps=2, visible=True)
    progress.working("step 0, evaluation held_out")
    with speaks_itself():
        for _ in counted(range(2), "drawn", total=2, unit="images"):
            time.sleep(0.1)
            assert "of 2 images" in how_far()
    progress.close()
    assert capsys.readouterr().err == ""


def test_the_time_left_is_that_of_what_is_left() -> None:
    work = LongWork("captions", 500, "images", 0)
    work._since -= 60
    work.advance(100)
    assert work.sentence() == "captions: 100 of 500 images, 60 s, about 4 min left"
    unknown = LongWork("captions", 0, "images", 0)
    unknown.advance(32)
    assert unknown.sentence() == "captions: 32 images, 0 s so far"
