"""Names that users of TRL and transformers type are answered with ours, which exist."""

from __future__ import annotations

import re

import pytest
from test_messages import options_of

from sightloop.cli import main
from sightloop.cli.app import COMMANDS as OURS
from sightloop.other_libraries import ANSWERS, COMMANDS, here_called
from sightloop.recipes.catalog import RECIPES

OPTION = re.compile(r"--[a-z][\w.-]*")


def test_there_are_many() -> None:
    assert len(ANSWERS) >= 20


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_answer_names_options_that_the_recipe_has_and_none_is_one_itself(recipe: str) -> None:
    known = options_of(f"train {recipe}") | {"--resume"}
    for name in ANSWERS:
        assert f"--{name.replace('_', '-')}" not in known, name
        assert set(OPTION.findall(here_called(name, recipe))) <= known, name


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["vlrm", "--lr", "1e-5"], "vlrm has no option --lr; here it is --learning-rate"),
        (["vlrm", "--num_generations=4"], "here it is --draw.per-image"),
        (["unirl-grpo", "--beta", "0.1"], "here it is --kl-weight"),
    ],
)
def test_an_option_of_theirs_is_answered(
    capsys: pytest.CaptureFixture[str], words: list[str], answer: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", *words])
    assert ended.value.code == 2
    assert answer in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_of_theirs_is_answered(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit):
        main([name])
    assert f"here it is {COMMANDS[name]!r}" in capsys.readouterr().err
    assert COMMANDS[name].split()[0] in OURS
