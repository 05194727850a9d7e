"""UniRL in the embedded world, by command: repeated, resumed, on two ranks, and learning what is paid for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from recipes.unirl_runs import figures, resumed, same, small, train, weights_of

from sightloop.quizzes.grammar import Clause, quiz_of
from sightloop.world.quizzes import SHAPES_VOCABULARY

ROOT = Path(__file__).resolve().parents[2]
RECIPES = [
    ("unirl-grpo", "show-o"),
    ("unirl-grpo", "janus"),
    ("unirl-sft", "show-o"),
    ("unirl-sft", "janus"),
]
TELLING = (
    "--group", "4", "--micro-batch", "8", "--rewards.share", "1", "--rewards.points", "0",
    "--rewards.all-facts", "0",
)  # fmt: skip
"""Smaller groups, and rewards with fewer values, are often silent."""
Run = tuple[Path, list[dict[str, float]]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Run]:
    """An undisturbed run of each recipe and model, made once."""
    made: dict[tuple[str, str], Run] = {}

    def get(recipe: str, model: str) -> Run:
        if (recipe, model) not in made:
            folder = tmp_path_factory.mktemp(f"{recipe}-{model}") / "run"
            made[recipe, model] = folder, train(recipe, folder, "--world-model", model, *TELLING)
        return made[recipe, model]

    return get


@pytest.mark.parametrize(("recipe", "model"), RECIPES)
def test_a_run_writes_everything(recipe: str, model: str, whole: Callable[[str, str], Run]) -> None:
    folder, records = whole(recipe, model)
    assert [(record["step"], record["kind"]) for record in records] == [
        (0, "eval"),
        (1, "train"),
        (2, "train"),
        (2, "eval"),
    ]
    assert {"reward/share", "reward/all_facts", "reward/total", "answering/loss"} <= records[1].keys()
    assert ("drawing/loss" in records[1]) == (recipe == "unirl-grpo")
    before = records[0]
    assert 0 < before["joint/drawn"] < 1 and before["joint/answered_fixed"] > 0.7
    shares = [before[f"joint/{name}"] for name in ("both", "only_drawn", "only_answered")]
    assert before["joint/drawn"] == pytest.approx(shares[0] + shares[1])
    assert before["joint/answered"] == pytest.approx(shares[0] + shares[2])
    assert before["joint/imbalance"] == pytest.approx(shares[1] + shares[2])
    found = json.loads((folder / "evaluations" / "joint_step_000002.json").read_text())
    assert len(found["samples"]) == 24 and found["protocol"]["drawings judged by"] == "shapes-checker"
    assert (folder / "report.html").is_file() and list((folder / "samples").iterdir())


@pytest.mark.parametrize(("recipe", "model"), RECIPES[::3])
def test_a_second_run_repeats_the_first_bit_by_bit(
    recipe: str, model: str, whole: Callable[[str, str], Run], tmp_path: Path
) -> None:
    folder, records = whole(recipe, model)
    assert train(recipe, tmp_path / "again", "--world-model", model, *TELLING) == records
    assert same(weights_of(folder, 2), weights_of(tmp_path / "again", 2))
    assert max(record["gradient/norm_policy"] for record in records[1:3]) > 1e-3


@pytest.mark.parametrize(("recipe", "model"), RECIPES[::3])
def test_a_resumed_run_is_the_unbroken_one(
    recipe: str, model: str, whole: Callable[[str, str], Run], tmp_path: Path
) -> None:
    folder, records = whole(recipe, model)
    resumed(folder, tmp_path / "cut")
    assert figures(tmp_path / "cut") == records
    assert same(weights_of(folder, 2), weights_of(tmp_path / "cut", 2))


@pytest.mark.slow
def test_two_ranks_do_what_one_does(tmp_path: Path) -> None:
    options = ["--likelihood.unmasking", "trajectory", "--algorithm", "grpo", "--updates", "2"]
    options += ["--objectives.balance", "--objectives.answering", "1", *TELLING, "--draw.rounds", "3"]
    alone = train("unirl-grpo", tmp_path / "one", *options)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [
        "-m",
        "--",
        "sightloop",
        "train",
        "unirl-grpo",
        "--run",
        str(tmp_path / "two"),
        *small("unirl-grpo", *options),
    ]
    done = subprocess.run(
        [*command, *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    together = figures(tmp_path / "two")
    assert len(together) == len(alone) == 4
    for mine, theirs in zip(alone, together, strict=True):
        assert mine.pop("kind") == theirs.pop("kind")
        # Whose rows are judged and asked about where does not matter, nor who adds up which gradients.
        assert theirs == pytest.approx(mine, rel=2e-3, abs=2e-4)
    one, two = weights_of(tmp_path / "one", 2), weights_of(tmp_path / "two", 2)
    for name, value in one.items():
        # Adam turns the rounding of a gradient near 0 into a step of its own: a few numbers may differ.
        assert float((two[name] - value).abs().mean()) < 1e-5, name


def colored_pairs() -> list[str]:
    """Four quizzes that the bundled Show-o often draws wrong, as lines of a file."""
    pairs = ["yellow circle orange cross", "red triangle blue circle", "yellow cross orange square"]
    lines: list[str] = []
    for first, one, second, other in map(str.split, [*pairs, "red circle green square"]):
        clauses = (Clause(noun=one, color=first), Clause(noun=other, color=second))
        lines.append(json.dumps(quiz_of("color_attr", clauses, SHAPES_VOCABULARY).metadata()))
    return lines


@pytest.mark.slow
def test_the_exact_checker_as_reward_raises_the_share_drawn_right(tmp_path: Path) -> None:
    file = tmp_path / "quizzes.jsonl"
    file.write_text("\n".join(colored_pairs()))
    options = ["--quiz-file", str(file), "--joint.quiz-file", str(file), "--learning-rate", "0.003"]
    options += ["--batch", "4", "--group", "12", "--micro-batch", "48", "--kl-weight", "0"]
    options += ["--rewards.object-identification", "0", "--rewards.points", "0", "--rewards.all-facts", "0"]
    options += ["--rewards.detector", "1", "--objectives.answering", "0", "--advantages", "standardized"]
    options += ["--likelihood.unmasking", "trajectory", "--likelihood.guided", "--draw.rounds", "8"]
    rhythm = ["--steps", "8", "--save-every", "8", "--eval-every", "8", "--sample-every", "8"]
    records = train("unirl-grpo", tmp_path / "run", *options, *rhythm)
    # Nobody was asked in training.
    assert "reward/image" in records[1] and "reward/all_facts" not in records[1]
    before, after = (record["joint/drawn"] for record in records if record["kind"] == "eval")
    assert after > before + 0.1
    earned = [record["reward/image"] for record in records if record["kind"] == "train"]
    assert sum(earned[-3:]) / 3 > earned[0] + 0.08
