"""Baselines without a critic: the greedy caption's reward (self-critical training), or the other samples'.

Differences from the papers:
1. SCST (Rennie et al., arXiv 1612.00563) sums log-probabilities over a caption and averages over captions.
   Here the loss is their mean over the tokens of the batch, which differs by one factor a step.
2. `GreedyBaseline` has the same baseline in VLRM's terms: its objective and shares, and advantages that are
   standardized over the batch, which takes their mean out as well.
3. `GroupBaseline` credits a token with the rewards from it onwards and subtracts the mean total of the
   image's other captions (leave-one-out, Kool et al. 2019) or of all (as GRPO, arXiv 2402.03300, but
   without its ratio and penalty: each caption is used once).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sightloop.algorithms.a2c import AVERAGES, AverageOver, Objective, only_turn, policy_loss, require_choices
from sightloop.algorithms.credit import discounted_returns, group_mean, other_mean, require_company
from sightloop.algorithms.masked import standardize
from sightloop.types import Credit, LossOutput, Policy, Reduction, Rollout, Sampling, identity_reduction


def self_critical(
    rewards: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], baseline: Float[Tensor, " B"]
) -> Float[Tensor, "B T"]:
    """Total reward of a sample minus its baseline, on each of its tokens; 0 where masked.

    >>> mask = torch.tensor([[True, True, False]])
    >>> self_critical(torch.tensor([[1.0, 3.0, 0.0]]), mask, torch.tensor([1.5]))
    tensor([[2.5000, 2.5000, 0.0000]])
    """
    totals = rewards.masked_fill(~mask, 0).sum(1)
    return (totals - baseline)[:, None] * mask


@dataclass(frozen=True, kw_only=True)
class GreedyBaseline:
    """The sampled caption's total reward minus that of the greedy caption."""

    objective: Objective = "probability"
    average_over: AverageOver = "caption"
    standardized: bool = True
    """Advantages to mean 0 and standard deviation 1 over the samples of all ranks."""
    under: Sampling | None = None
    """The distribution whose probabilities are pushed; None = the model's own."""
    reduce: Reduction = identity_reduction

    def __post_init__(self) -> None:
        require_choices(objective=self.objective, average_over=self.average_over, gamma=1.0, under=self.under)

    @torch.no_grad()
    def credit(self, policy: Policy, rollout: Rollout) -> Credit:
        """Total reward minus the greedy caption's, on every token of the sample.

        Raises:
            ValueError: the rollout has no baseline.
        """
        if rollout.baseline is None:
            raise ValueError(
                "the rollout has no baseline; the algorithm needs greedy captions judged while collecting"
            )
        mask = only_turn(rollout).tokens.mask
        advantages = self_critical(rollout.rewards, mask, rollout.baseline)
        if self.standardized:
            # Per sample: a long caption must not count more often than a short one.
            first = mask.int().argmax(1, keepdim=True)
            samples, present = advantages.gather(1, first), mask.gather(1, first)
            advantages = standardize(samples, present, reduce=self.reduce) * mask
        return Credit(
            advantages=advantages,
            loss_weights=AVERAGES[self.average_over](mask, reduce=self.reduce, dtype=advantages.dtype),
        )

    def loss(self, policy: Policy, rollout: Rollout, credit: Credit) -> LossOutput:
        """The objective of each token."""
        return policy_loss(policy, only_turn(rollout), credit, objective=self.objective, under=self.under)


@dataclass(frozen=True, kw_only=True)
class SCST:
    """Self-critical training as published: the log-probability of each token times the caption's total reward
    minus that of the greedy caption, which is not scaled.
    """

    under: Sampling | None = None
    """The distribution whose probabilities are pushed; None = the model's own."""
    reduce: Reduction = identity_reduction

    def __post_init__(self) -> None:
        self._plain()

    def credit(self, policy: Policy, rollout: Rollout) -> Credit:
        """Total reward minus the greedy caption's, on every token of the sample.

        Raises:
            ValueError: the rollout has no baseline.
        """
        return self._plain().credit(policy, rollout)

    def loss(self, policy: Policy, rollout: Rollout, credit: Credit) -> LossOutput:
        """`-log p` times the advantage of each token."""
        return self._plain().loss(policy, rollout, credit)

    def _plain(self) -> GreedyBaseline:
        return GreedyBaseline(
            objective="log_probability",
            average_over="token",
            standardized=False,
            under=self.under,
            reduce=self.reduce,
        )


@dataclass(frozen=True, kw_only=True)
class GroupBaseline:
    """Several captions an image: each token's return minus the mean total of the group, standardized."""

    gamma: float = 1.0
    leave_one_out: bool = True
    """Baseline from the other captions only, which keeps the gradient unbiased; False = from all."""
    objective: Objective = "log_probability"
    average_over: AverageOver = "caption"
    standardized: bool = True
    under: Sampling | None = None
    """The distribution whose probabilities are pushed; None = the model's own."""
    reduce: Reduction = identity_reduction

    def __post_init__(self) -> None:
        require_choices(
            objective=self.objective, average_over=self.average_over, gamma=self.gamma, under=self.under
        )

    @torch.no_grad()
    def credit(self, policy: Policy, rollout: Rollout) -> Credit:
        """Returns minus the group's mean return of the first token.

        Raises:
            ValueError: an image has a single caption, which leaves nothing to compare it with.
        """
        mask = only_turn(rollout).tokens.mask
        returns = discounted_returns(rollout.rewards, mask, self.gamma)
        totals = returns.gather(1, mask.int().argmax(1, keepdim=True))[:, 0]
        require_company(rollout.group)
        average = other_mean if self.leave_one_out else group_mean
        baseline = average(totals, rollout.group)
        advantages = (returns - baseline[:, None]).masked_fill(~mask, 0)
        if self.standardized:
            advantages = standardize(advantages, mask, reduce=self.reduce)
        return Credit(
            advantages=advantages,
            loss_weights=AVERAGES[self.average_over](mask, reduce=self.reduce, dtype=advantages.dtype),
        )

    def loss(self, policy: Policy, rollout: Rollout, credit: Credit) -> LossOutput:
        """The objective of each token."""
        return policy_loss(policy, only_turn(rollout), credit, objective=self.objective, under=self.under)
