"""The plan proposes options with which a run fits a device, and says so if none do."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from sightloop.cli import main
from sightloop.planning.fitting import fitted
from sightloop.planning.summary import plans_of
from sightloop.recipes.catalog import RECIPES
from sightloop.recipes.vlrm.config import SHAPES


def peak(config: Any, num_ranks: int) -> float:
    return plans_of(config, ranks=(num_ranks,))[num_ranks].peak


@pytest.mark.parametrize(("recipe", "num_ranks"), [("vlrm", 1), ("vlrm", 8), ("unirl-grpo", 1)])
def test_what_is_proposed_fits_and_a_little_less_would_not_do(recipe: str, num_ranks: int) -> None:
    config = RECIPES[recipe].presets["shapes"]
    before = peak(config, num_ranks)
    found = fitted(config, before * 0.7 / 0.9, num_ranks=num_ranks)
    assert found.is_enough and found.options
    assert found.peak == pytest.approx(peak(found.config, num_ranks))
    assert found.peak <= before * 0.7 < before
    assert fitted(config, before / 0.89, num_ranks=num_ranks).options == ()
    impossible = fitted(config, before / 1000, num_ranks=num_ranks)
    assert not impossible.is_enough and impossible.peak < found.peak


def test_moments_are_spread_before_anything_is_slower() -> None:
    alone, many = plans_of(SHAPES, ranks=(8,))[8], SHAPES.schedule
    spread = replace(SHAPES, schedule=replace(many, shard_optimizer=True))
    shared = plans_of(spread, ranks=(8,))[8]
    moments = [next(part.size for part in plan.parts if "moments" in part.name) for plan in (alone, shared)]
    assert moments[1] == moments[0] / 8
    assert fitted(SHAPES, 0.98 * alone.peak / 0.9, num_ranks=8).options[0] == "--shard-optimizer"


def test_captions_that_are_contrasted_stay_together() -> None:
    contrasting = RECIPES["vlrm"].presets["shapes-rs"]
    found = fitted(contrasting, 0.001, num_ranks=1)
    assert not [option for option in found.options if option.startswith("--draw-batch")]


def test_the_command_says_with_which_options_it_fits(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "vlrm", "--preset", "shapes", "--plan", "--fit", "0.05 GiB"])
    told = capsys.readouterr().out.splitlines()
    assert "to fit 0.05 GB, 10% of it left to the driver" in told[-3]
    assert re.fullmatch(r"  1 rank   (does not fit, at least )?\d\.\d{3} GiB with --.*", told[-2])
    assert told[-1].startswith("  of 8 ")
    for words, wanted in (
        (["--plan", "--fit", "much"], "--fit is 'much'; give the memory of a device, such as 24GB"),
        (["--fit", "24GB"], "--fit 24GB has no effect without --plan"),
    ):
        with pytest.raises(SystemExit):
            main(["train", "vlrm", "--preset", "shapes", *words])
        assert wanted in capsys.readouterr().err
