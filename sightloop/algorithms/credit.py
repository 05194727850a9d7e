"""What a token or a sample is worth: discounted returns, and totals against their group."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Gather(Protocol):
    """Every rank's tensor, in the order of ranks, on every rank."""

    def __call__(self, tensor: Tensor, /) -> list[Tensor]: ...


def identity_gather(tensor: Tensor, /) -> list[Tensor]:
    """The gathering of a run on one rank: the tensor alone."""
    return [tensor]


def discounted_returns(
    rewards: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], gamma: float = 1.0
) -> Float[Tensor, "B T"]:
    """Reward of a token and all later ones, discounted by `gamma` a token; 0 where masked. VLRM's eq. 1.

    Masked tokens earn nothing and take no time.

    >>> mask = torch.tensor([[True, True, True]])
    >>> discounted_returns(torch.tensor([[0.0, 0.0, 1.0]]), mask, 0.5)
    tensor([[0.2500, 0.5000, 1.0000]])
    >>> discounted_returns(torch.tensor([[-1.0, 0.0, 2.0]]), mask)
    tensor([[1., 2., 2.]])
    """
    later = torch.zeros_like(rewards[:, 0])
    columns: list[Tensor] = []
    for reward, counts in zip(reversed(rewards.unbind(1)), reversed(mask.unbind(1)), strict=True):
        later = torch.where(counts, reward + gamma * later, later)
        columns.append(later)
    return torch.stack(columns[::-1], 1).masked_fill(~mask, 0)


def other_mean(
    totals: Float[Tensor, " B"], group: Int[Tensor, " B"], *, gather: Gather = identity_gather
) -> Float[Tensor, " B"]:
    """Mean total of the OTHER samples of each sample's group: a baseline that does not know the sample.

    Raises:
        ValueError: a group has one sample only.

    >>> other_mean(torch.tensor([1.0, 3.0, 8.0, 5.0]), torch.tensor([7, 7, 7, 7]))
    tensor([5.3333, 4.6667, 3.0000, 4.0000])
    """
    require_company(group, gather=gather)
    everyone, same = _same_group(totals, group, gather)
    return ((same * everyone).sum(1) - totals) / (same.sum(1) - 1)


def group_mean(
    totals: Float[Tensor, " B"], group: Int[Tensor, " B"], *, gather: Gather = identity_gather
) -> Float[Tensor, " B"]:
    """Mean total of each sample's group, the sample itself included.

    >>> group_mean(torch.tensor([1.0, 3.0, 8.0]), torch.tensor([7, 7, 2]))
    tensor([2., 2., 8.])
    """
    everyone, same = _same_group(totals, group, gather)
    return (same * everyone).sum(1) / same.sum(1)


def group_best(
    totals: Float[Tensor, " B"], group: Int[Tensor, " B"], *, gather: Gather = identity_gather
) -> Float[Tensor, " B"]:
    """Highest total of each sample's group.

    >>> group_best(torch.tensor([1.0, 3.0, -8.0]), torch.tensor([7, 7, 2]))
    tensor([ 3.,  3., -8.])
    """
    everyone, same = _same_group(totals, group, gather)
    return everyone.expand(len(totals), -1).masked_fill(same == 0, -torch.inf).amax(1)


def groups_with_signal(
    totals: Float[Tensor, " B"], group: Int[Tensor, " B"], *, gather: Gather = identity_gather
) -> Bool[Tensor, " B"]:
    """True for the samples of groups whose totals are not all the same: only these can teach anything.

    >>> groups_with_signal(torch.tensor([1.0, 3.0, 8.0, 8.0]), torch.tensor([7, 7, 2, 2]))
    tensor([ True,  True, False, False])
    """
    best = group_best(totals, group, gather=gather)
    return best != -group_best(-totals, group, gather=gather)


def group_relative(
    totals: Float[Tensor, " B"],
    group: Int[Tensor, " B"],
    *,
    divide_by_std: bool = True,
    leave_one_out: bool = False,
    eps: float = 1e-4,
    gather: Gather = identity_gather,
) -> Float[Tensor, " B"]:
    """Totals minus the mean of their group, divided by (the group's std (n - 1) + `eps`) if asked.

    With `gather` a group may lie on several ranks. A single sample, and a group that agrees, get 0.

    Raises:
        ValueError: `leave_one_out` with a group of one sample.

    >>> totals, group = torch.tensor([1.0, 3.0, 4.0, 4.0]), torch.tensor([0, 0, 1, 1])
    >>> group_relative(totals, group, divide_by_std=False)
    tensor([-1.,  1.,  0.,  0.])
    >>> group_relative(totals, group, divide_by_std=False, leave_one_out=True)
    tensor([-2.,  2.,  0.,  0.])
    """
    everyone, same = _same_group(totals, group, gather)
    size = same.sum(1)
    mean = (same * everyone).sum(1) / size
    advantages = totals - (other_mean(totals, group, gather=gather) if leave_one_out else mean)
    if not divide_by_std:
        return advantages
    variance = (same * (everyone[None] - mean[:, None]).square()).sum(1) / (size - 1).clamp(min=1)
    return advantages / (variance.sqrt() + eps)


def batch_standardized(
    values: Float[Tensor, " B"], *, eps: float = 1e-4, gather: Gather = identity_gather
) -> Float[Tensor, " B"]:
    """Values less the mean of all ranks' batch, divided by (its standard deviation (n - 1) + `eps`).

    >>> batch_standardized(torch.tensor([1.0, 2.0, 3.0]), eps=0)
    tensor([-1.,  0.,  1.])
    """
    everyone = torch.cat([part.to(values.device) for part in gather(values)])
    return (values - everyone.mean()) / (everyone.std() + eps)


def require_company(group: Int[Tensor, " B"], *, gather: Gather = identity_gather) -> None:
    """Check that every group has at least two samples, on all ranks together.

    Raises:
        ValueError: a group has one sample only.
    """
    ids = [name for part in gather(group) for name in map(int, part.cpu())]
    alone = [name for name, size in Counter(ids).items() if size < 2]
    if alone:
        raise ValueError(
            f"group {alone[0]} has a single sample; its baseline needs at least 2 samples a prompt"
        )


def _same_group(
    totals: Tensor, group: Tensor, gather: Gather
) -> tuple[Float[Tensor, " N"], Float[Tensor, "B N"]]:
    # Row sums, not a matrix product or a scatter: exact in float32 and the same in every run on every device.
    # In the order of ranks, so that all ranks of a group find the same mean to the last bit.
    everyone = torch.cat([part.to(totals.device) for part in gather(totals)])
    groups = torch.cat([part.to(group.device) for part in gather(group)])
    return everyone, (group[:, None] == groups[None, :]).to(totals.dtype).to(totals.device)
