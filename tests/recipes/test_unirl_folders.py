"""UniRL on checkpoints in the authors' form, with the real vocabulary: every choice takes steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from recipes.unirl_runs import Folders, figures, official_folders, resumed, same, train, weights_of

FAST = ("--learning-rate", "0.01", "--answer.max-tokens", "6", "--dtype", "float32")
STEPPED = ("--draw.rounds", "3")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Both tiny checkpoints."""
    return official_folders(tmp_path_factory.mktemp("official"))


def run(folders: Folders, family: str, folder: Path, *options: str, recipe: str = "unirl-grpo"):
    """Two steps; rounds are few for Show-o."""
    rounds = STEPPED if family == "show-o" else ()
    return train(recipe, folder, *folders.policy(family), *FAST, *rounds, *options)


def moved(folder: Path) -> float:
    """How far the trained weights went in the second step."""
    first, second = weights_of(folder, 1), weights_of(folder, 2)
    return max(float((second[name] - first[name]).abs().max()) for name in first)


@pytest.mark.parametrize("trained", ["full", "lora"])
@pytest.mark.parametrize("family", ["show-o", "janus"])
def test_grpo_trains_both_families_from_their_authors_folders(
    folders: Folders, family: str, trained: str, tmp_path: Path
) -> None:
    rank = ["--model.lora-rank", "2"] if trained == "lora" else []
    options = ["--model.trained", trained, *rank, *folders.rewards("letters", "bright")]
    records = run(folders, family, tmp_path / "run", *options)
    assert [record["step"] for record in records] == [1, 2]
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    # The presets of the paper: a small divergence, three or eight drawings, all weights.
    assert config["kl_weight"] == (None if family == "show-o" else 0.04)
    assert records[1]["drawing/kl"] > 0 and records[1]["answering/kl"] > 0
    assert records[0]["drawing/kl"] == pytest.approx(0, abs=1e-6)
    assert (
        records[0]["reward/bright"] > 0
        and {"reward/letters", "reward/points", "reward/all_facts"} <= records[0].keys()
    )
    assert records[0]["gradient/norm_drawing"] > 0 and -1 <= records[0]["gradient/cosine"] <= 1
    assert moved(tmp_path / "run") > 1e-3
    names = weights_of(tmp_path / "run", 2)
    assert all(("/" in name) == (trained == "lora") for name in names)


@pytest.mark.parametrize(
    ("recipe", "family"), [("unirl-grpo", "show-o"), ("unirl-grpo", "janus"), ("unirl-sft", "show-o")]
)
def test_a_run_is_repeated_and_resumed_bit_by_bit(
    folders: Folders, recipe: str, family: str, tmp_path: Path
) -> None:
    options = ["--answer.answerer", "average", "--answer.decay", "0.5"]
    options += ["--objectives.answering", "0"] if recipe == "unirl-grpo" else ["--filter", "best_of_group"]
    options += ["--model.trained", "lora", "--model.lora-rank", "2", *folders.rewards("letters", "bright")]
    whole, again, cut = (tmp_path / name for name in ("whole", "again", "cut"))
    records = run(folders, family, whole, *options, recipe=recipe)
    assert run(folders, family, again, *options, recipe=recipe) == records
    resumed(whole, cut)
    assert figures(cut) == records
    for file in ("trainable", "kept"):
        assert same(weights_of(whole, 2, file), weights_of(again, 2, file))
        assert same(weights_of(whole, 2, file), weights_of(cut, 2, file))
    # The average goes half of the way that the policy went in its first step.
    policy, average = weights_of(whole, 1), weights_of(whole, 2, "kept")
    begun = weights_of(whole, 1, "kept")
    for name, value in average.items():
        (theirs,) = [policy[key] for key in policy if key.endswith(name.removeprefix("adapters."))]
        torch.testing.assert_close(value, (begun[name] + theirs) / 2)


