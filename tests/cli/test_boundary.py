"""Whatever goes wrong in a command ends in one sentence and an exit code."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

import sightloop
from sightloop.cli import app, main


def ended(
    raising: Callable[[], object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Exit code and last words of a command in which this happens."""
    monkeypatch.setitem(app.COMMANDS, "doctor", (lambda words: raising(), ""))
    monkeypatch.delenv("SIGHTLOOP_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as end:
        main(["doctor"])
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and err.startswith("sightloop: "), err
    assert isinstance(end.value.code, int)
    return end.value.code, err


def raises(error: BaseException) -> Callable[[], object]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b.pt"), "a/b.pt: No space .*; free some space"),
        (OSError(errno.EROFS, "Read-only file system", "ro/x"), "ro/x: Read-only .*; name a place"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "mine.py/x"), "is a file; name a folder"),
        (MemoryError(), r"out of memory \(MemoryError\); use smaller"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory .*2 GiB"),
        (SafetensorError("Error: I/O error: No space left on device (os error 28)"), "could not be written"),
        (
            RuntimeError("inline_container.cc:672 unexpected pos 64"),
            "could not be written",
        ),
        (ModuleNotFoundError("No module named 'wandb'", name="wandb"), "pip install wandb"),
    ],
)
def test_what_the_system_lacks_is_said_with_a_next_step(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = ended(raises(error), monkeypatch, capsys)

    assert code == 2 and re.search(said, err), err


@pytest.mark.parametrize(
    "raising",
    [
        lambda: {}["step"],
        lambda: int("x"),
        lambda: torch.manual_seed(10**30),
        lambda: [].pop(),
        raises(AssertionError()),
        raises(RecursionError("maximum recursion depth exceeded")),
        raises(RuntimeError("two\nlines")),
    ],
)
def test_a_fault_of_our_own_says_so_and_names_the_file_of_its_traceback(
    raising: Callable[[], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, err = ended(raising, monkeypatch, capsys)

    assert code == 1 and "this is a fault of sightloop" in err
    named = re.search(r"the traceback is in (\S+\.txt)", err)
    assert named, err
    text = Path(named[1]).read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in text and "sightloop doctor" in text


def test_arguments_that_are_no_text_are_refused_and_names_of_files_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    with pytest.raises(SystemExit) as end:
        main(["caption", "--prompt", name])
    assert end.value.code == 2 and "'caf\\udce9.png' is not UTF-8 text" in capsys.readouterr().err
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(SystemExit):
        main(["caption", str(tmp_path / name)])
    assert "caf\\udce9.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code"),
    [(["caption", "x.png", "--model", "sightloop/world/weights/captioner"], 2), (["doctor"], 1)],
)
def test_a_library_of_another_build_is_named(words: list[str], code: int, tmp_path: Path) -> None:
    # As torchvision ends beside another torch; transformers loads it as soon as it is installed.
    (tmp_path / "torchvision").mkdir()
    text = 'raise RuntimeError("operator torchvision::nms does not exist")'
    (tmp_path / "torchvision" / "__init__.py").write_text(text)
    (tmp_path / "torchvision-0.28.0.dist-info").mkdir()
    told = "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n"
    (tmp_path / "torchvision-0.28.0.dist-info" / "METADATA").write_text(told)
    paths = os.pathsep.join([str(tmp_path), str(Path(sightloop.__path__[0]).parent)])
    done = subprocess.run(
        [sys.executable, "-m", "sightloop", *words],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=Path(sightloop.__path__[0]).parent,
        capture_output=True,
        text=True,
        check=False,
    )

    said = done.stdout + done.stderr
    assert done.returncode == code and "torchvision::nms does not exist" in said, said
    assert "pip uninstall torchvision" in said and "Traceback" not in said
    assert code == 1 or "sightloop: the library torchvision cannot be loaded" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    words = f"{sys.executable} -m sightloop --help | head -1"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)]
)
def test_a_signal_while_libraries_load_ends_the_command_in_one_line(
    number: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-m", "sightloop", "doctor"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and "libtorch" not in maps.read_text():
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)

    assert process.returncode == code
    assert err in ("sightloop: interrupted\n", f"sightloop: ended by {number.name}\n")
