"""A policy against an older and a frozen one: clipped ratios of tokens and of whole sequences, divergence."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor


def clipped_ratio(
    log_probs: Float[Tensor, "*B T"],
    old_log_probs: Float[Tensor, "*B T"],
    advantages: Float[Tensor, "*B T"],
    *,
    low: float | None,
    high: float | None,
) -> Float[Tensor, "*B T"]:
    """`-min(r A, clip(r, 1 - low, 1 + high) A)` with `r = p / p_old`: the loss of PPO and GRPO.

    None leaves the ratio free on that side.

    With `old_log_probs = log_probs.detach()` its gradient is the policy gradient's, and nothing is clipped.

    >>> import torch
    >>> old, A = torch.zeros(1, 3), torch.tensor([[1.0, 1.0, -1.0]])
    >>> clipped_ratio(torch.log(torch.tensor([[1.1, 1.5, 1.5]])), old, A, low=0.2, high=0.2)
    tensor([[-1.1000, -1.2000,  1.5000]])
    """
    ratio = (log_probs - old_log_probs).exp()
    if low is None and high is None:
        return -ratio * advantages
    kept = ratio.clamp(None if low is None else 1 - low, None if high is None else 1 + high)
    return -(ratio * advantages).minimum(kept * advantages)


def is_clipped(
    log_probs: Float[Tensor, "*B T"],
    old_log_probs: Float[Tensor, "*B T"],
    advantages: Float[Tensor, "*B T"],
    *,
    low: float | None,
    high: float | None,
) -> Bool[Tensor, "*B T"]:
    """True where the clipped ratio stops a token's gradient.

    >>> import torch
    >>> ratios, A = torch.tensor([[1.5, 1.5, 0.5]]), torch.tensor([[1.0, -1.0, -1.0]])
    >>> is_clipped(ratios.log(), torch.zeros(1, 3), A, low=0.2, high=0.2)
    tensor([[ True, False,  True]])
    """
    ratio = (log_probs - old_log_probs).exp()
    above = (ratio > 1 + (float("inf") if high is None else high)) & (advantages > 0)
    below = (ratio < 1 - (float("inf") if low is None else low)) & (advantages < 0)
    return above | below


def sequence_log_probs(log_probs: Float[Tensor, "*B T"], mask: Bool[Tensor, "*B T"]) -> Float[Tensor, "*B T"]:
    """The mean log-probability of a sequence on each of its tokens, 0 where masked: for GSPO's ratio.

    The difference of two such means is the logarithm of `(p / p_old) ** (1 / length)` of the whole sequence.

    >>> import torch
    >>> mask = torch.tensor([[True, True, False]])
    >>> sequence_log_probs(torch.tensor([[-1.0, -3.0, -9.0]]), mask)
    tensor([[-2., -2.,  0.]])
    """
    kept = log_probs.masked_fill(~mask, 0)
    mean = kept.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    return mean.expand_as(kept).masked_fill(~mask, 0)


def kl_to_reference(
    log_probs: Float[Tensor, "*B T"], reference_log_probs: Float[Tensor, "*B T"]
) -> Float[Tensor, "*B T"]:
    """`q / p - log(q / p) - 1` of a drawn token, q the reference: at least 0, its mean is KL(p || q) in nats.

    The estimator of GRPO (arXiv 2402.03300, eq. 4), often called k3.

    >>> import torch
    >>> kl_to_reference(torch.log(torch.tensor([[0.5, 0.25]])), torch.log(torch.tensor([[0.5, 0.5]])))
    tensor([[0.0000, 0.3069]])
    """
    difference = reference_log_probs - log_probs
    return difference.exp() - difference - 1
