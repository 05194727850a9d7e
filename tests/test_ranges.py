"""Every number of every configuration and of every command's options has a range, held when it is made."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sightloop.cli import main
from sightloop.cli.app import ExportOptions, ReportOptions, TrainOptions
from sightloop.cli.demo import DEMOS
from sightloop.cli.doctor import DoctorOptions
from sightloop.cli.evaluate import EVALUATIONS
from sightloop.cli.evaluation_options import CaptionOptions
from sightloop.cli.image_options import AskOptions, ConvertOptions, DrawOptions
from sightloop.cli.view import ViewOptions
from sightloop.ranges import Range, range_of
from sightloop.recipes.catalog import RECIPES
from sightloop.recipes.choices import leaves_of, value_of, with_value

ANY = Path("anything")
MADE: list[Any] = [
    *(recipe.config() for recipe in RECIPES.values()),
    TrainOptions(),
    ReportOptions(run=(ANY,)),
    ViewOptions(run=(ANY,)),
    ExportOptions(run=ANY, output=ANY),
    CaptionOptions(images=()),
    DoctorOptions(),
    DrawOptions(prompt=""),
    AskOptions(image=ANY),
    ConvertOptions(family="show-o", source=ANY, output=ANY),
    *(DEMOS[name]() for name in DEMOS),
    EVALUATIONS["clip-recall"][0](),
    EVALUATIONS["captions"][0](captions=ANY),
    EVALUATIONS["answers"][0](answers=ANY),
    EVALUATIONS["geneval"][0](),
    EVALUATIONS["joint"][0](),
]


def numbers() -> Iterator[tuple[Any, str, str, Range | None]]:
    """Every setting that holds numbers: whose it is, its place, its type, and its range."""
    for made in MADE:
        for leaf in leaves_of(made):
            group, _, name = leaf.rpartition(".")
            kind = type(value_of(made, group)) if group else type(made)
            plain = str(typing.get_type_hints(kind)[name])
            if "int" in plain.replace("Literal", "") or "float" in plain:
                hint = typing.get_type_hints(kind, include_extras=True)[name]
                if "Literal" not in plain:
                    yield made, leaf, plain, range_of(hint)


def test_every_number_has_a_range() -> None:
    found = list(numbers())
    assert len(found) > 120
    assert [f"{type(made).__name__}.{leaf}" for made, leaf, _, allowed in found if allowed is None] == []


def test_numbers_outside_are_refused_by_name_when_they_are_given() -> None:
    wrong: list[str] = []
    for made, leaf, plain, allowed in numbers():
        assert allowed is not None
        ends = [allowed.least - 1, allowed.above, allowed.most + 1]
        beyond = [10**400, 2**63, -(2**63), *(int(end) for end in ends if math.isfinite(end))]
        for number in [math.nan, math.inf, -math.inf, *ends] if "float" in plain else beyond:
            value: Any = (number,) if isinstance(value_of(made, leaf), tuple) else number
            try:
                with_value(made, leaf, value)
            except ValueError as error:
                if f"{leaf.rpartition('.')[2]} is " not in str(error).replace("rounds", "steps").replace(
                    "per-prompt", "number"
                ):
                    wrong.append(f"{leaf}: {error}")
            else:
                wrong.append(f"{type(made).__name__}.{leaf} takes {number}")
    assert wrong == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("train unirl-grpo --kl-weight nan", "--kl-weight is nan; use 0 or more"),
        ("train unirl-grpo --kl-weight -1", "--kl-weight is -1.0; use 0 or more"),
        ("train unirl-grpo --draw.guidance nan", "--draw.guidance is nan"),
        ("train unirl-grpo --quizzes.single-object inf", "--quizzes.single-object is inf"),
        ("train unirl-grpo --draw.rounds 0", "--draw.rounds is 0; use at least 1"),
        (
            "train unirl-grpo --model.lora-rank 100000",
            "--model.lora-rank is 100000; use at least 1",
        ),
        ("train vlrm --draw.temperature nan", "--draw.temperature is nan"),
        ("train vlrm --critic.widths 0", "--critic.widths is (0.0,); use more than 0 and at most 64"),
        ("train vlrm --critic.lora-alpha 0", "--critic.lora-alpha is 0.0; use more than 0"),
        ("train vlrm --held-out.beams 0", "--held-out.beams is 0; use at least 1"),
        ("train vlrm --judge.contrast 0", "--judge.contrast is 0"),
        ("train vlrm --learning-rate 1e6", "--learning-rate is 1000000.0; use more than 0 and at most 1"),
        ("train vlrm --seed 99999999999999999999", "--seed is 99999999999999999999"),
        ("draw x --temperature nan", "--temperature is nan; use 0 or more"),
        ("evaluate joint --per-category -1", "--per-category is -1"),
        ("evaluate geneval --threshold 2", "--threshold is 2.0; use 0 or more and at most 1"),
    ],
)
def test_the_command_line_says_what_to_use(words: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words.split())
    assert end.value.code == 2
    assert told in capsys.readouterr().err


def test_configurations_of_python_and_of_files_are_looked_at_too() -> None:
    vlrm = RECIPES["vlrm"].config
    made = vlrm()
    with pytest.raises(ValueError, match=r"draw\.temperature is nan; use 0 or more"):
        dataclasses.replace(made, draw=dataclasses.replace(made.draw, temperature=math.nan))
