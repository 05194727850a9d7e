"""The plan of UniRL: counts of the real classes, memory that adds up, FLOPs that follow the settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models.tiny_janus import tiny_model as tiny_janus_model
from models.tiny_janus import tokenizer as janus_tokenizer
from tiny_show_o_folders import CONFIG, official_folder, phi

from sightloop.cli import main
from sightloop.models.janus.checkpoint import write_official_janus
from sightloop.planning.counting import count
from sightloop.planning.image_plan import ImagePlan
from sightloop.planning.networks import networks_of, shapes_in
from sightloop.planning.resources import GIB, Plan
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
    UniConfig,
)

FULL = PolicySettings(trained="full")
STARTS: dict[str, GrpoConfig] = {"show-o": GRPO_SHAPES, "janus": GRPO_SHAPES_JANUS}


def sizes(plan: Plan) -> dict[str, float]:
    return {part.name: part.size for part in plan.parts}


def flops(plan: Plan) -> dict[str, float]:
    return {work.name: work.flops for work in plan.works}


def planned(config: UniConfig, num_ranks: int = 1) -> Plan:
    return ImagePlan(config).plan(num_ranks)


@pytest.mark.parametrize("family", STARTS)
@pytest.mark.parametrize("trained", ["lora", "full"])
def test_counts_are_those_of_the_loaded_policy(family: str, trained: str) -> None:
    # Without a penalty there is no frozen copy of what full training changes.
    config = replace(STARTS[family], model=replace(FULL, trained=trained), kl_weight=0.0)
    plan = planned(config)
    policy: Any = load_policy(config, torch.device("cpu"))
    number = sum(p.numel() for p in policy.model.parameters())
    assert next(iter(plan.parameters.values())) == number
    learned = sum(p.numel() for p in policy.trainable_module().parameters() if p.requires_grad)
    size = sizes(plan)
    assert size["gradients"] == learned * 4 and size["Adam's moments"] == learned * 8
    assert plan.total("load") * GIB == pytest.approx(4 * sum(p.numel() for p in policy.parameters()))


def test_the_papers_sizes_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "unirl-grpo", "--preset", "paper", "--plan"])
    show_o = capsys.readouterr().out
    main(["train", "unirl-sft", "--preset", "paper-janus", "--plan"])
    janus = capsys.readouterr().out

    # Counted from the tensors of the published checkpoints; Janus' file has 4.2 GB in half precision.
    assert "1,448,176,770" in show_o and f"{55_439_171 + 39_947_833:,}" in show_o
    assert "Janus 1.3B, the paper's sizes" in janus and "2,076,636,811" in janus


@pytest.mark.parametrize("name", ["not/here/Janus-1.3B", "NOT_THERE"])
def test_a_folder_that_is_not_there_has_no_plan(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for preset in ("paper", "paper-janus", "shapes"):
        with pytest.raises(SystemExit):
            main(["train", "unirl-grpo", "--preset", preset, "--model", name, "--plan"])
        said = capsys.readouterr()
        assert f"{name} does not exist; name a Show-o or Janus" in said.err
        assert "parameters" not in said.out


def test_published_costs_of_images_are_found() -> None:
    found = flops(ImagePlan(GRPO_SHOW_O, is_paper=True).plan(1))
    assert found["pixels of codes"] / 24 == pytest.approx(1.205e12, rel=1e-3)
    # 50 guided rounds of 1026 positions through 1.2 billion weights, and attention.
    assert found["codes drawn"] / 24 == pytest.approx(50 * 2 * 1026 * 2 * 1.2085e9, rel=0.2)


def test_an_official_folder_tells_its_sizes_without_its_weights_being_loaded(tmp_path: Path) -> None:
    folder = official_folder(tmp_path / "theirs")
    networks = networks_of(replace(GRPO_SHAPES, policy=str(folder)))
    assert networks.parameters["Show-o's language model"] == count(phi())
    assert {name: tuple(shape.shape) for name, shape in shapes_in(folder).items()} == {
        f"showo.{name}": tuple(value.shape) for name, value in phi().state_dict().items()
    }

    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text(json.dumps({**CONFIG, "llm_vocab_size": 50295, "codebook_size": 8192}))
    networks = networks_of(replace(GRPO_SHAPES, policy=str(bare)))
    assert networks.parameters["Show-o's language model"] == 1_448_176_770

    model = tiny_janus_model()
    write_official_janus(model, tmp_path / "janus", tokenizer=janus_tokenizer())
    networks = networks_of(replace(GRPO_SHAPES_JANUS, policy=str(tmp_path / "janus")))
    assert networks.parameters["Janus"] == count(model)


def test_a_copy_to_compare_with_costs_memory_only_where_all_weights_learn() -> None:
    copy, config = "reference: a copy of what is trained", replace(GRPO_SHAPES, kl_weight=0.2)
    plan = planned(config)
    assert copy not in sizes(plan) and "adapters off: no memory" in " ".join(plan.notes)

    full = replace(config, model=FULL)
    trained = sizes(planned(full))["trained: language model"]
    assert sizes(planned(full))[copy] == trained
    full = replace(full, objectives=ObjectiveSettings(answering=0.0))
    frozen = replace(full, answer=AnswerSettings(answerer="frozen"))
    assert sizes(planned(frozen))[copy] == 2 * trained
    average = replace(full, answer=AnswerSettings(answerer="average"))
    assert sizes(planned(average))["grader: a moving average of what is trained"] == trained


def test_settings_move_the_figures_they_concern() -> None:
    plan = planned(GRPO_SHAPES)
    one_side = planned(replace(GRPO_SHAPES, objectives=ObjectiveSettings(answering=0.0)))
    assert flops(plan).keys() - flops(one_side).keys() == {"answers, forward and backward"}
    # Both gradients stand side by side where they are compared.
    apart = "gradients of each side, where compared"
    assert sizes(plan)[apart] == 2 * sizes(plan)["gradients"] and apart not in sizes(one_side)
    more = planned(replace(GRPO_SHAPES, batch=2 * GRPO_SHAPES.batch))
    assert more.step_flops == pytest.approx(2 * plan.step_flops)
    twice = planned(replace(GRPO_SHAPES, algorithm="grpo", updates=2))
    drawings = "drawings, forward and backward"
    assert flops(twice)[drawings] == 2 * flops(plan)[drawings]
    assert "reference" not in planned(replace(GRPO_SHAPES, kl_weight=0.0)).phases

    spared = planned(replace(GRPO_SHAPES, gradient_checkpointing=True))
    assert spared.total("policy") < plan.total("policy") and spared.step_flops > plan.step_flops
    live = {work.name: work.live for work in plan.works}
    quarter = planned(GRPO_SHAPES, 4)
    assert sizes(quarter) == sizes(plan)
    shared = {work.name: work.live for work in quarter.works}
    assert shared[drawings] == pytest.approx(live[drawings] / 4)
    assert plan.peak == max(plan.total(phase) for phase in plan.phases)


def test_relaxed_training_goes_through_the_images_of_janus_alone() -> None:
    through = "through pixels, forward and backward"
    assert flops(planned(SFT_SHAPES_JANUS))[through] > 0
    assert not flops(planned(SFT_SHAPES))[through]


def test_judges_are_counted_and_a_missing_one_is_named() -> None:
    objectives = replace(GRPO_JANUS.joint, detector="", colors="openai/clip-vit-large-patch14")
    config = replace(GRPO_JANUS, joint=objectives)
    found = ImagePlan(config, is_paper=True).plan(1).parameters
    # Published: 428 million.
    assert found["evaluation: CLIP of colors"] == 427_616_513
    named = replace(objectives, detector="no/such/detector", colors="")
    with pytest.raises(ValueError, match="'no/such/detector' is neither a folder nor"):
        ImagePlan(replace(config, joint=named), is_paper=True)


def test_what_cannot_be_planned_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ValueError, match="is a run; write its model with"):
        networks_of(replace(GRPO_SHAPES, policy=str(tmp_path)))
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"family": "magvit2"}), encoding="utf-8")
    with pytest.raises(ValueError, match="is magvit2, which cannot draw"):
        networks_of(replace(GRPO_SHAPES, policy=str(tmp_path)))
