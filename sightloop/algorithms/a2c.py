"""A2C as VLRM uses it (arXiv 2404.01911): returns minus a learned baseline, each caption used once.

Differences from the paper:
1. Eq. 4 prints the probability p_k where A2C has its logarithm. Both are here; the printed form is the
   preset.
2. The paper does not say under which distribution p_k is computed. The model's own (full vocabulary,
   temperature 1) is the preset; `under` gives another, such as the one that drew the tokens.
3. The paper updates the critic and then the policy. Their parameters are disjoint (value head and adapters
   against queries, Q-Former and projection), neither loss reaches the other's, and the returns do not depend
   on the critic: one pass of it (`critic_pass`) gives its values and, at once, the gradient of its loss.
   Advantages come from these values, from before the step, as in the paper. One optimizer step then updates
   both.
4. "Across the whole batch" of eq. 3 is read as: over all tokens that count, of all ranks; padding never
   enters.
5. Eqs. 2 and 4 define the loss of one caption. The batch loss is read as their mean: each caption weighs the
   same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sightloop.algorithms.credit import discounted_returns
from sightloop.algorithms.masked import standardize, weights_per_sample, weights_per_token
from sightloop.types import (
    Credit,
    CriticPass,
    LossOutput,
    Policy,
    Reduction,
    Rollout,
    Sampling,
    Turn,
    identity_reduction,
)


class LearningCritic(Protocol):
    """The value before each token is drawn, and the parameters that its error trains."""

    def __call__(self, turn: Turn, /) -> Float[Tensor, "B T"]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


Objective = Literal["probability", "log_probability"]
AverageOver = Literal["caption", "token"]

AVERAGES = {"caption": weights_per_sample, "token": weights_per_token}
"""How the loss is averaged: each caption weighs the same, or each token."""


def policy_gradient(
    log_probs: Float[Tensor, "B T"], advantages: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """`-log p * A`: descending it raises the expected reward of tokens drawn under the distribution of
    `log_probs`.

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


def require_choices(*, objective: str, average_over: str, gamma: float, under: Sampling | None) -> None:
    """Reject settings that no algorithm of captions can work with.

    Raises:
        ValueError: an unknown objective or share, `gamma` outside [0, 1], or a greedy distribution to score
        under.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}; use one of {', '.join(OBJECTIVES)}")
    if average_over not in AVERAGES:
        raise ValueError(f"average_over is {average_over!r}; use one of {', '.join(AVERAGES)}")
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}; use a discount from 0 to 1 (the paper: 1)")
    if under is not None and under.temperature == 0:
        raise ValueError(
            "under.temperature is 0: greedy tokens have no gradient; use None or a positive temperature"
        )


@dataclass(frozen=True, kw_only=True)
class A2C:
    """Returns minus a critic's values, standardized over the batch."""

    critic: LearningCritic
    gamma: float = 1.0
    objective: Objective = "probability"  # Paper: eq. 4
    average_over: AverageOver = "caption"
    value_weight: float = 1.0
    under: Sampling | None = None
    """The distribution whose probabilities are pushed; None = the model's own."""
    reduce: Reduction = identity_reduction
    critic_batch: int | None = None
    """Rows the critic reads at once; None = all. Any size gives the same gradient. Every rank needs as many
    rows.
    """

    def __post_init__(self) -> None:
        require_choices(
            objective=self.objective, average_over=self.average_over, gamma=self.gamma, under=self.under
        )
        if self.value_weight <= 0:
            raise ValueError(
                f"value_weight is {self.value_weight}; use a positive weight, or SCST for no critic"
            )
        if self.critic_batch is not None and self.critic_batch < 1:
            raise ValueError(f"critic_batch is {self.critic_batch}; use None for all rows or at least 1")

    def critic_pass(self, rollout: Rollout) -> CriticPass:
        """The critic's values before this step, and the gradient of its loss (eq. 2)."""
        turn = only_turn(rollout)
        returns, loss_weights = self._returns(rollout), self._shares(rollout)
        trained = [parameter for parameter in self.critic.parameters() if parameter.requires_grad]
        gradients: dict[nn.Parameter, Tensor] = {}
        values = torch.zeros_like(returns)
        for rows in _like_lengths(turn.tokens.mask, self.critic_batch):
            part, at = turn.rows(rows), rows.to(returns.device)
            expected = self.critic(part).masked_fill(~part.tokens.mask, 0)
            values[at] = expected.detach().to(values.dtype)
            if trained:
                loss = self.value_weight * (value_error(expected, returns[at]) * loss_weights[at]).sum()
                _add_gradients(loss, trained, into=gradients)
        return CriticPass(values=values, gradients=gradients)

    @torch.no_grad()
    def credit(self, policy: Policy, rollout: Rollout) -> Credit:
        """Returns, and their standardized difference from the critic's values (eqs. 1 and 3).

        Raises:
            ValueError: no critic has valued the rollout.
        """
        mask, returns = only_turn(rollout).tokens.mask, self._returns(rollout)
        surprise = returns - _values_of(rollout)
        return Credit(
            advantages=standardize(surprise, mask, reduce=self.reduce),
            loss_weights=self._shares(rollout),
            returns=returns,
        )

    def loss(self, policy: Policy, rollout: Rollout, credit: Credit) -> LossOutput:
        """Policy term of each token (eq. 4); the critic's (eq. 2), which has learned already, is a metric.

        Raises:
            ValueError: the credit is another algorithm's.
        """
        if credit.returns is None:
            raise ValueError("the credit has no returns; A2C needs the credit that its own `credit` computed")
        turn = only_turn(rollout)
        output = policy_loss(policy, turn, credit, objective=self.objective, under=self.under)
        error = value_error(_values_of(rollout), credit.returns).masked_fill(~turn.tokens.mask, 0)
        return replace(output, metrics=output.metrics | {"critic/loss": error})

    def _returns(self, rollout: Rollout) -> Float[Tensor, "B T"]:
        return discounted_returns(rollout.rewards, only_turn(rollout).tokens.mask, self.gamma)

    def _shares(self, rollout: Rollout) -> Float[Tensor, "B T"]:
        mask, dtype = only_turn(rollout).tokens.mask, rollout.rewards.dtype
        return AVERAGES[self.average_over](mask, reduce=self.reduce, dtype=dtype)


def _values_of(rollout: Rollout) -> Float[Tensor, "B T"]:
    if rollout.values is None:
        raise ValueError(
            "no critic has valued the rollout; give the experiment `critic=algorithm.critic_pass`, or put "
            "the values of `critic_pass` into the rollout"
        )
    return rollout.values


def _add_gradients(loss: Tensor, trained: list[nn.Parameter], *, into: dict[nn.Parameter, Tensor]) -> None:
    gradients = cast("tuple[Tensor | None, ...]", torch.autograd.grad(loss, trained, allow_unused=True))
    for parameter, gradient in zip(trained, gradients, strict=True):
        if gradient is not None:
            known = into.get(parameter)
            into[parameter] = gradient if known is None else known.add_(gradient)


def _like_lengths(mask: Bool[Tensor, "B T"], size: int | None) -> tuple[Tensor, ...]:
    if size is None:
        return (torch.arange(len(mask)),)
    # Rows of like length together hold little padding.
    order: Tensor = mask.sum(1).argsort(stable=True).cpu()
    return torch.split(order, size)
