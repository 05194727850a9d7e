"""The report says which figures were rewards and which judge only watched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sightloop.report.judges import both, judges, weights
from sightloop.report.run import EvaluationRecord, RunRecords

BY_RECALL = {"best_metric": "held_out/recall@1"}
BY_DRAWINGS = {"best_metric": "joint/drawn"}


def run_of(
    config: dict[str, Any],
    *,
    logged: tuple[str, ...] = (),
    watched: str = "held_out/recall@1",
    encoder: str = "",
) -> RunRecords:
    """A run after one step, with one evaluation."""
    name = watched.partition("/")[0]
    record = EvaluationRecord(
        name=name, step=0, metrics={}, per_sample={}, samples=[], protocol={"encoder": encoder}
    )
    return RunRecords(
        path=Path("run"),
        recipe="",
        config=config,
        environment={},
        train={1: dict.fromkeys(logged, 0.5)},
        evals={0: {watched: 0.5}},
        evaluations={name: {0: record}},
    )


def test_rewards_are_told_with_their_weights_and_the_watching_judge_by_its_figure() -> None:
    config = {
        "rewards": {"similarity": 1.0, "reference": 0.0, "repeats": 0.3},
        "custom_rewards": ["length=0.01", "mine.py:warm=0", "jpeg"],
        "schedule": BY_RECALL,
    }
    told = judges(run_of(config))
    assert (
        "Trained on: similarity (weight 1), repeats (weight 0.3), length (weight 0.01), jpeg (weight 1)."
        in told
    )
    assert "Measured in training, not trained on: mine.py:warm." in told
    assert "Only watched, never trained on: held out, whose figure “R@1” keeps the best checkpoint" in told
    assert "caution" not in told


def test_a_reward_measured_beside_the_others_is_no_reward() -> None:
    config = {
        "rewards": {"points": 1.0, "all_facts": 0.0, "negative_questions": 0.0},
        "schedule": BY_DRAWINGS,
    }
    told = judges(run_of(config, logged=("reward/all_facts",), watched="joint/drawn"))
    assert "Trained on: points (weight 1). Measured in training, not trained on: all facts." in told
    assert (
        "Only watched, never trained on: drawings and answers, whose figure “share of prompts drawn right”"
        in told
    )


@pytest.mark.parametrize(
    ("filter_", "trained", "measured"),
    [
        ("none", "true answers; no reward gives a gradient or chooses.", "points, all facts"),
        ("answer_correct", "answered right, which “all facts” decides.", "points"),
        ("best_of_group", "which the reward decides: points (weight 1).", "all facts"),
    ],
)
def test_supervised_training_learns_from_answers_and_says_what_its_filter_reads(
    filter_: str, trained: str, measured: str
) -> None:
    config = {"rewards": {"points": 1.0, "all_facts": 0.0}, "filter": filter_, "schedule": BY_DRAWINGS}
    logged = ("reward/points", "reward/all_facts")
    told = judges(run_of(config, logged=logged, watched="joint/drawn"))
    assert trained in told
    assert f"Measured in training, not trained on: {measured}." in told


def test_a_judge_that_watches_and_is_a_reward_too_is_called_out() -> None:
    named = {"custom_rewards": ["clip:some/clip=2"], "schedule": BY_RECALL}
    retrieval = {
        "rewards": {"retrieval": 0.3},
        "judge": {"retrieval_clip": "some/clip"},
        "schedule": BY_RECALL,
    }
    for config in (named, retrieval):
        run = run_of(config, encoder="some/clip")
        assert both(run)[0].startswith("The judge of held out (some/clip) is a reward of this run too")
        assert "Only watched" not in judges(run)
        assert not both(run_of(config, encoder="another/clip"))
    assert not both(run_of({"custom_rewards": ["clip:some/clip=0"]}, encoder="some/clip"))


def test_the_checker_of_drawings_as_a_reward_is_called_out() -> None:
    checked = {"judge": {"detector": ""}, "joint": {"detector": ""}, "schedule": BY_DRAWINGS}
    run = run_of({"rewards": {"detector": 1.0}, **checked}, watched="joint/drawn")
    assert both(run)[0].startswith("The judge of drawings and answers (the exact checker) is a reward")
    assert not both(run_of({"rewards": {"detector": 0.0}, **checked}, watched="joint/drawn"))


def test_a_run_that_names_no_rewards_says_nothing_of_them() -> None:
    assert weights(run_of({})) == {}
    assert "Trained on" not in judges(run_of({}))
