"""What others wrote reaches the terminal as text: nothing in it moves the cursor or breaks a table."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightloop.cli import main
from sightloop.terminal import one_line, printable, say
from sightloop.world.bundled import WEIGHTS

MODELS = {name: str(WEIGHTS / name) for name in ("captioner", "clip", "judge")}
EVIL = [b"\x1b]0;title\x07\x1b[31mred.png", b"two\nlines\t.png", b"caf\xe9.png", "\u202egnp.exe.png".encode()]
OBEYED = set(map(chr, [*range(9), 11, 12, *range(14, 32), *range(127, 160), 0x202E]))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images whose names are not what one would print."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate(EVIL):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(Path(os.fsdecode(os.fsencode(folder) + b"/" + name)), "PNG")
    return folder


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on both streams, of which no terminal would obey anything."""
    out, err = capsys.readouterr()
    assert not OBEYED & {*out, *err}
    return [*out.splitlines(), *(line for line in err.split("\n") if line and "\r" not in line)]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x07\x9b", r"\x1b[2J\x07\x9b"),
        ("a\r\nb", r"a\r\nb"),
        ("caf\udce9 é 日本\u3000\u00a0", "caf\\udce9 é 日本\u3000\u00a0"),
        ("\u202eb\u2028\u200d", "\\u202eb\\u2028\u200d"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_a_text_keeps_its_lines_and_columns() -> None:
    assert printable("a\tb\n\x1bc\n") == "a\tb\n\\x1bc\n"


def test_letters_without_a_code_are_spelled(monkeypatch: pytest.MonkeyPatch) -> None:
    told = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", told)
    say("é\udce9")
    told.seek(0)
    assert told.read() == "\\xe9\\udce9\n"


def test_captions_are_one_line_an_image_whatever_it_is_called(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--model", MODELS["captioner"], "--beams", "1", "--max-tokens", "4", "--min-tokens", "1"]
    main(["caption", str(images), *few])
    lines = [line.split("\t") for line in printed(capsys)]
    assert sorted(Path(path).name for path, _ in lines) == [
        r"\u202egnp.exe.png",
        r"\x1b]0;title\x07\x1b[31mred.png",
        r"caf\udce9.png",
        r"two\nlines\t.png",
    ]
    file = tmp_path / "captions.jsonl"
    main(["caption", str(images), *few, "--output", str(file)])
    main(["evaluate", "clip-recall", "--captions", str(file), "--clip", MODELS["clip"]])
    assert any(line.startswith("recall@1") for line in printed(capsys))


def test_errors_and_warnings_are_one_line(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for image in images.iterdir():
        image.write_bytes(b"no image")
    few = ["--model", MODELS["captioner"], "--beams", "1", "--max-tokens", "4", "--min-tokens", "1"]
    with pytest.raises(SystemExit):
        main(["caption", str(images), *few])
    (line,) = [line for line in printed(capsys) if line.startswith("sightloop: ")]
    assert (line.count("images") >= 1 and "is broken" in line) or "are broken" in line
    with pytest.raises(SystemExit):
        main(["report", str(images / "\x1b[2J\n")])
    (line,) = printed(capsys)
    assert r"\x1b[2J" in line


def test_a_run_on_such_names_trains_and_is_shown(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run\x1b[2J"
    words = ["train", "vlrm", "--run", str(run), "--images", str(images), "--model", MODELS["captioner"]]
    words += ["--judge", MODELS["judge"], "--steps", "1", "--batch", "4", "--micro-batch", "4"]
    main([*words, "--save-every", "1", "--sample-every", "1", "--dtype", "float32", "--draw-batch", "4"])
    assert printed(capsys)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert not {chr(code) for code in range(9)} & set(page)
    samples = json.loads((run / "samples" / "step_000001.json").read_text())
    assert samples
