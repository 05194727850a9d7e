from typing import Any

import pytest
import torch
from torch import Tensor

from sightloop.algorithms.credit import group_relative, groups_with_signal, other_mean, require_company
from sightloop.algorithms.masked import weights_per_length
from sightloop.algorithms.ratios import clipped_ratio, is_clipped, kl_to_reference, sequence_log_probs


def test_ratios_within_the_clip_are_free_and_beyond_it_flat() -> None:
    old = torch.zeros(1, 4)
    new = torch.log(torch.tensor([[1.1, 1.3, 0.7, 0.7]])).requires_grad_()
    worth = torch.tensor([[2.0, 2.0, 2.0, -2.0]])
    loss = clipped_ratio(new, old, worth, low=0.2, high=0.2)
    # A shrunken ratio with a positive advantage stays free: the minimum is the unclipped one.
    torch.testing.assert_close(loss, torch.tensor([[-2.2, -2.4, -1.4, 1.6]]))
    (slope,) = torch.autograd.grad(loss.sum(), new)
    torch.testing.assert_close(slope, torch.tensor([[-2.2, 0.0, -1.4, 0.0]]))
    assert is_clipped(new, old, worth, low=0.2, high=0.2).tolist() == [[False, True, False, True]]


def test_each_side_of_the_clip_has_its_own_bound_or_none() -> None:
    old, worth = torch.zeros(1, 2), torch.tensor([[1.0, -1.0]])
    new = torch.log(torch.tensor([[1.25, 0.1]]))
    torch.testing.assert_close(
        clipped_ratio(new, old, worth, low=0.2, high=0.28), torch.tensor([[-1.25, 0.8]])
    )
    torch.testing.assert_close(
        clipped_ratio(new, old, worth, low=None, high=0.2), torch.tensor([[-1.2, 0.1]])
    )
    assert is_clipped(new, old, worth, low=None, high=None).tolist() == [[False, False]]


def test_the_divergence_is_0_for_the_same_policy_and_its_mean_is_the_true_one() -> None:
    law, reference = torch.randn(1, 6).log_softmax(1), torch.randn(1, 6).log_softmax(1)
    assert kl_to_reference(law, law).abs().max() == 0
    found = kl_to_reference(law, reference)
    assert (found > 0).all()
    torch.testing.assert_close((law.exp() * found).sum(), (law.exp() * (law - reference)).sum())


def test_a_sequences_mean_is_over_its_own_tokens() -> None:
    log_probs = torch.tensor([[-1.0, -2.0, -6.0], [-4.0, -9.0, -9.0], [-1.0, -1.0, -1.0]])
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    assert sequence_log_probs(log_probs, mask).tolist() == [[-3, -3, -3], [-4, 0, 0], [0, 0, 0]]


def test_a_constant_length_makes_a_long_text_weigh_more_than_a_short_one() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    # Two samples have tokens: 1 / (2 * 5) each.
    torch.testing.assert_close(weights_per_length(mask, 5), mask / 10)


def test_groups_on_two_ranks_compare_with_all_their_samples() -> None:
    totals, group = torch.tensor([1.0, 3.0, 8.0, 0.0, 4.0]), torch.tensor([7, 7, 1, 1, 7])
    here = torch.tensor([0, 2])
    there = torch.tensor([1, 3, 4])

    def gather(tensor: Tensor, /) -> list[Tensor]:
        whole = totals if tensor.is_floating_point() else group
        sign = -1 if tensor.is_floating_point() and (tensor < 0).any() else 1
        return [sign * whole[here], sign * whole[there]]

    settings: dict[str, Any]
    for settings in ({}, {"divide_by_std": False}, {"leave_one_out": True}):
        whole = group_relative(totals, group, **settings)
        part = group_relative(totals[here], group[here], gather=gather, **settings)
        torch.testing.assert_close(part, whole[here])
    assert other_mean(totals[here], group[here], gather=gather).tolist() == [3.5, 0]
    require_company(group[here], gather=gather)
    assert groups_with_signal(totals[here], group[here], gather=gather).tolist() == [True, True]
    with pytest.raises(ValueError, match="group 7 has a single sample"):
        require_company(group[here])
