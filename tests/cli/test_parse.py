"""What is wrong with the words of a command is one line: the option, the value, what to use."""

from __future__ import annotations

import ast
import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from cli.test_cli import mistake

import sightloop
from sightloop.cli.app import ExportOptions
from sightloop.cli.parse import parsed

WRONG = {
    "train vlrm --steps -3": "--steps is -3; use at least 1",
    "train vlrm --draw.temperature=-1": "--draw.temperature is -1.0; use 0 or more",
    "train vlrm --steps many": "--steps is 'many'; use a whole number",
    "train vlrm --learning-rate nan": "--learning-rate is nan; use more than 0 and at most 1",
    "train unirl-grpo --learning-rate it's": '--learning-rate is "it\'s"; use a number',
    "train vlrm --average-over word": "--average-over is 'word'; use caption or token or None",
    "train vlrm --data.images": "--data.images has no value",
    "train vlrm --run": "--run has no value",
    "train vlrm --resume": "--resume has no value",
    "train unirl-sft --stps 3 --zzz 4": "there is no option --stps nor --zzz (perhaps --steps)",
    "train vlrm --overwrite=maybe": "there is no place for 'maybe'",
    "caption image.png --beams 0": "--beams is 0; use at least 1",
    "caption image.png --beams x": "--beams is 'x'; use a whole number or None",
    "draw circle --guidance -4": "--guidance is -4.0; use 0 or more",
    "draw circle --dtype int8": "--dtype is 'int8'; use bfloat16 or float16 or float32",
    "ask image.png what --max-tokens=0": "--max-tokens is 0; use at least 1",
    "convert show-o": "not given: ",
    "evaluate captions": "not given: file of captions",
    "evaluate joint --seed -1": "--seed is -1; use 0 or more",
    "evaluate geneval --images": "--images has no value",
    "demo vlrm --fast": "there is no option --fast",
    "doctor --recipe vlrm --steps many": "--steps is 'many'; use a whole number",
    "report": "not given: ",
    "export --form tensor": "--form is 'tensor'; use folder or merged or tensors",
    "export runs/first --outpu there": "there is no option --outpu",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_mistake_in_the_words_is_one_line(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert mistake(words.split(), capsys).startswith(f"sightloop: {WRONG[words]}")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_mistake_is_told_alike_on_every_terminal(encoding: str) -> None:
    wanted = {
        "run --outpu x": "there is no option --outpu (perhaps --output); ",
        "--outpu x": "RUN is not given, or one of these is mistyped: --outpu; ",
        "run --form tensor --output x": "--form is 'tensor'; use ",
        "run --output x other": "there is no place for 'other'; ",
    }
    with redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding=encoding)):
        for words, sentence in wanted.items():
            with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
                parsed(ExportOptions, args=words.split(), prog="sightloop export")


def test_a_narrow_terminal_breaks_no_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    value = "x" * 100
    assert mistake(["train", "vlrm", "--steps", value], capsys).count(value) == 1


def test_words_are_read_in_one_place() -> None:
    package = Path(sightloop.__file__).parent
    calls = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "tyro.cli"
    }
    assert calls == {"cli/parse.py"}
