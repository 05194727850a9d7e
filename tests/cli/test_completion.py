"""The version, and what a shell completes."""

from __future__ import annotations

import shutil
import subprocess

import pytest

import sightloop
from sightloop.cli import main
from sightloop.cli.completion import SCRIPTS, next_words


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_the_version_is_printed(capsys: pytest.CaptureFixture[str], word: str) -> None:
    main([word])
    assert capsys.readouterr().out == f"sightloop {sightloop.__version__}\n"


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["dr"], ["draw"]),
        (["train", ""], ["vlrm", "grpo", "unirl-grpo", "unirl-sft"]),
        (["evaluate", "clip"], ["clip-recall"]),
        (["train", "vlrm", "--learning"], ["--learning-rate"]),
        (["train", "vlrm", "--algorithm", "sc"], ["scst"]),
        (["draw", "a", "--prompt-f"], ["--prompt-file"]),
        (["caption", "photos/"], []),
        (["nothing", "--x"], []),
    ],
)
def test_the_next_word(typed: list[str], found: list[str]) -> None:
    assert next_words(typed) == found


def test_the_script_of_a_shell_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "bash"])
    script = capsys.readouterr().out
    if bash := shutil.which("bash"):
        subprocess.run([bash, "-n"], input=script, text=True, check=True)
    assert script == f"{SCRIPTS['bash']}\n" and "complete -o default -F _sightloop sightloop" in script
    with pytest.raises(SystemExit):
        main(["completion", "tcsh"])
    assert "fish" in capsys.readouterr().err


def test_what_was_typed_may_hold_anything(capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "words", "train", "vlrm", "--help", "--learning"])
    assert capsys.readouterr().out == "--learning-rate\n"
