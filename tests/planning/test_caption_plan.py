"""The plan of VLRM: the paper's parameter counts, memory by phase, every family of captioners."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models import hub_folders, tiny_captioners
from models.classic_folders import CLASSIC
from models.tiny_captioners import LAW, noise
from torch.utils.flop_counter import FlopCounterMode

from sightloop.cli import main
from sightloop.models.captioners.generic import GenericCaptioner
from sightloop.models.named_models import load_captioner
from sightloop.models.transformers_internals import attend_by
from sightloop.planning.caption_plan import CaptionPlan
from sightloop.planning.captioner_networks import captioner_networks_of
from sightloop.planning.counting import count
from sightloop.planning.resources import GIB, Plan
from sightloop.recipes.vlrm.config import PAPER, PAPER_RS, SHAPES, JudgeSettings, VlrmConfig
from sightloop.types import Images, Prompt, Turn

BRIDGE, HEAD, ADAPTERS = 107_130_880, 275_307_521, 5_898_240


def sizes(plan: Plan) -> dict[str, float]:
    return {part.name: part.size for part in plan.parts}


def flops(plan: Plan) -> dict[str, float]:
    return {work.name: work.flops for work in plan.works}


def planned(config: VlrmConfig, num_ranks: int = 1) -> Plan:
    return CaptionPlan(config).plan(num_ranks)


def test_the_papers_networks_have_its_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "vlrm", "--preset", "paper", "--plan"])
    printed = capsys.readouterr().out
    for number in (BRIDGE, HEAD, ADAPTERS):
        assert f"{number:,}" in printed
    assert "4096 images" in printed
    assert re.search(r"frozen tower and language model +bfloat16", printed)
    assert re.search(r"products of float32 matrices on a CUDA device +TF32", printed)
    # 3.745 and 1.172 billion weights, published in float32; 388 million that learn, with two moments each.
    assert re.search(r"download Salesforce/blip2-opt-2.7b +14.98 GB", printed)
    assert re.search(r"download Salesforce/blip2-itm-vit-g +4.69 GB", printed)
    assert re.search(r"4 checkpoints of 4.66 GB at most +18.64 GB", printed)
    assert re.search(r"A100 80 GB +\d+ s a step, \S+ h in all +\d+ s a step, \S+ h in all", printed)
    assert re.search(r"RTX 4090 24 GB +does not fit \(\d+ of 24 GiB\)", printed)

    counted = CaptionPlan(PAPER)
    plan = counted.plan(1)
    assert f"{plan.peak:.3f}" in printed and f"{counted.plan(8).peak:.3f}" in printed
    size, trained = sizes(plan), BRIDGE + HEAD + ADAPTERS
    assert size["Adam's moments"] == trained * 8
    assert size["gradients of the critic"] + size["gradients of the policy"] == trained * 4
    assert size["value head"] == HEAD * 4
    # 2 a weight and position forward, as much backward to the input, nothing to frozen weights.
    body, width = 32 * (12 * 2560**2 + 13 * 2560), 2560
    positions = 4096 * (33 + 36)
    assert flops(plan)["captions scored, forward and backward"] == pytest.approx(
        positions * 4 * body + 4096 * 36 * 4 * 2 * 50272 * width / 2, rel=0.1
    )


def test_a_phase_holds_what_is_resident_and_what_it_works_with() -> None:
    plan = planned(SHAPES)
    assert plan.phases == ["load", "generate", "judge", "reference", "critic", "policy", "evaluate"]
    assert plan.peak == max(map(plan.total, plan.phases))
    size = sizes(plan)
    loaded = sum(size.values()) - size["Adam's moments"] - size["tower features of a step"]
    loaded -= size["gradients of the critic"] + size["gradients of the policy"]
    assert plan.total("load") == pytest.approx(loaded / GIB)
    live = max(work.live for work in plan.works if work.phase == "generate")
    with_step = loaded + size["Adam's moments"] + size["tower features of a step"]
    assert plan.total("generate") == pytest.approx((with_step + live) / GIB)
    assert plan.resident("policy") == pytest.approx(sum(size.values()) / GIB)
    assert plan.step_flops == pytest.approx(sum(w.flops for w in plan.works if w.phase != "evaluate"))


def test_settings_move_the_figures_they_concern() -> None:
    plan, small = planned(SHAPES), planned(replace(SHAPES, algorithm="scst"))
    assert {"value head", "critic's adapters"} <= sizes(plan).keys() - sizes(small).keys()
    assert "critic" not in small.phases
    # Self-critical training also writes and judges a greedy caption of each image.
    assert flops(small)["captions written"] == pytest.approx(2 * flops(plan)["captions written"])
    twice = planned(replace(SHAPES, batch=2 * SHAPES.batch))
    assert twice.step_flops == pytest.approx(2 * plan.step_flops)
    own = planned(replace(SHAPES, judge=replace(SHAPES.judge, reuse_tower="never")))
    assert sizes(own)["judge's own tower"] > 0
    assert flops(own)["image and text matched"] > flops(plan)["image and text matched"]
    halves = planned(replace(SHAPES, dtype="bfloat16"))
    frozen = "frozen tower and language model"
    assert sizes(halves)[frozen] == sizes(plan)[frozen] / 2
    less = planned(replace(SHAPES, keep_features=False))
    assert "tower features of a step" not in sizes(less)
    # Once more for the critic and for the policy.
    assert flops(less)["images seen"] == pytest.approx(3 * flops(plan)["images seen"])
    again = planned(replace(SHAPES, gradient_checkpointing=True))
    assert again.step_flops > plan.step_flops and again.total("policy") < plan.total("policy")
    assert "retrieval term" in flops(planned(replace(SHAPES, rewards=PAPER_RS.rewards)))


def test_more_ranks_hold_less_each_and_sharding_spreads_the_frozen_layers() -> None:
    counted = CaptionPlan(SHAPES)
    one, eight = counted.plan(1), counted.plan(8)
    kept, frozen = "tower features of a step", "frozen tower and language model"
    assert sizes(eight)[kept] == pytest.approx(sizes(one)[kept] / 8)
    assert sizes(eight)[frozen] == sizes(one)[frozen]
    live = {work.name: work.live for work in eight.works}
    few = {work.name: work.live for work in planned(replace(SHAPES, draw_batch=16), 8).works}
    assert few["captions written"] == pytest.approx(live["captions written"] / 2)
    sharded, layers = CaptionPlan(replace(SHAPES, shard=True)), counted.networks.sharded
    assert sizes(eight)[frozen] - sizes(sharded.plan(8))[frozen] == (layers - layers // 8) * 4
    assert sizes(sharded.plan(1))[frozen] == sizes(one)[frozen]


@pytest.mark.parametrize(
    "save",
    [
        tiny_captioners.llava,
        tiny_captioners.idefics3,
        hub_folders.qwen2_5_vl,
        hub_folders.qwen3_vl,
        hub_folders.llava_onevision,
        hub_folders.internvl,
        hub_folders.smolvlm,
        hub_folders.gemma3,
    ],
)
def test_every_family_of_captioners_has_a_plan(
    save: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path / "model")
    capsys.readouterr()
    main(["train", "vlrm", "--model", str(folder), "--plan"])
    printed = capsys.readouterr().out
    assert f"policy: {folder}" in printed and "adapters, which learn" in printed
    assert re.search(r"policy: captions scored, forward and backward +\d\.\d{3}e", printed)


def test_the_plan_of_another_captioner_counts_what_is_loaded(tmp_path: Path) -> None:
    folder = tiny_captioners.llava(tmp_path / "model")
    config = replace(SHAPES, policy=str(folder))
    policy = GenericCaptioner.from_pretrained(folder)
    counted = CaptionPlan(config)
    assert counted.plan(1).parameters["captioner"] == sum(p.numel() for p in policy.model.parameters())
    learned = sum(p.numel() for p in policy.adapters.parameters())
    assert counted.plan(1).parameters["adapters, which learn"] == learned
    # Another family's tower is not the judge's.
    assert "judge's own tower" in sizes(counted.plan(1))


def test_models_of_rewards_and_of_the_evaluation_are_resident() -> None:
    held_out = replace(PAPER.held_out, images="held_out/")
    config = replace(PAPER, held_out=held_out, custom_rewards=("clip:openai/clip-vit-large-patch14=0.1",))
    found = planned(config).parameters
    # Published: 1.37 billion and 428 million.
    assert found["held-out CLIP"] == 1_366_678_273
    assert found["reward openai/clip-vit-large-patch14"] == 427_616_513


def test_what_cannot_be_planned_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="'no/such/model' is neither a folder nor"):
        CaptionPlan(replace(PAPER, policy="no/such/model"))
    with pytest.raises(ValueError, match="is a CLIP, not a captioner"):
        CaptionPlan(replace(PAPER, policy="openai/clip-vit-large-patch14"))
    with pytest.raises(ValueError, match="'no/such/judge' is neither a folder nor"):
        CaptionPlan(replace(SHAPES, judge=JudgeSettings(model="no/such/judge")))


@pytest.mark.parametrize("name", CLASSIC)
def test_the_plan_of_a_classic_captioner_counts_what_training_computes(name: str, tmp_path: Path) -> None:
    folder = CLASSIC[name](tmp_path / name)
    captioner: Any = load_captioner(str(folder), dtype=torch.float32, device=torch.device("cpu"))
    # torch's counter does not know the fused attention of a CPU.
    attend_by(captioner.model, "eager")
    config = replace(SHAPES, policy=str(folder))
    nets = captioner_networks_of(config, str(folder))
    assert count(nets.model) == sum(p.numel() for p in captioner.model.parameters())
    assert count(nets.trained) == sum(p.numel() for p in captioner.trainable_module().parameters())

    images = captioner.encode_images(Images(pixels=noise(1, side=captioner.image_size)))
    assert nets.features == sum(each.numel() for each in images.features.values())
    asked = Prompt(texts=[""], images=images, seeds=[1])
    tokens = captioner.sample(asked, replace(LAW, max_tokens=24))
    number = int(tokens.mask.sum())
    with FlopCounterMode(display=False) as real:
        captioner.score(Turn(prompt=asked, tokens=tokens)).log_probs.sum().backward()
    positions = nets.places + number
    head = 2 * nets.vocabulary * captioner.hidden_size * number
    scored = nets.bridge.forward + nets.bridge.backward + 3 * head
    scored += nets.policy.learn(positions, positions, recomputed=False)
    assert real.get_total_flops() == pytest.approx(scored, rel=0.15)


def test_the_plan_of_a_classic_captioner_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = CLASSIC["florence2"](tmp_path / "florence2")
    main(["train", "vlrm", "--model", str(folder), "--rewards.similarity", "0", "--plan"])
    printed = capsys.readouterr().out
    assert f"policy: {folder}" in printed and "adapters, which learn" in printed
    assert "download" not in printed
    assert re.search(r"A100 80 GB +\S+ \S+ a step, \S+ \S+ in all", printed)
