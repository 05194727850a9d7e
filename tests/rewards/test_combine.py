import math
from typing import Any, cast

import pytest
import torch

from sightloop.rewards.combine import combine
from sightloop.types import Outcome, Tokens, on_last_token

MASK = torch.tensor([[True, True, True], [True, False, False]])


def outcome() -> Outcome:
    return Outcome(
        tokens=Tokens(ids=torch.zeros(2, 3, dtype=torch.long), mask=MASK),
        pieces=[[" a", " cat"], [" dog"]],
        ended=torch.tensor([True, False]),
        images=None,
        references=["", ""],
        sources=["photos/1.jpg", "photos/2.jpg"],
    )


def length(of: Outcome) -> torch.Tensor:
    return of.tokens.mask.float()


def whole(of: Outcome) -> torch.Tensor:
    return on_last_token(torch.tensor([4.0, -2.0]), of.tokens)


def test_a_reward_of_the_text_sits_on_its_last_token() -> None:
    assert whole(outcome()).tolist() == [[0, 0, 4], [-2, 0, 0]]


def test_rewards_add_up_with_their_weights_and_are_logged_without() -> None:
    judge = combine({"whole": whole, "length": length}, {"whole": 0.5, "length": -1.0})
    rewards, parts = judge(outcome())
    assert rewards.tolist() == [[-1, -1, 1], [-2, 0, 0]]
    assert {name: part.tolist() for name, part in parts.items()} == {"whole": [4, -2], "length": [3, 1]}


def test_a_weight_of_0_measures_only() -> None:
    rewards, parts = combine({"whole": whole, "length": length}, {"whole": 1, "length": 0})(outcome())
    assert rewards.tolist() == [[0, 0, 4], [-2, 0, 0]]
    assert parts["length"].tolist() == [3, 1]


def test_an_unknown_weight_is_refused_with_the_nearest_reward() -> None:
    with pytest.raises(ValueError, match="'lenght', which has no reward; did you mean 'length'"):
        combine({"length": length}, {"lenght": 1.0, "length": 1.0})


def test_a_reward_without_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="'whole', which has no weight; there are: length"):
        combine({"length": length, "whole": whole}, {"length": 1.0})


def test_no_rewards_and_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="no rewards"):
        combine({}, {})
    with pytest.raises(ValueError, match="weight of reward 'length' is nan"):
        combine({"length": length}, {"length": math.nan})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_names_itself_the_image_and_the_caption(value: float) -> None:
    def broken(of: Outcome) -> torch.Tensor:
        return on_last_token(torch.tensor([1.0, value]), of.tokens)

    with pytest.raises(
        ValueError, match=r"'broken' is not finite: -?(nan|inf) at token 0 of photos/2.jpg.*'dog'"
    ):
        combine({"broken": broken}, {"broken": 1.0})(outcome())


def test_a_reward_on_a_masked_token_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"'everywhere' is not 0 on a masked token: 1\.0 at token 1 of photos/2"
    ):
        combine({"everywhere": lambda of: torch.ones(2, 3)}, {"everywhere": 1.0})(outcome())


def test_a_reward_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'flat' has shape \(2,\)"):
        combine({"flat": lambda of: torch.ones(2)}, {"flat": 1.0})(outcome())


def test_rewards_scaled_by_group_weigh_the_same_whatever_their_range() -> None:
    mask = torch.tensor([[True, True]] * 4)
    judged = Outcome(
        tokens=Tokens(ids=mask.long(), mask=mask),
        pieces=[[" a"]] * 4,
        ended=mask[:, 0],
        images=None,
        references=[""] * 4,
        group=torch.tensor([3, 3, 1, 1]),
    )

    def wide(of: Outcome) -> torch.Tensor:
        return on_last_token(torch.tensor([100.0, 300.0, 5.0, 5.0]), of.tokens)

    def by_token(of: Outcome) -> torch.Tensor:
        return torch.tensor([[0.02, 0.0], [0.0, 0.01], [0.04, 0.0], [0.01, 0.01]])

    judge = combine({"wide": wide, "tokens": by_token}, {"wide": 1.0, "tokens": 10.0}, scale="group")
    rewards, parts = judge(judged)
    half = math.sqrt(0.5)
    assert parts["wide"].tolist() == [100, 300, 5, 5]
    torch.testing.assert_close(parts["tokens"], torch.tensor([0.02, 0.01, 0.04, 0.02]))
    # Totals differ by 200 and .01 in the first group; by 0 and .02 in the second.
    wanted = torch.tensor([-1.0, 1.0, 0.0, 0.0]) + 10 * torch.tensor([1.0, -1.0, 1.0, -1.0])
    torch.testing.assert_close(rewards.sum(1), half * wanted, rtol=0.03, atol=1e-3)
    # A group that agrees earns nothing, its tokens keep theirs before the mean is taken off.
    assert rewards[0, 0] > 0 > rewards[0, 1]


def test_scaling_by_group_needs_groups() -> None:
    with pytest.raises(ValueError, match="the outcome has no groups"):
        combine({"whole": whole}, {"whole": 1.0}, scale="group")(outcome())
    with pytest.raises(ValueError, match="scale is 'batch'"):
        combine({"whole": whole}, {"whole": 1.0}, scale=cast("Any", "batch"))
