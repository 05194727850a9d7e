"""Statistics over the tokens that count, and each token's weight in the batch loss.

Every statistic is over the whole batch: `reduce` sums over ranks, so any split of the rows gives the same
numbers.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sightloop.types import Reduction, identity_reduction


def masked_mean(
    x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, reduce: Reduction = identity_reduction
) -> Float[Tensor, ""]:
    """Mean over the tokens that count, on all ranks; 0 if there are none.

    >>> masked_mean(torch.tensor([[1.0, 5.0, 9.0]]), torch.tensor([[True, True, False]]))
    tensor(3.)
    """
    kept = x.masked_fill(~mask, 0)
    total, count = reduce(torch.stack([kept.sum(), mask.sum().to(x.dtype)])).unbind()
    return total / count.clamp(min=1)


def centered(
    x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, reduce: Reduction = identity_reduction
) -> Float[Tensor, "B T"]:
    """`x` minus its masked mean, 0 where masked.

    >>> centered(torch.tensor([[1.0, 5.0, 9.0]]), torch.tensor([[True, True, False]]))
    tensor([[-2.,  2.,  0.]])
    """
    once = (x - masked_mean(x, mask, reduce=reduce)).masked_fill(~mask, 0)
    # The first mean's rounding error would pass for spread if all values were equal: take it out as well.
    return (once - masked_mean(once, mask, reduce=reduce)).masked_fill(~mask, 0)


def standard_deviation(
    x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, reduce: Reduction = identity_reduction
) -> Float[Tensor, ""]:
    """Standard deviation (n - 1) over the tokens that count, on all ranks; 0 if there are fewer than two.

    >>> standard_deviation(torch.tensor([[1.0, 3.0, 5.0, 70.0]]), torch.tensor([[True, True, True, False]]))
    tensor(2.)
    """
    return _spread(centered(x, mask, reduce=reduce), mask, reduce)


def standardize(
    x: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    reduce: Reduction = identity_reduction,
    eps: float = 1e-8,
) -> Float[Tensor, "B T"]:
    """`(x - mean) / (std + eps)` over the tokens that count, on all ranks; 0 where masked. VLRM's eq. 3.

    >>> standardize(torch.tensor([[1.0, 3.0, 5.0, 70.0]]), torch.tensor([[True, True, True, False]]))
    tensor([[-1.,  0.,  1.,  0.]])
    >>> standardize(torch.tensor([[0.1, 0.1]]), torch.tensor([[True, True]]))
    tensor([[0., 0.]])
    """
    middle = centered(x, mask, reduce=reduce)
    return middle / (_spread(middle, mask, reduce) + eps)


def _spread(middle: Tensor, mask: Tensor, reduce: Reduction) -> Tensor:
    sums = torch.stack([middle.square().sum(), mask.sum().to(middle.dtype)])
    squares, count = reduce(sums).unbind()
    return (squares / (count - 1).clamp(min=1)).sqrt()


def weights_per_sample(
    mask: Bool[Tensor, "B T"], *, reduce: Reduction = identity_reduction, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "B T"]:
    """Every sample weighs the same, and its tokens share alike; sums to 1 on all ranks. VLRM's eqs. 2 and 4.

    >>> weights_per_sample(torch.tensor([[True, True], [True, False]]))
    tensor([[0.2500, 0.2500],
            [0.5000, 0.0000]])
    """
    tokens = mask.sum(dim=1, keepdim=True, dtype=dtype)
    samples = reduce((tokens > 0).sum(dtype=dtype))
    return mask / (tokens.clamp(min=1) * samples.clamp(min=1))


def weights_per_token(
    mask: Bool[Tensor, "B T"], *, reduce: Reduction = identity_reduction, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "B T"]:
    """Every token weighs the same, whatever sample it is in; sums to 1 on all ranks.

    >>> weights_per_token(torch.tensor([[True, True, True], [True, False, False]]))
    tensor([[0.2500, 0.2500, 0.2500],
            [0.2500, 0.0000, 0.0000]])
    """
    return mask / reduce(mask.sum(dtype=dtype)).clamp(min=1)


def weights_per_length(
    mask: Bool[Tensor, "B T"],
    length: int,
    *,
    reduce: Reduction = identity_reduction,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "B T"]:
    """Every token weighs `1 / length` of a sample, however many the sample has (Dr. GRPO, arXiv 2503.20783).

    Sums to less than 1 where samples are shorter than `length`.

    >>> weights_per_length(torch.tensor([[True, True, True], [True, False, False]]), 4)
    tensor([[0.1250, 0.1250, 0.1250],
            [0.1250, 0.0000, 0.0000]])
    """
    samples = reduce(mask.any(1).sum(dtype=dtype))
    return mask / (length * samples.clamp(min=1))


def explained_variance(
    values: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    reduce: Reduction = identity_reduction,
) -> Float[Tensor, ""]:
    """`1 - var(returns - values) / var(returns)`: 1 for a perfect critic, 0 for a constant one.

    0 if all returns are equal.

    >>> returns, mask = torch.tensor([[1.0, 3.0]]), torch.tensor([[True, True]])
    >>> explained_variance(returns + 7, returns, mask), explained_variance(0 * returns, returns, mask)
    (tensor(1.), tensor(0.))
    """
    of_returns = standard_deviation(returns, mask, reduce=reduce).square()
    of_errors = standard_deviation(returns - values, mask, reduce=reduce).square()
    explained = 1 - of_errors / of_returns.clamp(min=1e-30)
    return explained.where(of_returns > 0, 0.0)
