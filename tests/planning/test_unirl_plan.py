"""The plan of UniRL: counts of the real classes, memory that adds up, FLOPs that follow the settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models.tiny_janus import tiny_model as tiny_janus_model
from models.tiny_janus import tokenizer as janus_tokenizer
from tiny_show_o_folders import CONFIG, official_folder, phi

from sightloop.cli import main
from sightloop.models.janus.checkpoint import write_official_janus
from sightloop.planning.flops import step_flops
from sightloop.planning.networks import networks_of, shapes_in
from sightloop.planning.unirl_plan import memory_plan, parameter_counts
from sightloop.planning.vlrm_plan import GIB, count
from sightloop.recipes.unirl.build import load_policy
from sightloop.recipes.unirl.config import (
    GRPO_JANUS,
    GRPO_SHAPES,
    GRPO_SHAPES_JANUS,
    GRPO_SHOW_O,
    SFT_SHAPES,
    SFT_SHAPES_JANUS,
    AnswerSettings,
    GrpoConfig,
    ObjectiveSettings,
    PolicySettings,
)

FULL = PolicySettings(trained="full")
STARTS: dict[str, GrpoConfig] = {"show-o": GRPO_SHAPES, "janus": GRPO_SHAPES_JANUS}


@pytest.mark.parametrize("family", STARTS)
@pytest.mark.parametrize("trained", ["lora", "full"])
def test_counts_are_those_of_the_loaded_policy(family: str, trained: str) -> None:
    # Without a penalty there is no frozen copy of what full training changes.
    config = replace(STARTS[family], model=replace(FULL, trained=trained), kl_weight=0.0)
    networks = networks_of(config)
    policy = load_policy(config, torch.device("cpu"))

    assert all(parameter.is_meta for parameter in networks.language.parameters())
    assert count(networks.language) == count(policy.model)
    learned = sum(p.numel() for p in policy.trainable_module().parameters() if p.requires_grad)
    assert count(networks.trained) == learned
    held = sum(memory_plan(config, networks).held.values()) * GIB
    moments = 12 * learned
    assert held - moments == pytest.approx(4 * sum(p.numel() for p in policy.parameters()))


def test_the_papers_sizes_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "unirl-grpo", "--preset", "paper", "--plan"])
    show_o = capsys.readouterr().out
    main(["train", "unirl-sft", "--preset", "paper-janus", "--plan"])
    janus = capsys.readouterr().out
    main(["train", "unirl-grpo", "--model", "not/here/Janus-1.3B", "--model.trained", "lora", "--plan"])
    missing = capsys.readouterr().out

    # Counted from the tensors of the published checkpoints; Janus' file has 4.2 GB in half precision.
    assert "1,448,176,770" in show_o and f"{55_439_171 + 39_947_833:,}" in show_o
    assert "Janus 1.3B, the paper's sizes" in janus and "2,076,636,811" in janus
    assert "Janus 1.3B, the paper's sizes" in missing and "adapters off: no memory" in missing


def test_published_costs_of_images_are_found() -> None:
    networks = networks_of(GRPO_SHOW_O, is_paper=True)
    flops = step_flops(GRPO_SHOW_O, networks)
    assert flops["codes to images"] / 24 == pytest.approx(1.205e12, rel=1e-3)
    # 50 guided rounds of 1026 positions through 1.2 billion weights, and attention.
    assert flops["drawing"] / 24 == pytest.approx(50 * 2 * 1026 * 2 * 1.2085e9, rel=0.2)


def test_an_official_folder_tells_its_sizes_without_its_weights_being_loaded(tmp_path: Path) -> None:
    folder = official_folder(tmp_path / "theirs")
    networks = networks_of(replace(GRPO_SHAPES, policy=str(folder)))
    assert count(networks.language) == count(phi())
    assert {name: tuple(shape.shape) for name, shape in shapes_in(folder).items()} == {
        f"showo.{name}": tuple(value.shape) for name, value in phi().state_dict().items()
    }

    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text(json.dumps({**CONFIG, "llm_vocab_size": 50295, "codebook_size": 8192}))
    networks = networks_of(replace(GRPO_SHAPES, policy=str(bare)))
    assert count(networks.language) == 1_448_176_770

    model = tiny_janus_model()
    write_official_janus(model, tmp_path / "janus", tokenizer=janus_tokenizer())
    networks = networks_of(replace(GRPO_SHAPES_JANUS, policy=str(tmp_path / "janus")))
    assert count(networks.language) == count(model)


def test_a_copy_to_compare_with_costs_memory_only_where_all_weights_learn() -> None:
    config = replace(GRPO_SHAPES, kl_weight=0.2)
    networks = networks_of(config)
    assert not [name for name in memory_plan(config, networks).held if name.startswith("reference")]

    full = replace(config, model=FULL)
    networks = networks_of(full)
    trained = 4 * count(networks.trained) / GIB
    copy = "reference: a copy of what is trained"
    assert memory_plan(full, networks).held[copy] == pytest.approx(trained)
    full = replace(full, objectives=ObjectiveSettings(answering=0.0))
    frozen = replace(full, answer=AnswerSettings(answerer="frozen"))
    assert memory_plan(frozen, networks).held[copy] == pytest.approx(2 * trained)
    average = replace(full, answer=AnswerSettings(answerer="average"))
    answerer = "grader: a moving average of what is trained"
    assert memory_plan(average, networks).held[answerer] == pytest.approx(trained)


def test_settings_move_the_figures_they_concern() -> None:
    networks = networks_of(GRPO_SHAPES)
    flops, memory = step_flops(GRPO_SHAPES, networks), memory_plan(GRPO_SHAPES, networks)

    one_side = step_flops(replace(GRPO_SHAPES, objectives=ObjectiveSettings(answering=0.0)), networks)
    assert flops.keys() - one_side.keys() == {"answering, forward and backward"}
    assert sum(
        step_flops(replace(GRPO_SHAPES, prompts=2 * GRPO_SHAPES.prompts), networks).values()
    ) == pytest.approx(2 * sum(flops.values()))
    twice = step_flops(replace(GRPO_SHAPES, method="grpo", updates=2), networks)
    assert twice["drawing, forward and backward"] == 2 * flops["drawing, forward and backward"]
    assert step_flops(replace(GRPO_SHAPES, kl_weight=0.1), networks)["reference"] > 0

    spared = memory_plan(replace(GRPO_SHAPES, gradient_checkpointing=True), networks).passing
    activations = "activations of a micro-batch, both turns"
    assert spared[activations] < memory.passing[activations]
    quarter = memory_plan(GRPO_SHAPES, networks, num_ranks=4)
    assert quarter.held == memory.held
    assert quarter.passing[activations] == pytest.approx(memory.passing[activations] / 4)
    assert memory.peak == pytest.approx(sum(memory.held.values()) + max(memory.passing.values()))


def test_relaxed_training_goes_through_the_images_of_janus_alone() -> None:
    through = "through the drawings, forward and backward"
    assert through in step_flops(SFT_SHAPES_JANUS, networks_of(SFT_SHAPES_JANUS))
    assert through not in step_flops(SFT_SHAPES, networks_of(SFT_SHAPES))


def test_judges_are_counted_and_a_missing_one_is_named() -> None:
    objectives = replace(GRPO_JANUS.joint, detector="", colors="openai/clip-vit-large-patch14")
    config = replace(GRPO_JANUS, joint=objectives)
    networks = networks_of(config, is_paper=True)
    found = parameter_counts(config, networks)
    # Published: 428 million.
    assert found["evaluation: CLIP of colors"] == 427_616_513
    named = replace(objectives, detector="no/such/detector", colors="")
    with pytest.raises(ValueError, match="'no/such/detector' is neither a folder nor"):
        memory_plan(replace(config, joint=named), networks)


def test_what_cannot_be_planned_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ValueError, match="is a run; write its model with"):
        networks_of(replace(GRPO_SHAPES, policy=str(tmp_path)))
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"family": "magvit2"}), encoding="utf-8")
    with pytest.raises(ValueError, match="is magvit2, which cannot draw"):
        networks_of(replace(GRPO_SHAPES, policy=str(tmp_path)))
    assert parameter_counts(GRPO_SHAPES, networks_of(GRPO_SHAPES))["adapters, which learn"] > 0
