"""Memory given back between the phases of a step."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import Collector, experiment_of

from sightloop.recipes.vlrm.config import SHAPES
from sightloop.runs.launch import launch
from sightloop.training import heap
from sightloop.training.heap import give_back, giving_back
from sightloop.training.loop import update, valued
from sightloop.training.optimizer import make_optimizer


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or torch.cuda.is_available(), reason="glibc on a CPU"
)
def test_what_was_freed_goes_back_to_the_system() -> None:
    # Blocks of a size that the heap keeps, with one that lives above them.
    blocks = [torch.ones(2**14) for _ in range(2000)]
    keeper = torch.ones(2**10)
    del blocks
    before = _resident()
    give_back()
    assert keeper.sum() == 2**10
    assert _resident() <= before


def test_a_run_gives_back_after_drawing_each_part_of_the_critic_and_each_micro_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[str] = []
    phase = ["collect"]
    monkeypatch.setattr(heap, "_TRIM", lambda _: given.append(phase[0]))
    monkeypatch.setattr("sightloop.accelerator.is_cpu", lambda: True)
    plain = experiment_of(collector=Collector(noise=()))
    experiment = giving_back(plain)
    optimizer = make_optimizer(experiment.trainable, experiment.schedule)
    rollout = experiment.collect(experiment.policy, list(range(8)))
    phase[0] = "critic"
    rollout, of_critic = valued(experiment, rollout)
    phase[0] = "update"
    credit = experiment.algorithm.credit(experiment.policy, rollout)
    gradients = experiment.gradients([], 1, 0)
    update(experiment, optimizer, rollout, credit, gradients=gradients, critic_gradients=of_critic)
    # The critic's only part and its end; eight samples in micro-batches of three, and their end.
    assert given == ["collect", "critic", "critic", "update", "update", "update", "update"]
    assert plain.collect is not experiment.collect


def test_what_is_launched_gives_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, seen = experiment_of(), list[Any]()
    monkeypatch.setattr("sightloop.recipes.vlrm.build.build", lambda config, folder, claim: plain)
    monkeypatch.setattr("sightloop.runs.launch.train", lambda experiment, run: seen.append(experiment))
    monkeypatch.setattr(heap, "_TRIM", lambda _: None)
    launch("vlrm", SHAPES, tmp_path / "run")
    assert seen[0].collect is not plain.collect and seen[0].gradients is not plain.gradients


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])