@pytest.mark.parametrize(
    ("family", "options", "wanted"),
    [
        ("show-o", "--algorithm grpo --updates 2", {"drawing/ratio", "drawing/clipped", "answering/kl"}),
        ("janus", "--algorithm grpo --updates 2", {"drawing/ratio", "drawing/clipped", "answering/kl"}),
        ("show-o", "--algorithm dapo", {"drawing/ratio", "groups/zero_variance"}),
        ("janus", "--algorithm dr_grpo --kl-weight 0.1", {"drawing/ratio", "drawing/kl"}),
        ("show-o", "--algorithm gspo", {"answering/ratio"}),
        ("janus", "--algorithm rloo", {"drawing/kl"}),
        ("show-o", "--advantages leave-one-out --objectives.balance", {"gradient/norm_drawing"}),
        (
            "janus",
            "--judge.subtract-blind-baseline --rewards.negative-questions 1 --judge.scale group",
            {"reward/negative_questions"},
        ),
        ("show-o", "--gradient-checkpointing --model.trained lora", {"gradient/cosine"}),
        ("janus", "--gradient-checkpointing --draw-batch 2 --answer.temperature 0.7", {"gradient/cosine"}),
        ("janus", "--dtype bfloat16 --model.trained lora", {"drawing/kl"}),
    ],
)
def test_every_way_of_grpo_takes_its_steps(
    folders: Folders, family: str, tmp_path: Path, options: str, wanted: set[str]
) -> None:
    records = run(folders, family, tmp_path / "run", *folders.rewards("letters", "bright"), *options.split())
    assert records[1]["step"] == 2 and wanted <= records[1].keys()
    assert None not in records[1].values()
    assert moved(tmp_path / "run") > 1e-4
    if "--updates" in options:
        assert abs(records[0]["drawing/ratio"] - 1) > 1e-4
    if "gspo" in options or "dapo" in options:
        assert records[0]["drawing/ratio"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("unmasking", ["trajectory", "subsampled", "remasked"])
def test_a_drawing_may_be_scored_in_any_order_and_guided(
    folders: Folders, unmasking: str, tmp_path: Path
) -> None:
    number = [] if unmasking == "trajectory" else ["--likelihood.number", "2"]
    options = ["--likelihood.unmasking", unmasking, *number, *folders.rewards("bright")]
    plain = run(folders, "show-o", tmp_path / "plain", *options)
    guided = run(folders, "show-o", tmp_path / "guided", *options, "--likelihood.guided")
    assert plain[0]["drawing/log_prob"] < 0
    assert abs(guided[0]["drawing/log_prob"] - plain[0]["drawing/log_prob"]) > 1e-6
    assert guided[0]["reward/bright"] == plain[0]["reward/bright"] > 0


@pytest.mark.parametrize(("answerer", "trained"), [("frozen", "lora"), ("average", "full")])
def test_another_grader_answers_greedily_and_the_drawings_are_trained(
    folders: Folders, answerer: str, trained: str, tmp_path: Path
) -> None:
    options = ["--answer.answerer", answerer, "--answer.temperature", "0", "--objectives.answering", "0"]
    options += ["--model.trained", trained, *folders.rewards("letters", "bright")]
    records = run(folders, "show-o", tmp_path / "run", *options)
    assert {"drawing/loss", "reward/letters"} <= records[1].keys()
    assert "answering/loss" not in records[1] and "gradient/norm_drawing" not in records[1]
    assert moved(tmp_path / "run") > 1e-4
    kept = tmp_path / "run" / "checkpoints" / "step_000002" / "kept.safetensors"
    assert kept.exists() == (answerer == "average")


@pytest.mark.parametrize(
    ("family", "options", "wanted"),
    [
        ("show-o", "", {"answering/loss"}),
        ("janus", "", {"answering/loss"}),
        (
            "show-o",
            "--relaxation.codes all --kl-weight 0.5",
            {"answering/loss", "answering/kl", "drawing/kl"},
        ),
        ("janus", "--kl-weight 0.5", {"answering/kl", "drawing/kl"}),
        ("show-o", "--no-end-to-end --kl-weight 0.5", {"drawing/loss", "drawing/kl"}),
        ("show-o", "--relaxation.codes one-round --relaxation.round -1", {"answering/loss"}),
        ("janus", "--relaxation.no-hard --relaxation.temperature 0.5", {"answering/loss"}),
        ("show-o", "--objectives.drawing 1 --model.trained lora", {"answering/loss", "gradient/cosine"}),
        ("janus", "--no-end-to-end", {"answering/loss", "gradient/cosine"}),
        ("show-o", "--no-end-to-end --filter best_of_group", {"drawing/loss", "filter/accepted"}),
        ("show-o", "--no-end-to-end --filter answer_correct --micro-batch 2", {"filter/accepted"}),
        ("janus", "--no-end-to-end --answer.answerer frozen --answer.temperature 0", {"answering/loss"}),
    ],
)
def test_every_way_of_supervised_training_takes_its_steps(
    folders: Folders, family: str, tmp_path: Path, options: str, wanted: set[str]
) -> None:
    likelihood = ("--likelihood.unmasking", "remasked") if family == "show-o" else ()
    given = [*folders.rewards("letters", "bright"), *likelihood, *options.split()]
    records = run(folders, family, tmp_path / "run", *given, recipe="unirl-sft")
    assert records[1]["step"] == 2 and wanted <= records[1].keys()
    assert None not in records[1].values()
    # End to end only answers are labels: their gradient reaches the drawings through the codes.
    trains_drawings = "--no-end-to-end" in options or "--objectives.drawing" in options
    skipped = bool(records[1].get("update/skipped"))
    assert skipped or bool(records[1].get("drawing/loss")) == trains_drawings
    if "answer_correct" in options:
        # Random models tell no facts: nothing is left to learn from, and nothing is learned.
        assert records[1]["filter/accepted"] == 0 and records[1]["update/skipped"] == 1
        assert moved(tmp_path / "run") == 0
        alarm = json.loads((tmp_path / "run" / "alarms.jsonl").read_text().splitlines()[0])
        assert alarm["name"] == "skipped_updates" and "nothing was updated at step 1" in alarm["message"]
    else:
        assert moved(tmp_path / "run") > 1e-4
    if "best_of_group" in options:
        assert 0.5 <= records[1]["filter/accepted"] < 1
