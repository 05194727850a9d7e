"""The plan of a run: the paper's parameter counts, from shapes alone."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from sightloop.planning.vlrm_plan import GIB, Shapes, count, memory_plan, print_plan, shapes_of, step_flops
from sightloop.recipes.vlrm.config import PAPER, PAPER_RS, SHAPES


@pytest.fixture(scope="module")
def paper() -> Shapes:
    """The paper's networks without weights."""
    return shapes_of(PAPER)


def test_the_papers_networks_have_its_parameters(paper: Shapes) -> None:
    assert count(paper.bridge) == 107_130_880
    assert count(paper.head) == 275_307_521
    assert count(paper.adapters) == 5_898_240
    assert all(p.is_meta for p in paper.captioner.parameters())
    assert count(None) == 0


def test_the_plan_prints_them_and_its_parts_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(PAPER)
    printed = capsys.readouterr().out
    for number in ("107,130,880", "275,307,521", "5,898,240"):
        assert number in printed
    assert "4096 images" in printed
    assert re.search(r"frozen tower and language model +bfloat16", printed)
    assert re.search(r"products of float32 matrices on a CUDA device +TF32", printed)
    memory = memory_plan(PAPER)
    assert f"{sum(memory.values()):.3f}" in printed
    assert f"{sum(memory_plan(PAPER, num_ranks=8).values()):.3f}" in printed
    trained = 107_130_880 + 275_307_521 + 5_898_240
    assert memory["gradients and Adam's moments"] == pytest.approx(trained * 12 / GIB)
    assert memory["value head"] == pytest.approx(275_307_521 * 4 / GIB)


def test_settings_move_the_figures_they_concern() -> None:
    small = replace(SHAPES, algorithm="scst")
    memory, flops = memory_plan(SHAPES), step_flops(SHAPES)

    assert {"value head", "critic's adapters"} <= memory.keys() - memory_plan(small).keys()
    assert [name.partition(",")[0] for name in flops.keys() - step_flops(small).keys()] == ["critic"]
    assert sum(step_flops(replace(SHAPES, batch=2 * SHAPES.batch)).values()) == pytest.approx(
        2 * sum(flops.values())
    )
    kept = "tower features of a step"
    assert kept not in memory_plan(replace(SHAPES, keep_features=False))
    assert memory_plan(SHAPES, shared_tower=False)["judge's own tower"] > 0
    halves = memory_plan(replace(SHAPES, dtype="bfloat16"))
    frozen = "frozen tower and language model"
    assert halves[frozen] == pytest.approx(memory[frozen] / 2)


def test_more_ranks_hold_less_each_and_sharding_spreads_the_frozen_layers() -> None:
    one, eight = memory_plan(SHAPES), memory_plan(SHAPES, num_ranks=8)
    kept, frozen, cache = "tower features of a step", "frozen tower and language model", "cache while drawing"
    assert eight[kept] == pytest.approx(one[kept] / 8)
    assert eight[cache] == pytest.approx(one[cache] / 8)
    assert eight[frozen] == one[frozen]
    few = memory_plan(replace(SHAPES, draw_batch=16), num_ranks=8)
    assert few[cache] == pytest.approx(eight[cache] / 2)
    shapes = shapes_of(SHAPES)
    layers = count(shapes.captioner.vision_model.encoder.layers)
    layers += count(shapes.captioner.language_model.model.decoder.layers)
    sharded = memory_plan(replace(SHAPES, shard=True), num_ranks=8)
    saved = (layers - layers // 8) * 4 / GIB
    assert eight[frozen] - sharded[frozen] == pytest.approx(saved, rel=1e-6)
    assert memory_plan(replace(SHAPES, shard=True))[frozen] == one[frozen]


def test_the_retrieval_term_brings_a_clip() -> None:
    assert "CLIP of the retrieval term" in memory_plan(PAPER_RS)
    assert "reference" not in step_flops(PAPER_RS)


def test_what_cannot_be_planned_is_named() -> None:
    with pytest.raises(ValueError, match="'no/such/model' is neither a folder nor"):
        shapes_of(replace(PAPER, policy="no/such/model"))
