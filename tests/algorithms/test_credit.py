import pytest
import torch

from sightloop.algorithms.credit import discounted_returns, group_mean, group_relative, other_mean


def test_returns_sum_the_rewards_from_a_token_onwards() -> None:
    rewards = torch.tensor([[-1.0, 0.0, -2.0, 5.0]])
    assert discounted_returns(rewards, torch.ones(1, 4, dtype=torch.bool)).tolist() == [[2, 3, 3, 5]]


def test_a_discount_shrinks_later_rewards() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0]])
    # 4; 2 + .5 * 4; 1 + .5 * 4.
    returns = discounted_returns(rewards, torch.ones(1, 3, dtype=torch.bool), 0.5)
    assert returns.tolist() == [[3, 4, 4]]


def test_masked_tokens_earn_nothing_and_take_no_time() -> None:
    rewards = torch.tensor([[1.0, 9.0, 2.0, 9.0]])
    mask = torch.tensor([[True, False, True, False]])
    assert discounted_returns(rewards, mask, 0.5).tolist() == [[2, 0, 2, 0]]


def test_gamma_0_keeps_each_tokens_own_reward() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0]])
    assert discounted_returns(rewards, torch.ones(1, 3, dtype=torch.bool), 0.0).tolist() == [[1, 2, 4]]


def test_a_reward_of_the_whole_text_reaches_every_token_undiminished() -> None:
    rewards = torch.zeros(1, 5)
    rewards[0, 3] = 7.5
    mask = torch.tensor([[True, True, True, True, False]])
    assert discounted_returns(rewards, mask).tolist() == [[7.5, 7.5, 7.5, 7.5, 0]]


def test_groups_are_found_by_their_ids_in_any_order() -> None:
    totals = torch.tensor([1.0, 10.0, 3.0, 20.0])
    group = torch.tensor([5, -2, 5, -2])
    assert group_relative(totals, group, divide_by_std=False).tolist() == [-1, -5, 1, 5]


def test_group_advantages_are_in_units_of_the_groups_deviation() -> None:
    totals, group = torch.tensor([1.0, 3.0, 10.0, 50.0]), torch.tensor([0, 0, 1, 1])
    half = 0.5**0.5
    result = group_relative(totals, group, eps=0.0)
    torch.testing.assert_close(result, torch.tensor([-half, half, -half, half]))


def test_credit_is_zero_when_a_group_agrees() -> None:
    totals, group = torch.full((4,), 0.1), torch.tensor([0, 0, 0, 1])
    assert group_relative(totals, group).abs().max() < 1e-3


def test_leave_one_out_compares_with_the_others_only() -> None:
    totals, group = torch.tensor([1.0, 3.0, 8.0]), torch.zeros(3, dtype=torch.long)
    assert other_mean(totals, group).tolist() == [5.5, 4.5, 2.0]
    assert group_mean(totals, group).tolist() == [4, 4, 4]
    result = group_relative(totals, group, divide_by_std=False, leave_one_out=True)
    assert result.tolist() == [-4.5, -1.5, 6.0]


def test_leave_one_out_of_a_single_sample_is_refused_by_its_group() -> None:
    with pytest.raises(ValueError, match="group 8 has a single sample"):
        other_mean(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4, 8, 4]))


def test_group_means_are_exact_where_reduced_precision_products_are_allowed() -> None:
    totals = 1000 + torch.arange(6.0) / 64
    products = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before = products.fp32_precision
    products.fp32_precision = "bf16"
    try:
        result = group_relative(totals, torch.zeros(6, dtype=torch.long), divide_by_std=False)
    finally:
        products.fp32_precision = before
    torch.testing.assert_close(result, totals - totals.mean())
