"""Help: an example and the settings that people touch, the rest with --help-all; at most two screens."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any, get_type_hints

import pytest

from sightloop.cli import main
from sightloop.cli.help import ALL, SHORT, TWO_SCREENS, blocks_of
from sightloop.recipes.unirl.config import GrpoConfig, SftConfig

COMMANDS = (
    *("train vlrm", "train unirl-grpo", "train unirl-sft", "demo unirl", "caption", "draw", "ask", "report"),
    *("doctor", "export", "convert", "evaluate clip-recall", "evaluate captions", "evaluate answers"),
    *("evaluate geneval", "evaluate joint"),
)


def printed(command: str, word: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), word])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_two_screens(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(command, "--help", capsys)
    assert text.count("\n") <= TWO_SCREENS
    everything = printed(command, ALL, capsys)
    if command in SHORT:
        assert f"Example: {SHORT[command].example}" in text
        assert f"sightloop {command} {ALL}" in text
        assert set(blocks_of(text.splitlines())) == set(SHORT[command].options)
        assert set(blocks_of(text.splitlines())) < set(blocks_of(everything.splitlines()))
    else:
        assert text == everything


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_sentence(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    bare: list[str] = []
    for option, lines in blocks_of(printed(command, ALL, capsys).splitlines()).items():
        text = re.sub(r"\(default:.*?\)|\(required\)", "", " ".join(line.strip("│ ") for line in lines))
        text = re.sub(r"--[\w.-]+,?|\{[^}]*\}|\b(?:STR|INT|FLOAT|PATH|None)\b|[\[\]|.]", "", text)
        bare += [option] * (len(text.split()) < 2)
    assert not bare


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_name_options_that_the_command_has(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    if command not in SHORT:
        pytest.skip("no example of its own")
    everything = printed(command, ALL, capsys)
    named = set(re.findall(r"--[\w.-]+", SHORT[command].example))
    assert named <= set(re.findall(r"--[a-z][\w.-]*", everything))


def classes_of(config: Any) -> set[Any]:
    """A configuration's class and those of its groups."""
    inner = [hint for hint in get_type_hints(config).values() if dataclasses.is_dataclass(hint)]
    return {config}.union(*(classes_of(each) for each in inner))


def test_citations_belong_to_the_recipes_own_paper(capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = [
        each
        for each in classes_of(GrpoConfig) | classes_of(SftConfig)
        if not each.__module__.startswith("sightloop.recipes.unirl")
    ]
    # UniRL shows settings that others have too: those cite nobody's paper.
    assert elsewhere and [each for each in elsewhere if "paper" in inspect.getsource(each).lower()] == []
    assert "Paper: about 700" in " ".join(printed("train vlrm", ALL, capsys).split())


def test_a_mistyped_name_is_an_error_with_help_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "vlmr", "--help"])
    assert ended.value.code == 2
    assert "did you mean 'vlrm'?" in capsys.readouterr().err
