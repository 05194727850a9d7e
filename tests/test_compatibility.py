"""What `make compatibility` tries and how it compares; the trial itself is no test."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from benchmarks.compatibility import apart, environments, verdict
from benchmarks.compatibility_walk import lines, steps
from sightloop.cli.app import COMMANDS
from sightloop.recipes.catalog import RECIPES

ROOT = Path(__file__).resolve().parent.parent


def test_both_ends_of_the_allowed_versions_are_tried() -> None:
    made = {environment.name: environment for environment in environments()}
    assert (made["newest"].torch, made["newest"].transformers) == ("", "")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for library, tried in (("torch", made["oldest"].torch), ("transformers", made["oldest"].transformers)):
        (lowest,) = re.findall(rf'"{library}>=([\d.]+),', project)
        assert tried == f"{library}=={lowest}"


def test_every_command_and_every_recipe_is_tried() -> None:
    words = [step.words for step in steps(Path("weights"))]
    # The demos are runs of minutes whose parts are all tried alone; the live page serves until it is ended.
    assert {word[0] for word in words} == set(COMMANDS) - {"demo", "view"}
    assert {word[1] for word in words if word[0] == "train"} == set(RECIPES)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (["a red circle"], ["a red circle"], 0.0),
        (["a red circle"], ["a red cross"], math.inf),
        ([{"reward": 2.0, "steps": 1}], [{"reward": 2.2, "steps": 1}], 0.2 / 2.2),
        ([{"reward": 2.0}], [{"loss": 2.0}], math.inf),
        ([1.0, 2.0], [1.0], math.inf),
        ([math.nan], [math.nan], 0.0),
        ([0.0], [1e-9], 1e-6),
        (["text"], [1.0], math.inf),
    ],
)
def test_results_are_as_far_apart_as_their_numbers_and_texts_not_at_all(
    one: object, other: object, expected: float
) -> None:
    assert apart(one, other) == pytest.approx(expected)


def test_a_verdict_tells_failures_and_other_results() -> None:
    first = {"problem": "", "tells": [1.0]}
    assert verdict({"problem": "exit code 2", "tells": None}, first) == "**failed**"
    assert verdict({"problem": "", "tells": [1.1]}, first) == "**other result**"
    assert verdict({"problem": "", "tells": [1.0001]}, first) == "ok, within 1e-04"
    assert verdict(first, first) == "ok, same"
    assert verdict({"problem": "", "tells": None}, first) == "ok"


def test_the_versions_that_a_protocol_names_are_not_compared() -> None:
    assert lines("R@1 0.5\n  transformers: 5.24.0\n  numpy: 2.4.6\n  hash: 12\n") == ["R@1 0.5"]
