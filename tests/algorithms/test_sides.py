import math
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from algorithms.drawn_and_answered import tables, two_turns
from torch import Tensor

from sightloop.algorithms.grpo import GRPO, grpo_method
from sightloop.algorithms.ratios import clipped_ratio, kl_to_reference
from sightloop.algorithms.turn_objectives import TurnObjective, TurnObjectives
from sightloop.algorithms.unmasking import FreshMasks
from sightloop.types import Credit, Policy, Rollout, Sampling, Turn

PLAIN = GRPO(kl_weight=0)


def total(algorithm: GRPO, policy: Policy, rollout: Rollout, credit: Credit) -> Tensor:
    return (algorithm.loss(policy, rollout, credit).per_token * credit.loss_weights).sum()


def four(policy: Any) -> Rollout:
    return two_turns(policy, [1.0, 3.0, 0.0, 4.0], [5, 5, 2, 2])


def halves(turn: Turn) -> list[Turn]:
    """The first code alone, then the other three: two orders that score different tokens."""
    mask = torch.zeros_like(turn.tokens.mask)
    mask[:, :1] = True
    return [replace(turn, tokens=replace(turn.tokens, mask=part)) for part in (mask, ~mask)]


def test_orders_weigh_the_same_however_many_tokens_they_score() -> None:
    policy = tables()
    rollout = four(policy)
    algorithm = replace(PLAIN, objectives=TurnObjectives(unmasking=halves, answering=TurnObjective(weight=0)))
    credit = algorithm.credit(policy, rollout)
    assert len(credit.unmasking) == 2
    # Half of the weight on one code, half on three.
    torch.testing.assert_close(credit.loss_weights[0, :4], torch.tensor([1 / 2, 1 / 6, 1 / 6, 1 / 6]) / 4)
    by_token = replace(
        PLAIN,
        objectives=TurnObjectives(unmasking=halves, answering=TurnObjective(weight=0), average_over="token"),
    )
    torch.testing.assert_close(
        by_token.credit(policy, rollout).loss_weights[:, :4], torch.full((4, 4), 1 / 16)
    )


@pytest.mark.parametrize("average_over", ["sample", "token"])
def test_overlapping_orders_are_averaged_loss_by_loss_for_policy_and_reference(average_over) -> None:
    policy, reference = tables(), tables()

    def overlapping(turn: Turn) -> list[Turn]:
        first = turn.tokens.mask.clone()
        first[:, 2:] = False
        return [replace(turn, tokens=replace(turn.tokens, mask=first)), turn]

    objectives = TurnObjectives(unmasking=overlapping, average_over=average_over)
    algorithm = GRPO(reference=reference, objectives=objectives, old="rescored", clip_low=0.2, clip_high=0.2)
    rollout = four(policy)
    credit = algorithm.credit(policy, rollout)
    with torch.no_grad():
        policy.picture.add_(0.3 * torch.randn(4, 3))
    found = total(algorithm, policy, rollout, credit)
    drawing, answer = rollout.turns
    new, frozen = policy.score(drawing).log_probs, reference.score(drawing).log_probs
    worth = credit.advantages[:, :4]
    old = credit.old_log_probs[0][:, 1]
    loss = clipped_ratio(new, old, worth, low=0.2, high=0.2) + 0.2 * kl_to_reference(new, frozen)
    two, all_four = loss[:, :2], loss
    # By token: 2 + 4 tokens a sample; by sample: half of two means.
    drawn = (
        (two.sum() + all_four.sum()) / 24 if average_over == "token" else (two.mean() + all_four.mean()) / 2
    )
    words = algorithm.loss(policy, rollout, credit).per_token[:, 4:] * credit.loss_weights[:, 4:]
    torch.testing.assert_close(found, 0.5 * drawn + words.sum())
    assert answer.tokens.mask.shape[1] == 3


def test_orders_are_drawn_once_whatever_the_size_of_the_pieces() -> None:
    policy = tables()
    rollout = four(policy)

    def random_half(turn: Turn) -> list[Turn]:
        mask = torch.rand(turn.tokens.mask.shape).argsort(1) < 2
        return [replace(turn, tokens=replace(turn.tokens, mask=mask))]

    algorithm = GRPO(reference=tables(), objectives=TurnObjectives(unmasking=random_half))
    credit = algorithm.credit(policy, rollout)
    whole = total(algorithm, policy, rollout, credit)
    pieces = sum(
        total(algorithm, policy, rollout.rows(index), credit.rows(index))
        for index in torch.arange(4).split(1)
    )
    torch.testing.assert_close(whole, pieces)


def test_drawn_images_are_scored_with_codes_hidden_anew_and_given_ones_are_not() -> None:
    policy = tables()
    algorithm = replace(PLAIN, objectives=TurnObjectives(unmasking=FreshMasks(number=2)))
    rollout = four(policy)
    credit = algorithm.credit(policy, rollout)
    assert len(credit.unmasking) == 2 and torch.isfinite(total(algorithm, policy, rollout, credit))
    drawing = rollout.turns[0]
    given = replace(drawing, tokens=replace(drawing.tokens, log_probs=None))
    with pytest.raises(ValueError, match="drawing side carry no log-probabilities"):
        algorithm.credit(policy, replace(rollout, turns=(given, rollout.turns[1])))


def test_orders_without_a_drawing_are_refused() -> None:
    policy = tables()
    rollout = four(policy)
    with pytest.raises(ValueError, match="rollout with one drawing; this one has 0"):
        replace(PLAIN, objectives=TurnObjectives(unmasking=halves)).credit(
            policy, replace(rollout, turns=rollout.turns[1:])
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TurnObjective(weight=-1.0), "weight of a side is -1.0"),
        (lambda: TurnObjective(weight=math.nan), "weight of a side is nan"),
        (
            lambda: TurnObjective(under=Sampling(max_tokens=1, temperature=0.0)),
            "greedy tokens have no gradient",
        ),
        (lambda: TurnObjective(max_length=0), "max_length is 0"),
        (
            lambda: TurnObjectives(drawing=TurnObjective(weight=0), answering=TurnObjective(weight=0)),
            "both sides have weight 0",
        ),
        (lambda: TurnObjectives(average_over=cast("Any", "caption")), "average_over is 'caption'"),
        (lambda: TurnObjectives(average_over="length"), "drawing.max_length is None"),
        (lambda: TurnObjectives(drawing=TurnObjective(max_length=5)), "others have no use for it"),
        (lambda: TurnObjectives(drawing=TurnObjective(weight=0), unmasking=halves), "leave orders out"),
        (lambda: grpo_method("dr_grpo", PLAIN), "drawing.max_length is None"),
    ],
)
def test_sides_that_cannot_work_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
