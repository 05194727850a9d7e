"""One process trains in a run folder; who ended without a word, here or elsewhere, is told apart."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sightloop.storage import owner
from sightloop.storage.owner import LOCK, InUseError, owned, require_unowned


@contextmanager
def another_process(folder: Path) -> Iterator[int]:
    """A process that trains in the folder until it is killed."""
    ready, say = os.pipe()
    number = os.fork()
    if number == 0:
        with owned(folder):
            os.write(say, b".")
            time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    try:
        yield number
    finally:
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)


def test_a_folder_in_use_is_refused_by_name(tmp_path: Path) -> None:
    with another_process(tmp_path) as number:
        for attempt in (owned(tmp_path).__enter__, lambda: require_unowned(tmp_path)):
            with pytest.raises(InUseError, match=rf"process {number} on .*, which started at 20.* trains in"):
                attempt()
        assert json.loads((tmp_path / LOCK).read_text())["process"] == number


def test_the_lock_of_a_killed_process_is_void(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with another_process(tmp_path) as number:
        pass
    assert (tmp_path / LOCK).exists()
    with owned(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert f"process {number} on" in capsys.readouterr().err
    assert not (tmp_path / LOCK).exists()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the lock of another host."""
    monkeypatch.setattr(owner, "SILENT_SECONDS", 0.5)
    about = {"host": "node17", "process": 4, "started": "2026-01-01 00:00:00 +0000"}
    (tmp_path / LOCK).write_text(json.dumps(about))
    return tmp_path


def test_an_owner_on_another_host_that_gives_no_sign_is_dead(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with owned(elsewhere):
        pass
    said = capsys.readouterr().err
    assert "waiting" in said and "process 4 on node17" in said and "is void" in said


def test_an_owner_on_another_host_that_gives_a_sign_is_alive(elsewhere: Path) -> None:
    beat = threading.Timer(0.1, lambda: os.utime(elsewhere / LOCK))
    beat.start()
    with pytest.raises(InUseError, match="process 4 on node17"), owned(elsewhere):
        pass
    beat.join()
    assert (elsewhere / LOCK).exists()


def test_an_owner_gives_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "BEAT_SECONDS", 0.02)
    with owned(tmp_path):
        os.utime(tmp_path / LOCK, (1.0, 1.0))
        until = time.monotonic() + 10
        while (tmp_path / LOCK).stat().st_mtime == 1.0 and time.monotonic() < until:
            time.sleep(0.02)
        assert (tmp_path / LOCK).stat().st_mtime > 1.0


def test_a_folder_that_took_the_place_of_the_owned_one_keeps_its_lock(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with owned(run):
        run.rename(tmp_path / "aside")
        run.mkdir()
        (run / LOCK).write_text("{}")
    assert (run / LOCK).read_text() == "{}"
