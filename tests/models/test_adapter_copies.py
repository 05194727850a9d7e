"""A copy of a policy obeys its own adapters, so that a moving average is not the policy's shadow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_janus import tiny_janus
from tiny_show_o import show_o, stirred
from torch import Tensor

from sightloop.rollouts.quiz import MovingAverage
from sightloop.types import Prompt, Turn

MAKERS: dict[str, Callable[[], Any]] = {"janus": tiny_janus, "show-o": lambda: stirred(show_o())}


def drawn(policy: Any) -> Turn:
    """Two drawings."""
    law = (
        policy.default_sampling()
        if policy.default_sampling().decode_steps is None
        else policy.default_sampling(decode_steps=2)
    )
    prompt = Prompt(texts=["a red circle", "two"], wants="image", seeds=[1, 2])
    return Turn(prompt=prompt, tokens=policy.sample(prompt, law))


def scores(policy: Any, turn: Turn) -> Tensor:
    """Of the drawings."""
    with torch.no_grad():
        return policy.score(turn).log_probs


def push(policy: Any, by: float) -> None:
    """Move the adapters."""
    with torch.no_grad():
        for up in policy.adapters.up.values():
            up.add_(by)


@pytest.mark.parametrize("family", MAKERS)
def test_an_average_that_never_moves_answers_as_the_policy_did(family: str) -> None:
    policy = MAKERS[family]()
    average = MovingAverage(policy, decay=1.0)
    turn = drawn(policy)
    before = scores(policy, turn)
    push(policy, 0.2)
    after = scores(policy, turn)
    assert (after - before).abs().max() > 0.01
    torch.testing.assert_close(scores(average(policy), turn), before)
    # Nor does the policy obey the average's.
    push(average.average, 0.5)
    torch.testing.assert_close(scores(policy, turn), after)


@pytest.mark.parametrize("family", MAKERS)
def test_an_average_without_memory_is_the_policy_and_keeps_its_adapters_alone(family: str) -> None:
    policy = MAKERS[family]()
    average = MovingAverage(policy, decay=0.0)
    push(policy, 0.2)
    turn = drawn(policy)
    torch.testing.assert_close(scores(average(policy), turn), scores(policy, turn))
    moving = average.moving(policy)
    assert len(moving) == len(list(policy.adapters.parameters()))
    assert all(name.startswith("adapters.") for name in moving)
