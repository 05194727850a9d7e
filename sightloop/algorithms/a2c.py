"""A2C as VLRM uses it (arXiv 2404.01911): returns minus a learned baseline, each caption used once.

Differences from the paper:
1. Eq. 4 prints the probability p_k where A2C has its logarithm. Both are here; the printed form is the
   preset.
2. The paper does not say under which law p_k is computed. The model's own (full vocabulary, temperature 1) is
   the preset; `under` gives another, such as the one that drew the tokens.
3. The paper updates the critic and the policy in two passes. Their parameters are disjoint (value head and
   adapters against queries, Q-Former and projection) and neither loss reaches the other's, so one backward
   pass over the sum and one optimizer step give the same update. Advantages come from the critic before that
   step, as in the paper.
4. "Across the whole batch" of eq. 3 is read as: over all tokens that count, of all ranks; padding never
   enters.
5. Eqs. 2 and 4 define the loss of one caption. The batch loss is read as their mean: each caption weighs the
   same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sightloop.algorithms.credit import discounted_returns
from sightloop.algorithms.masked import shares_per_sample, shares_per_token, standardise
from sightloop.types import (
    Credit,
    Critic,
    LossOutput,
    Policy,
    Reduction,
    Rollout,
    Sampling,
    Turn,
    one_rank,
)

Objective = Literal["probability", "log_probability"]
Share = Literal["caption", "token"]

SHARES = {"caption": shares_per_sample, "token": shares_per_token}
"""How the loss is averaged: each caption weighs the same, or each token."""


def policy_gradient(
    log_probs: Float[Tensor, "B T"], advantages: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """`-log p * A`: descending it raises the expected reward of tokens drawn under the law of `log_probs`.

    >>> policy_gradient(torch.tensor([[-2.0, -1.0]]), torch.tensor([[1.0, -3.0]]))
    tensor([[ 2., -3.]])
    """
    return -log_probs * advantages


def probability_gradient(
    log_probs: Float[Tensor, "B T"], advantages: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """`-p * A`, VLRM's eq. 4 as printed: a token's push shrinks with its probability.

    >>> probability_gradient(torch.log(torch.tensor([[0.5, 0.25]])), torch.tensor([[1.0, -2.0]]))
    tensor([[-0.5000,  0.5000]])
    """
    return -log_probs.exp() * advantages


OBJECTIVES = {"probability": probability_gradient, "log_probability": policy_gradient}
"""What is descended, by name."""


def value_error(values: Float[Tensor, "B T"], returns: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Squared error of a critic, VLRM's eq. 2.

    >>> value_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 2.0]]))
    tensor([[9., 0.]])
    """
    return (returns - values).square()


def policy_loss(
    policy: Policy, turn: Turn, credit: Credit, *, objective: Objective, under: Sampling | None
) -> LossOutput:
    """The objective of each token of `turn`, with the metrics that every algorithm logs."""
    scores = policy.score(turn, under)
    per_token = OBJECTIVES[objective](scores.log_probs, credit.advantages)
    mask = turn.tokens.mask
    metrics = {
        "policy/loss": per_token.detach(),
        "policy/probability": scores.log_probs.detach().exp().masked_fill(~mask, 0),
        "policy/entropy": scores.entropy.detach(),
    }
    return LossOutput(per_token=per_token, metrics=metrics)


def only_turn(rollout: Rollout) -> Turn:
    """The turn of a rollout that has one.

    Raises:
        ValueError: the rollout has several turns.
    """
    if len(rollout.turns) != 1:
        raise ValueError(
            f"the rollout has {len(rollout.turns)} turns; this algorithm credits captions, one turn each"
        )
    return rollout.turns[0]


def require_choices(*, objective: str, share: str, gamma: float, under: Sampling | None) -> None:
    """Reject settings that no algorithm of captions can work with.

    Raises:
        ValueError: an unknown objective or share, `gamma` outside [0, 1], or a greedy law to score under.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}; use one of {', '.join(OBJECTIVES)}")
    if share not in SHARES:
        raise ValueError(f"share is {share!r}; use one of {', '.join(SHARES)}")
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}; use a discount from 0 to 1 (the paper: 1)")
    if under is not None and under.temperature == 0:
        raise ValueError(
            "under.temperature is 0: a greedy law has no gradient; use None or a positive temperature"
        )


@dataclass(frozen=True, kw_only=True)
class A2C:
    """Returns minus a critic's values, standardised over the batch; policy and critic terms in one loss."""

    critic: Critic
    gamma: float = 1.0
    objective: Objective = "probability"  # Paper: eq. 4
    share: Share = "caption"
    value_weight: float = 1.0
    under: Sampling | None = None
    """The law whose probabilities are pushed; None = the model's own."""
    reduce: Reduction = one_rank
    critic_batch: int | None = None
    """Rows the critic sees at once when credit is settled; None = all. Every rank needs as many rows."""

    def __post_init__(self) -> None:
        require_choices(objective=self.objective, share=self.share, gamma=self.gamma, under=self.under)
        if self.value_weight <= 0:
            raise ValueError(
                f"value_weight is {self.value_weight}; use a positive weight, or SCST for no critic"
            )
        if self.critic_batch is not None and self.critic_batch < 1:
            raise ValueError(f"critic_batch is {self.critic_batch}; use None for all rows or at least 1")

    @torch.no_grad()
    def credit(self, policy: Policy, rollout: Rollout) -> Credit:
        """Returns, the critic's values before this step, and their standardised difference (eqs. 1 and 3)."""
        turn = only_turn(rollout)
        mask = turn.tokens.mask
        returns = discounted_returns(rollout.rewards, mask, self.gamma)
        values = self._values(turn).masked_fill(~mask, 0)
        return Credit(
            advantages=standardise(returns - values, mask, reduce=self.reduce),
            shares=SHARES[self.share](mask, reduce=self.reduce, dtype=returns.dtype),
            returns=returns,
            values=values,
        )

    def loss(self, policy: Policy, rollout: Rollout, credit: Credit) -> LossOutput:
        """Policy term plus weighted critic term of each token (eqs. 4 and 2)."""
        if credit.returns is None:
            raise ValueError("the credit has no returns; A2C needs the credit that its own `credit` settled")
        turn = only_turn(rollout)
        policy_part = policy_loss(policy, turn, credit, objective=self.objective, under=self.under)
        critic_part = value_error(self.critic(turn), credit.returns).masked_fill(~turn.tokens.mask, 0)
        return LossOutput(
            per_token=policy_part.per_token + self.value_weight * critic_part,
            metrics=policy_part.metrics | {"critic/loss": critic_part.detach()},
        )

    def _values(self, turn: Turn) -> Float[Tensor, "B T"]:
        size = self.critic_batch
        if size is None:
            return self.critic(turn)
        starts = range(0, len(turn), size)
        rows = [torch.arange(start, min(start + size, len(turn))) for start in starts]
        return torch.cat([self.critic(turn.rows(index)) for index in rows])
