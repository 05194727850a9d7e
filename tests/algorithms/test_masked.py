import math

import pytest
import torch
from torch import Tensor

from sightloop.algorithms.masked import (
    explained_variance,
    masked_mean,
    standard_deviation,
    standardize,
    weights_per_sample,
    weights_per_token,
)

MASK = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])


class Ranks:
    """Sums what two ranks gave; each rank is asked in turn, the other's numbers are known from a dry run."""

    def __init__(self, others: list[Tensor]) -> None:
        self.others = others

    def __call__(self, tensor: Tensor, /) -> Tensor:
        return tensor + self.others.pop(0)


def recorded(function, *args: Tensor, others: list[list[Tensor]]) -> list[Tensor]:
    """What one rank hands to the reduction, in order, given what the other ranks hand over."""
    given: list[Tensor] = []

    def reduce(tensor: Tensor, /) -> Tensor:
        given.append(tensor)
        return tensor + sum((other[len(given) - 1] for other in others), torch.zeros_like(tensor))

    function(*args, reduce=reduce)
    return given


def on_two_ranks(function, first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The results of both ranks, found by playing each reduction in turn until both know all sums."""
    blank = recorded(function, *first, others=[])
    sums = [[torch.zeros_like(tensor) for tensor in blank] for _ in range(2)]
    for _ in blank:
        one = recorded(function, *first, others=[sums[1]])
        two = recorded(function, *second, others=[sums[0]])
        sums = [one, two]
    results = (
        function(*first, reduce=Ranks(list(sums[1]))),
        function(*second, reduce=Ranks(list(sums[0]))),
    )
    return results


def test_masked_tokens_do_not_enter_the_mean() -> None:
    x = torch.tensor([[1.0, 2.0, 50.0], [3.0, 50.0, math.nan], [4.0, 5.0, 6.0]])
    assert masked_mean(x, MASK) == pytest.approx(21 / 6)


def test_the_standard_deviation_divides_by_one_less_than_the_number_of_tokens() -> None:
    x = torch.tensor([[2.0, 4.0, 99.0]])
    mask = torch.tensor([[True, True, False]])
    assert standard_deviation(x, mask) == pytest.approx(math.sqrt(2))


def test_standardized_numbers_have_mean_0_and_deviation_1_over_the_whole_batch() -> None:
    x = 1000 + 3 * torch.randn(3, 3)
    result = standardize(x, MASK)
    kept = result[MASK]
    assert kept.mean() == pytest.approx(0, abs=1e-4)
    assert kept.std() == pytest.approx(1, abs=1e-4)
    assert (result[~MASK] == 0).all()


def test_more_padding_changes_nothing() -> None:
    x = torch.randn(3, 3)
    wide = torch.nn.functional.pad(x, (0, 4), value=7.0)
    wide_mask = torch.nn.functional.pad(MASK, (0, 4))
    torch.testing.assert_close(standardize(wide, wide_mask)[:, :3], standardize(x, MASK))
    torch.testing.assert_close(weights_per_sample(wide_mask)[:, :3], weights_per_sample(MASK))


@pytest.mark.parametrize("value", [0.1, -2.3, 1e3, 7e-5])
def test_equal_numbers_standardize_to_0_whatever_their_rounding(value: float) -> None:
    x = torch.full((4096, 25), value)
    mask = torch.rand(4096, 25) < 0.7
    assert standardize(x, mask).abs().max() < 1e-3


def test_a_single_token_standardizes_to_0() -> None:
    x, mask = torch.tensor([[3.0, 8.0]]), torch.tensor([[True, False]])
    assert standardize(x, mask).tolist() == [[0, 0]]
    assert standard_deviation(x, mask) == 0


def test_an_empty_batch_gives_zeros_and_no_nan() -> None:
    x, mask = torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool)
    assert masked_mean(x, mask) == 0
    assert standardize(x, mask).abs().sum() == 0
    assert weights_per_sample(mask).sum() == 0
    assert weights_per_token(mask).sum() == 0


def test_each_caption_weighs_the_same() -> None:
    third = 1 / 3
    expected = [[third / 2, third / 2, 0], [third, 0, 0], [third / 3, third / 3, third / 3]]
    torch.testing.assert_close(weights_per_sample(MASK), torch.tensor(expected))


def test_a_caption_without_tokens_takes_no_share() -> None:
    mask = torch.tensor([[False, False], [True, True]])
    assert weights_per_sample(mask).tolist() == [[0, 0], [0.5, 0.5]]


def test_each_token_weighs_the_same() -> None:
    torch.testing.assert_close(weights_per_token(MASK), MASK.float() / 6)


@pytest.mark.parametrize("cut", [1, 2])
def test_two_ranks_standardize_as_one_does(cut: int) -> None:
    x = 5 + torch.randn(3, 3)
    first, second = on_two_ranks(standardize, (x[:cut], MASK[:cut]), (x[cut:], MASK[cut:]))
    torch.testing.assert_close(torch.cat([first, second]), standardize(x, MASK))


@pytest.mark.parametrize("function", [weights_per_sample, weights_per_token])
def test_the_shares_of_two_ranks_sum_to_1(function) -> None:
    first, second = on_two_ranks(function, (MASK[:1],), (MASK[1:],))
    torch.testing.assert_close(torch.cat([first, second]), function(MASK))
    assert first.sum() + second.sum() == pytest.approx(1)


def test_explained_variance_of_hand_made_values() -> None:
    mask = torch.tensor([[True, True, True]])
    returns = torch.tensor([[0.0, 2.0, 4.0]])
    # Errors 0, 0, 3 have variance 3; the returns have variance 4.
    values = torch.tensor([[0.0, 2.0, 1.0]])
    assert explained_variance(values, returns, mask) == pytest.approx(1 - 3 / 4)


def test_explained_variance_of_equal_returns_is_0() -> None:
    mask = torch.tensor([[True, True]])
    assert explained_variance(torch.tensor([[1.0, 5.0]]), torch.tensor([[0.3, 0.3]]), mask) == 0
