"""Images are opened in one way by every command: nothing runs, nothing hangs, what is broken is named."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sightloop.image_files
from sightloop.cli import main
from sightloop.evaluators.image_sheets import drawn_by_run
from sightloop.integrations.answerer import AnswererSettings, Asked, Respondent
from sightloop.training.gallery import copy_image
from sightloop.world.bundled import WEIGHTS

CLIP, CAPTIONER = str(WEIGHTS / "clip"), str(WEIGHTS / "captioner")
GENEVAL = ["evaluate", "geneval", "--detector", "shapes", "--prompt-file", "shapes"]


@pytest.fixture(autouse=True)
def nothing_hangs() -> Iterator[None]:
    """A command that waits for a pipe fails instead."""
    signal.alarm(500)
    yield
    signal.alarm(0)


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a stand-in for Ghostscript writes when it is started."""
    mark, program = tmp_path / "started", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho started >> {mark}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    return mark


def as_eps(path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(path, format="EPS")


def as_postscript(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0\nshowpage\n")


def as_pdf(path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(path, format="PDF")


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


def as_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def as_half(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format="png")
    path.write_bytes(path.read_bytes()[:1000])


def as_folder(path: Path) -> None:
    path.mkdir()


HOSTILE = [as_eps, as_postscript, as_pdf, as_pipe, as_device, as_half, as_folder]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command says about a mistake."""
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sightloop: ")]
    return line


@pytest.mark.parametrize("hostile", HOSTILE)
def test_every_command_refuses_by_name_what_is_no_image(
    hostile: Callable[[Path], None], tmp_path: Path, ghostscript: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    hostile(folder / "bad.png")
    bad = str(folder / "bad.png")
    captions = folder / "captions.jsonl"
    captions.write_text(json.dumps({"image": "bad.png", "caption": "a red circle"}) + "\n")
    if hostile is not as_folder:
        assert "bad.png" in refused(capsys, "caption", str(folder), "--model", CAPTIONER)
    assert "bad.png" in refused(capsys, "ask", bad, "what is it?", "--model", str(WEIGHTS / "show_o"))
    measure = ["evaluate", "clip-recall", "--clip", CLIP]
    assert "bad.png" in refused(capsys, *measure, "--captions", str(captions))
    assert "bad.png" in refused(capsys, "evaluate", "captions", str(captions), "--clip", CLIP)
    assert copy_image(tmp_path, bad) is None
    assert not ghostscript.exists()


@pytest.mark.parametrize("hostile", [as_eps, as_pipe, as_half])
def test_geneval_and_sheets_refuse_it_too(
    hostile: Callable[[Path], None], tmp_path: Path, ghostscript: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = tmp_path / "drawn"
    sample = drawn / "00000" / "samples" / "0000.png"
    sample.parent.mkdir(parents=True)
    prompt = {"tag": "single_object", "prompt": "a photo of a circle"}
    prompt |= {"include": [{"class": "circle", "count": 1}]}  # pyright: ignore[reportOperatorIssue]
    (drawn / "00000" / "metadata.jsonl").write_text(json.dumps(prompt))
    (drawn / "prompts.jsonl").write_text(json.dumps(prompt) + "\n")
    hostile(sample)
    told = refused(
        capsys, *GENEVAL[:4], "--prompt-file", str(drawn / "prompts.jsonl"), "--images", str(drawn)
    )
    assert "00000/samples/0000.png" in told
    told = refused(capsys, "evaluate", "joint", "--fixed", str(drawn), "--per-category", "4")
    assert "0000.png" in told
    run = tmp_path / "run"
    (run / "evaluations").mkdir(parents=True)
    hostile(run / "bad.png")
    samples = [{"image": "bad.png", "source": "x", "category": "single_object", "drawn": "right"}]
    (run / "evaluations" / "joint_step_000000.json").write_text(json.dumps({"samples": samples}))
    with pytest.raises(ValueError, match=r"bad\.png cannot be read"):
        drawn_by_run(run, 0)
    assert not ghostscript.exists()


def test_an_image_that_another_program_opened_is_not_decoded_by_ghostscript(
    tmp_path: Path, ghostscript: Path
) -> None:
    as_eps(tmp_path / "bad.png")
    with Image.open(tmp_path / "bad.png") as opened:
        asked = Asked(picture=opened, question="what is it?")
        for name in ("", CAPTIONER):
            with pytest.raises(ValueError, match="EPS is not a format that is read"):
                Respondent.from_name(name, device="cpu").answers([asked], AnswererSettings())
    assert not ghostscript.exists()


def test_a_file_larger_than_any_image_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sightloop.image_files, "MAX_BYTES", 100)
    (tmp_path / "large.png").write_bytes(bytes(101))
    told = refused(capsys, "caption", str(tmp_path / "large.png"), "--model", CAPTIONER)
    assert "large.png: it has 101 bytes, more than the 100 that are read" in told


@pytest.mark.parametrize("suffix", [".tar", ".parquet"])
def test_a_pipe_among_shards_is_refused(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    words = ["train", "vlrm", "--images", str(tmp_path), "--run", str(tmp_path / "run")]
    words += ["--preset", "shapes", "--model", CAPTIONER, "--judge", str(WEIGHTS / "judge")]
    assert f"pipe{suffix} is no regular file" in refused(capsys, *words)


def test_geneval_takes_jpeg_files_and_passes_hidden_ones_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = tmp_path / "drawn"
    main([*GENEVAL, "--model", "shapes", "--images", str(drawn), "--per-prompt", "1", "--rounds", "1"])
    samples = drawn / "00000" / "samples"
    for name in (".DS_Store", "Thumbs.db", "._0000.png", "desktop.ini"):
        (samples / name).write_bytes(b"nothing")
    copy = tmp_path / "copy"
    shutil.copytree(drawn, copy, ignore=shutil.ignore_patterns("results*"))
    other = copy / "00001" / "samples"
    with Image.open(other / "0000.png") as picture:
        picture.save(other / "0000.JPG", quality=100)
    (other / "0000.png").unlink()
    words = [*GENEVAL[:4], "--prompt-file", str(drawn / "prompts.jsonl"), "--images", str(copy)]
    capsys.readouterr()
    main(words)
    assert "overall" in capsys.readouterr().out.lower()
    (other / "0000.png").write_bytes(b"")
    assert "has the number of" in refused(capsys, *words)
    (other / "0000.png").unlink()
    (other / "notes.txt").write_text("mine")
    assert "notes.txt is not named as an image" in refused(capsys, *words)
