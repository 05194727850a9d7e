"""What may happen around a run: clocks jump, files may not grow, folders go or are read-only."""

from __future__ import annotations

import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_run import SCHEDULE, Collector, experiment_of, run_in, traces

from sightloop.cli import main
from sightloop.process.faults import ending_of
from sightloop.report import page
from sightloop.training.loop import train

YEARS = 30 * 365 * 86400.0


def at_call(number: int, act: Callable[[], object]) -> Collector:
    calls: list[None] = []

    def watch() -> None:
        calls.append(None)
        if len(calls) == number:
            act()

    return Collector(watch=watch)


def differing(one: Path, other: Path) -> set[str]:
    first, second = traces(one), traces(other)
    # The run-time check of annotations draws from Python's generator.
    return {
        name
        for name in first.keys() | second.keys()
        if first.get(name) != second.get(name) and not name.endswith("random.pt")
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    train(experiment_of(), run_in(folder))
    return folder


def test_clocks_that_jump_by_decades_change_nothing(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, now = random.Random(0), time.time
    monkeypatch.setattr(time, "time", lambda: now() + chance.uniform(-YEARS, YEARS))
    # What runs in the background of a shell is started with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(
                experiment_of(collector=at_call(6, lambda: signal.raise_signal(signal.SIGINT))),
                run_in(tmp_path / "run"),
            )
    finally:
        signal.signal(signal.SIGINT, before)
    train(experiment_of(), run_in(tmp_path / "run", resume=True))
    assert differing(undisturbed, tmp_path / "run") == set()


def test_a_limit_of_the_size_of_files_is_one_sentence_and_costs_no_checkpoint(
    undisturbed: Path, tmp_path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))

    try:
        with pytest.raises(Exception) as failed:
            train(experiment_of(collector=at_call(6, limit)), run_in(tmp_path / "run"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    ending = ending_of(failed.value, ["train"])
    assert ending.code == 2 and "fault of sightloop" not in ending.sentence, ending
    assert any((tmp_path / "run" / "checkpoints").glob("step_*"))
    train(experiment_of(), run_in(tmp_path / "run", resume=True))
    assert differing(undisturbed, tmp_path / "run") == set()


def test_a_folder_that_goes_while_a_run_writes_there_is_one_sentence(tmp_path: Path) -> None:
    gone = at_call(6, lambda: shutil.rmtree(tmp_path / "run"))
    with pytest.raises(OSError) as failed:
        train(experiment_of(collector=gone), run_in(tmp_path / "run"))
    ending = ending_of(failed.value, ["train"])
    assert ending.code == 2 and str(tmp_path / "run") in ending.sentence


def test_of_a_run_that_may_not_be_written_to_the_figures_are_told_before_the_page_is_refused(
    undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_given: object, **_how: object) -> None:
        raise OSError(30, "Read-only file system", str(undisturbed / "report.html.tmp"))

    # Permissions hold nobody back who runs the tests as root.
    monkeypatch.setattr(page.Path, "write_text", refuse)
    with pytest.raises(SystemExit) as end:
        main(["report", str(undisturbed)])
    said = capsys.readouterr()
    assert end.value.code == 2 and "step" in said.out
    assert said.err.startswith(f"sightloop: {undisturbed}") and "name a place" in said.err
    assert SCHEDULE.steps
