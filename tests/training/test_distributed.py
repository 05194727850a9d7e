"""Two processes do what one does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import SCHEDULE, Collector, experiment_of, run_in, traces

from sightloop.training import distributed
from sightloop.training.loop import train

HERE = Path(__file__).resolve().parent
Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes left their results."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(HERE / "two_processes.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    """What each of the two ranks found."""
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in (0, 1)]


def test_ranks_add_gather_and_agree(results: Results) -> None:
    first, second = (result["exchanged"] for result in results)
    assert (first["numbers"], second["numbers"]) == ([0, 2], [1, 2])
    assert first["sum"] == second["sum"] == [3, 30]
    assert (first["untouched"], second["untouched"]) == ([1, 10], [2, 20])
    assert first["gathered"] == second["gathered"] == [{"rank": 0}, {"rank": 1}]
    assert first["any"] == second["any"] == [True, False]
    assert first["all"] == second["all"] == [False, True]
    assert first["broadcast"] == second["broadcast"] == [[0, 0]]


def test_gradients_are_summed_and_not_averaged_also_where_one_rank_has_none(results: Results) -> None:
    for result in results:
        assert result["exchanged"]["gradients"] == [[3, 30], [3, 4]]
        assert result["exchanged"]["never"]


@pytest.mark.parametrize("kind", ["plain", "sharded"])
def test_two_ranks_train_as_one(kind: str, results: Results, folder: Path, tmp_path: Path) -> None:
    schedule = replace(SCHEDULE, steps=5)
    experiment = experiment_of(schedule, collector=Collector(noise=()))
    before = experiment.policy.law()
    train(experiment, run_in(tmp_path / "one", schedule))
    after = experiment.policy.law()
    assert (after - before).abs().max() > 0.05
    for result in results:
        torch.testing.assert_close(torch.tensor(result[kind]["law"]), after, rtol=1e-5, atol=1e-6)
    theirs, ours = (traces(path)["metrics.jsonl"] for path in (folder / kind, tmp_path / "one"))
    assert len(theirs) == len(ours)
    for their, our in zip(theirs, ours, strict=True):
        assert their.pop("kind") == our.pop("kind")
        assert their == pytest.approx(our, rel=1e-4, abs=1e-6)


def test_a_sharded_layer_is_let_go_after_its_use(results: Results) -> None:
    assert [result["sharded"]["held"] for result in results] == [16, 16]
    assert [result["plain"]["held"] for result in results] == [32, 32]


def test_moments_lie_on_one_rank_each_and_change_no_bit(results: Results, folder: Path) -> None:
    # The policy's table and the critic's values.
    assert sorted(result["spread"]["moments"] for result in results) == [[0], [1]]
    plain, spread = traces(folder / "plain"), traces(folder / "spread")
    weights = "checkpoints/step_000005/trainable.safetensors"
    assert spread[weights] == plain[weights]
    assert spread["metrics.jsonl"] == plain["metrics.jsonl"]


@pytest.mark.parametrize("shard_optimizer", [False, True])
def test_spread_moments_are_gone_on_from_by_one_process(
    shard_optimizer: bool, folder: Path, tmp_path: Path
) -> None:
    longer = replace(SCHEDULE, steps=7, shard_optimizer=shard_optimizer)
    laws: list[torch.Tensor] = []
    for kind in ("plain", "spread"):
        shutil.copytree(folder / kind, tmp_path / kind)
        experiment = experiment_of(longer, collector=Collector(noise=()))
        train(experiment, run_in(tmp_path / kind, longer, resume=True))
        laws.append(experiment.policy.law())
    assert torch.equal(*laws)


def test_all_ranks_stop_when_one_is_told_to_and_go_on_together(results: Results, folder: Path) -> None:
    assert [result["stopped"] for result in results] == [2, 2]
    stopped, plain = traces(folder / "stopped"), traces(folder / "plain")
    last = "checkpoints/step_000005/trainable.safetensors"
    assert stopped[last] == plain[last]
    assert stopped["metrics.jsonl"] == plain["metrics.jsonl"]


def test_a_step_that_breaks_on_one_rank_ends_all_with_the_same_words(results: Results) -> None:
    messages = [result["broken"] for result in results]
    assert messages[0] == messages[1]
    # Its reward spoils the credit of all eight samples, but it alone is to blame.
    assert "not finite on 1 sample: image 6 (reward inf" in messages[0]


def test_a_step_moves_nothing_only_if_nothing_weighs_anything_on_any_rank(results: Results) -> None:
    assert [result["filtered"] for result in results] == [[True, False, True]] * 2


def test_on_one_rank_everything_is_the_identity() -> None:
    numbers = torch.tensor([1.0, 2.0])
    assert distributed.sum_over_ranks(numbers) is numbers
    assert distributed.gather("x") == ["x"]
    assert (distributed.rank(), distributed.num_ranks()) == (0, 1)
    assert distributed.any_rank(True) and not distributed.any_rank(False)
    assert distributed.all_ranks(True) and not distributed.all_ranks(False)
    weight = torch.nn.Parameter(torch.zeros(1))
    distributed.sum_gradients([weight])
    distributed.barrier()
    assert weight.grad is None
    assert distributed.device("cpu") == torch.device("cpu")
