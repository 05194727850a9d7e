"""However the rows of a step are split over ranks and micro-batches, the same codes are scored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from recipes.unirl_runs import Folders, figures, official_folders, resumed, same, small, train, weights_of

HERE = Path(__file__).resolve().parent
Records = list[dict[str, float]]
MASKED = ["--model.trained", "lora", "--model.lora-rank", "2", "--joint.per-category", "0"]
MASKED += ["--dtype", "float32"]
WAYS = {
    "trajectory": ("unirl-grpo", "--likelihood.unmasking trajectory --likelihood.guided"),
    "some rounds": ("unirl-grpo", "--likelihood.unmasking subsampled --likelihood.number 2"),
    "fresh masks": ("unirl-grpo", "--likelihood.unmasking remasked --likelihood.number 2"),
    "fresh masks, old policy": ("unirl-grpo", "--likelihood.unmasking remasked --algorithm grpo --updates 2"),
    "supervised, fresh masks": ("unirl-sft", "--no-end-to-end --likelihood.unmasking remasked"),
    "supervised, all codes relaxed": ("unirl-sft", "--relaxation.codes all --kl-weight 0.5"),
    "supervised, some rounds relaxed": (
        "unirl-sft",
        "--relaxation.codes some-rounds --relaxation.number 2",
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A tiny random Show-o in its authors' form."""
    return official_folders(tmp_path_factory.mktemp("official"))


def options(folders: Folders, way: str) -> list[str]:
    """A way's options without its recipe."""
    rewards = folders.rewards("letters", "bright")
    return [*folders.policy("show-o"), *MASKED, *rewards, "--draw.rounds", "4", *WAYS[way][1].split()]


@pytest.fixture(scope="module")
def alone(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each way on one process."""
    place = tmp_path_factory.mktemp("alone")
    made = {way: place / way.replace(" ", "-") for way in WAYS}
    for way, folder in made.items():
        train(WAYS[way][0], folder, *options(folders, way))
    return made


@pytest.fixture(scope="module")
def together(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each way on two."""
    place = tmp_path_factory.mktemp("together")
    made = {way: place / way.replace(" ", "-") for way in WAYS}
    words = [
        ["train", WAYS[way][0], "--run", str(folder), *small(WAYS[way][0], *options(folders, way))]
        for way, folder in made.items()
    ]
    (place / "words.json").write_text(json.dumps(words))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(HERE / "two_ranks.py"), str(place / "words.json")],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return made


@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_score_the_codes_that_one_process_scores(
    way: str, alone: dict[str, Path], together: dict[str, Path]
) -> None:
    one, two = figures(alone[way]), figures(together[way])
    assert [record["step"] for record in one] == [record["step"] for record in two] == [1, 2]
    # The first step's weights are the same to the last bit; what is left is the order of sums.
    del one[0]["kind"], two[0]["kind"]
    assert two[0] == pytest.approx(one[0], rel=2e-6, abs=1e-6)
    assert one[0]["gradient/norm_policy"] > 1e-4
    before, after = weights_of(alone[way], 1), weights_of(together[way], 1)
    for name, value in before.items():
        # Adam turns the rounding of a gradient near 0 into a step of its own: a few numbers may differ.
        assert float((after[name] - value).abs().mean()) < 1e-7, name


@pytest.mark.parametrize("way", ["some rounds", "fresh masks", "supervised, fresh masks"])
def test_micro_batches_score_the_codes_that_a_whole_batch_scores(
    way: str, folders: Folders, alone: dict[str, Path], tmp_path: Path
) -> None:
    split = train(WAYS[way][0], tmp_path / "run", *options(folders, way), "--micro-batch", "1")
    whole = figures(alone[way])
    del split[0]["kind"], whole[0]["kind"]
    assert split[0] == pytest.approx(whole[0], rel=2e-6, abs=1e-6)


@pytest.mark.parametrize("way", ["some rounds", "fresh masks", "supervised, some rounds relaxed"])
def test_a_resumed_run_scores_the_codes_of_the_unbroken_one(
    way: str, alone: dict[str, Path], tmp_path: Path
) -> None:
    resumed(alone[way], tmp_path / "cut")
    assert figures(tmp_path / "cut") == figures(alone[way])
    assert same(weights_of(alone[way], 2), weights_of(tmp_path / "cut", 2))
