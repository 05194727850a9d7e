"""Both sides of the benchmark of a GRPO step do the same work."""

import argparse
from dataclasses import replace

import pytest

from benchmarks.midsize_unified import FAMILIES, Family, quizzes, whole_policy
from benchmarks.unirl_step import TOLERANCE, difference, work_of


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_has_the_gradient_of_the_plain_step_from_the_same_samples(family: Family, full: bool) -> None:
    options = argparse.Namespace(group=2, micro_batch=3, full=full)
    whole = whole_policy(family, tiny=True)
    work = work_of(whole, options, tiny=True)
    batch = quizzes(2, tiny=True)
    assert difference(whole, work, batch) < TOLERANCE


def test_a_side_without_the_penalty_has_another_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    options = argparse.Namespace(group=2, micro_batch=4, full=True)
    whole = whole_policy("show-o", tiny=True)
    monkeypatch.setattr("benchmarks.plain_unirl.KL_WEIGHT", 0.0)
    assert difference(whole, replace(work_of(whole, options, tiny=True)), quizzes(1, tiny=True)) > 0.01
