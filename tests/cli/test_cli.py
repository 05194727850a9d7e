"""The command line: help at once, one line for a mistake, exit codes that scripts can rely on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sightloop.cli import main
from sightloop.cli.app import COMMANDS
from sightloop.recipes.catalog import RECIPES

HELPS = [
    *([name, "--help"] for name in COMMANDS),
    *(["train", name, "--help"] for name in RECIPES),
    ["evaluate", "clip-recall", "--help"],
    ["evaluate", "captions", "--help"],
    ["evaluate", "answers", "--help"],
    ["evaluate", "geneval", "--help"],
    ["evaluate", "joint", "--help"],
    ["demo", "unirl", "--help"],
    ["demo", "vlrm", "--help"],
]


def stopped(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, output and errors of a command that ends by itself."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(words)
    printed = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, printed.out, printed.err


def mistake(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command says about a mistake."""
    code, out, err = stopped(words, capsys)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("sightloop: ")
    return err


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_every_command_explains_itself(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = stopped(words, capsys)

    assert (code, err) == (0, "")
    assert f"usage: sightloop {words[0]}" in out


def test_the_first_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["-h"], ["help"], []):
        code, out, _ = stopped(words, capsys)
        assert code == (0 if words else 2)
        assert all(f"  {name} " in out and does in out for name, (_, does) in COMMANDS.items())


@pytest.mark.parametrize(
    ("words", "near"),
    [(["trian"], "train"), (["evaluate", "clip-recal"], "clip-recall"), (["train", "vlmr"], "vlrm")],
)
def test_an_unknown_command_gets_the_nearest_one(
    words: list[str], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = stopped(words, capsys)

    assert (code, out) == (2, "")
    assert f"unknown command {words[-1]!r}; did you mean {near!r}?" in err
    assert "did you mean" not in stopped(["zzz"], capsys)[2]


def test_an_unknown_option_gets_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = stopped(["train", "vlrm", "--gama", "0.9"], capsys)

    assert code == 2
    assert "--gamma" in err


def test_mistakes_are_one_line_with_the_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "preset 'papre' does not exist; there are: shapes" in mistake(
        ["train", "vlrm", "--preset", "papre"], capsys
    )
    assert "config.json" in mistake(["train", "--resume", str(tmp_path / "none")], capsys)
    assert "is not a run folder" in mistake(
        ["export", str(tmp_path), "--output", str(tmp_path / "x")], capsys
    )
    assert str(tmp_path) in mistake(["report", str(tmp_path)], capsys)


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no/such/folder", "no-such-model"])
def test_a_model_that_cannot_be_found_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    wanted = f"{name!r} is neither a folder nor a model that the hub hands out just now; check the spelling"
    picture = tmp_path / "a.png"
    picture.write_bytes(b"")
    run = ["--run", str(tmp_path / "run"), "--images", str(tmp_path)]

    assert wanted in mistake(["caption", str(picture), "--model", name], capsys)
    assert wanted in mistake(["train", "vlrm", "--preset", "shapes", *run, "--model", name], capsys)
    run = ["--run", str(tmp_path / "other"), "--images", str(tmp_path)]
    assert wanted in mistake(["train", "vlrm", "--preset", "shapes", *run, "--judge", name], capsys)


def test_images_of_ones_own_need_a_judge_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "vlrm", "--images", str(tmp_path), "--run", str(tmp_path / "run")]

    assert "judge.model is empty; with images of your own, name" in mistake(words, capsys)


def test_a_folder_that_is_no_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"")
    words = ["caption", str(picture), "--model", str(tmp_path)]

    assert f"{str(tmp_path)!r} is not a model folder" in mistake(words, capsys)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert "without a model_type" in mistake(words, capsys)
    (tmp_path / "metrics.jsonl").write_text("", encoding="utf-8")
    assert "is a run" in mistake(["train", "vlrm", "--plan", "--model", str(tmp_path)], capsys)


def test_the_whole_error_is_there_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLOOP_TRACEBACK", "1")
    with pytest.raises(ValueError, match="does not exist"):
        main(["train", "vlrm", "--preset", "papre"])


def test_help_loads_no_network_library() -> None:
    code = (
        "import sys; from sightloop.cli import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
