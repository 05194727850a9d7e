"""Keywords become the settings that the command line has, under the same names."""

from __future__ import annotations

from typing import Any

import pytest

import sightloop
from sightloop.api.settings import configured, options_of
from sightloop.evaluators.settings import HeldOutSettings
from sightloop.recipes.catalog import RECIPES
from sightloop.recipes.unirl.config import GRPO_JANUS, GRPO_SHAPES
from sightloop.recipes.vlrm.config import PAPER, SHAPES, RewardWeights
from sightloop.rewards.custom import read_names


def test_names_of_options_fields_and_groups_lead_to_the_same() -> None:
    _, config = configured(
        "vlrm",
        settings={
            "steps": 3,
            "learning_rate": 1e-3,
            "judge": "matcher",
            "held_out__limit": 5,
            "critic.lora_rank": 2,
            "draw": {"temperature": 0.5},
        },
    )
    assert config.schedule.steps == 3 and config.schedule.learning_rate == 1e-3
    assert config.judge.model == "matcher" and config.held_out.limit == 5
    assert config.critic.lora_rank == 2 and config.draw.temperature == 0.5
    # All else as the preset has it.
    assert config.batch == SHAPES.batch and config.draw.max_tokens == SHAPES.draw.max_tokens


def test_a_policy_brings_the_papers_settings_and_a_preset_its_own() -> None:
    assert configured("vlrm", settings={"model": "x"})[1].batch == PAPER.batch
    assert configured("vlrm", settings={"policy": "x"}, preset="shapes")[1].batch == SHAPES.batch
    assert configured("unirl-grpo")[1] == GRPO_SHAPES
    assert configured(GRPO_JANUS, settings={"group": 4})[1].group == 4


def test_groups_may_be_dataclasses_and_images_of_an_evaluation_stand_alone() -> None:
    judge = configured(
        "vlrm", settings={"judge": {"model": "x", "contrast": 4}, "rewards": {"retrieval": 1.0}}
    )
    assert judge[1].judge.model == "x" and judge[1].judge.contrast == 4
    held_out = HeldOutSettings(images="a", clip="b")
    assert configured("vlrm", settings={"held_out": held_out})[1].held_out == held_out
    _, config = configured("vlrm", settings={"held_out": "photos/", "held_out__clip": "c"})
    assert (config.held_out.images, config.held_out.clip) == ("photos/", "c")


def test_what_fits_only_together_may_be_given_together() -> None:
    _, config = configured("vlrm", settings={"algorithm": "group", "draw__per_image": 4})
    assert config.algorithm == "group" and config.draw.per_image == 4


def short(completions: list[str], **columns: Any) -> list[float]:
    """A reward as TRL has it."""
    return [-float(len(text)) for text in completions]


def test_rewards_by_name_are_all_that_there_are() -> None:
    rewards = {"similarity": 0.5, "short": short, "long": (short, -0.1), "length": 0.2}
    config = configured("vlrm", rewards=rewards)[1]
    assert config.rewards == RewardWeights(
        similarity=0.5, reference=0.0, missing_end=0.0, bad_phrases=0.0, repeats=0.0
    )
    named = {one.short: one.weight for one in read_names(config.custom_rewards)}
    assert named == {"short": 1.0, "long": -0.1, "length": 0.2}


def test_rewards_may_be_a_function_a_list_of_them_or_the_recipes_weights() -> None:
    for given in (short, [short]):
        assert configured("vlrm", rewards=given)[1].custom_rewards == ("python:short=1.0",)
    assert configured("vlrm", rewards=[short, lambda completions: [0.0]])[1].custom_rewards == (
        "python:short=1.0",
        "python:reward_2=1.0",
    )
    weights = RewardWeights(similarity=2.0)
    assert configured("vlrm", rewards=weights)[1].rewards == weights


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("vlrn", {}, "no recipe 'vlrn'; did you mean 'vlrm'"),
        ("vlrm", {"stepz": 3}, "no setting 'stepz'; did you mean 'steps'"),
        ("vlrm", {"lr": 3}, "no setting 'lr'; here it is learning_rate"),
        ("vlrm", {"num_generations": 3}, "here it is draw__per_image"),
        ("unirl-grpo", {"num_generations": 3}, "here it is group"),
        ("vlrm", {"steps": 0}, "steps is 0; use at least 1"),
        ("vlrm", {"draw": {"heat": 2.0}}, "CaptionSampling has no setting 'heat'"),
        ("vlrm", {"preset": "none"}, "preset 'none' does not exist"),
        ("vlrm", {"rewards": {"similarity": "much"}}, "give a weight, a function"),
        ("vlrm", {"rewards": "short"}, "rewards is 'short'; give names with weights"),
        (3, {}, "3 is no recipe"),
        (SHAPES, {"preset": "paper"}, "has no effect on a configuration that is given whole"),
    ],
)
def test_wrong_settings_are_one_sentence(recipe: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sightloop.train(recipe, run="nowhere", **settings)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_setting_has_the_name_of_its_option(recipe: str) -> None:
    options = options_of(RECIPES[recipe].config)
    assert len(options) > 50
    assert {"steps", "model", "draw.temperature", "custom_rewards"} <= options.keys()
