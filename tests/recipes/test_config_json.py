"""Configurations as JSON: every preset comes back as it was, and what does not fit is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sightloop.recipes.catalog import RECIPES
from sightloop.recipes.config_json import config_from_json, config_of_run, config_to_json
from sightloop.recipes.unirl import grpo as unirl_grpo
from sightloop.recipes.unirl.config import SFT_SHAPES, SFT_SHAPES_JANUS, RelaxationSettings, SftConfig
from sightloop.recipes.vlrm import build as vlrm
from sightloop.recipes.vlrm.config import VlrmConfig

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
        ("judge.color", "red", "JudgeSettings has no setting 'color'; there are: model, "),
        ("captioner.lora_rnk", 2, "did you mean 'lora_rank'"),
        ("algorithm", "ppo", "algorithm is 'ppo'; there are: a2c, scst, greedy-baseline, group"),
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


def first_release(config: Any, **relaxation: Any) -> dict[str, Any]:
    """config.json of a run as the first release wrote it."""
    data = config_to_json(config)
    if isinstance(config, SftConfig):
        data["relaxation"] = {"temperature": 1.0, "hard": True, "round": -1, **relaxation}
    else:
        data |= {"objective": "probability", "share": "caption"}
    return json.loads(json.dumps({"recipe": "of no interest", "config": data}))


def test_scst_of_the_first_release_is_still_what_it_was() -> None:
    saved = first_release(VlrmConfig())
    saved["config"]["algorithm"] = "scst"
    config = config_of_run(VlrmConfig, saved)
    assert (config.algorithm, config.objective, config.average_over) == (
        "greedy-baseline",
        "probability",
        "caption",
    )
    assert (
        config_of_run(VlrmConfig, {**saved, "format": 2, "config": {"algorithm": "scst"}}).algorithm == "scst"
    )
    assert config_of_run(VlrmConfig, first_release(VlrmConfig())).algorithm == "a2c"


def test_relaxed_drawings_of_the_first_release_end_with_their_round(tmp_path: Path) -> None:
    last = RelaxationSettings(codes="one-round", round=-1)
    assert config_of_run(SftConfig, first_release(SFT_SHAPES)).relaxation == last
    early = config_of_run(SftConfig, first_release(SFT_SHAPES, round=8, temperature=0.5)).relaxation
    assert early == RelaxationSettings(codes="one-round", round=8, temperature=0.5)
    # A Janus has no rounds: its codes were all relaxed.
    assert config_of_run(SftConfig, first_release(SFT_SHAPES_JANUS)).relaxation == RelaxationSettings()
    (tmp_path / "config.json").write_text('{"model_type": "multi_modality"}')
    of_a_folder = replace(SFT_SHAPES, policy=str(tmp_path))
    assert config_of_run(SftConfig, first_release(of_a_folder)).relaxation == RelaxationSettings()


def test_a_choice_that_does_not_exist_is_refused_in_python_too(tmp_path: Path) -> None:
    wrong: Any = "ppo"
    with pytest.raises(ValueError, match="algorithm is 'ppo'; there are: a2c, scst, greedy-baseline, group"):
        vlrm.build(replace(RECIPES["vlrm"].presets["shapes"], algorithm=wrong), tmp_path)
    preset = RECIPES["unirl-grpo"].presets["shapes"]
    likelihood = replace(preset.likelihood, unmasking=wrong)
    with pytest.raises(ValueError, match="unmasking is 'ppo'; there are: trajectory, subsampled, remasked"):
        unirl_grpo.build(replace(preset, likelihood=likelihood), tmp_path)
    assert not list(tmp_path.iterdir())


def test_scst_has_no_other_objective() -> None:
    with pytest.raises(ValueError, match="objective is 'probability', average_over is None: leave both out"):
        VlrmConfig(algorithm="scst", objective="probability")
