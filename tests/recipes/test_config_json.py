"""Configurations as JSON: every preset comes back as it was, and what does not fit is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sightloop.recipes.catalog import RECIPES
from sightloop.recipes.config_json import config_from_json, config_to_json
from sightloop.recipes.vlrm_config import VlrmConfig

PRESETS = [(recipe, preset) for recipe, known in RECIPES.items() for preset in known.presets]


@pytest.mark.parametrize(("recipe", "preset"), PRESETS)
def test_every_preset_comes_back_through_a_file(recipe: str, preset: str) -> None:
    config = RECIPES[recipe].presets[preset]
    text = json.dumps(config_to_json(config))

    assert config_from_json(RECIPES[recipe].config, json.loads(text)) == config


def test_presets_differ() -> None:
    texts = {json.dumps(config_to_json(RECIPES[recipe].presets[preset])) for recipe, preset in PRESETS}
    assert len(texts) == len(PRESETS)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The default configuration as plain data with one setting replaced or added."""
    data = config_to_json(VlrmConfig())
    *groups, name = path.split(".")
    place = data
    for group in groups:
        place = place[group]
    place[name] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("gama", 1.0, "VlrmConfig has no setting 'gama'; did you mean 'gamma'"),
        ("judge.colour", "red", "JudgeSettings has no setting 'colour'; there are: model, "),
        ("captioner.lora_rnk", 2, "did you mean 'lora_rank'"),
        ("algorithm", "ppo", "algorithm is 'ppo'; there are: a2c, scst, group"),
        ("batch", "64", "batch is '64'; it must be int"),
        ("batch", True, "batch is True; it must be int"),
        ("keep_features", 1, "keep_features is 1; it must be bool"),
        ("schedule.steps", 0, "steps is 0; use at least 1"),
        ("batch", 1, "batch is 1; the advantages"),
    ],
)
def test_what_does_not_fit_is_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_from_json(VlrmConfig, changed(path, value))


def test_json_knows_neither_tuples_nor_whole_floats() -> None:
    data = changed("critic.widths", [2, 4])
    data["captioner"] |= {"lora_targets": ["q_proj"], "lora_alpha": 8, "image_size": None}
    config = config_from_json(VlrmConfig, data)

    assert config.critic.widths == (2.0, 4.0)
    assert config.captioner.lora_targets == ("q_proj",)
    assert config.captioner.lora_alpha == 8.0
    assert isinstance(config.captioner.lora_alpha, float)
    assert config_from_json(VlrmConfig, {}) == VlrmConfig()
