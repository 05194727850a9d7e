"""VLRM's eqs. 2 to 4 on the golden batches: advantages, both losses, their gradients."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sightloop.algorithms.a2c import A2C
from sightloop.types import Prompt, Rollout, Sampling, Tokens, TokenScores, Turn

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}


class GivenScores(nn.Module):
    """A policy and critic in one, whose numbers are given."""

    def __init__(self, log_probs: Tensor, values: Tensor) -> None:
        super().__init__()
        self.log_probs, self.values = nn.Parameter(log_probs), nn.Parameter(values)

    def sample(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """Nothing is drawn."""
        raise NotImplementedError

    def score(self, turn: Turn, under: Sampling | None = None) -> TokenScores:
        """The given log-probabilities where tokens count."""
        scores = self.log_probs * turn.tokens.mask
        return TokenScores(log_probs=scores, entropy=torch.zeros_like(scores))

    def encode(self, texts: list[str]) -> Tokens:
        """Nothing is written."""
        raise NotImplementedError

    def decode(self, tokens: Tokens) -> list[list[str]]:
        """Nothing is written."""
        raise NotImplementedError

    def forward(self, turn: Turn) -> Float[Tensor, "B T"]:
        """The given values."""
        return self.values


@pytest.fixture(scope="module")
def cases(oracles: Path) -> list[dict]:
    """The golden batches."""
    return json.loads((oracles / "algorithms" / "a2c.json").read_text())


def rollout_of(mask: Tensor, returns: Tensor) -> Rollout:
    """A rollout whose undiscounted returns are the given ones."""
    kept = returns.masked_fill(~mask, 0)
    later = torch.cat([kept[:, 1:], torch.zeros_like(kept[:, :1])], 1)
    tokens = Tokens(ids=torch.zeros_like(mask, dtype=torch.long), mask=mask)
    return Rollout(
        turns=(Turn(prompt=Prompt(texts=[""] * len(mask)), tokens=tokens),),
        rewards=kept - later,
        reward_parts={},
        group=torch.arange(len(mask)),
    )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])
@pytest.mark.parametrize(
    ("objective", "printed"), [("probability", "prob"), ("log_probability", "logprob")], ids=["p", "log_p"]
)
def test_advantages_losses_and_gradients_of_every_batch(cases, dtype, objective, printed) -> None:
    assert cases

    def agree(found: Tensor | None, wanted: Tensor) -> None:
        torch.testing.assert_close(found, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])

    def numbers(case: dict, name: str) -> Tensor:
        return torch.tensor(case[name], dtype=torch.float64).to(dtype)

    for case in cases:
        mask = torch.tensor(case["mask"], dtype=torch.bool)
        actor = GivenScores(numbers(case, "log_probs"), numbers(case, "values"))
        algorithm = A2C(critic=actor, objective=objective)
        rollout = rollout_of(mask, numbers(case, "returns"))
        criticism = algorithm.critic_pass(rollout)
        rollout = replace(rollout, values=criticism.values)
        credit = algorithm.credit(actor, rollout)
        wanted = numbers(case, "standardised_advantages")
        agree(credit.advantages, wanted.masked_fill(~mask, 0))

        out = algorithm.loss(actor, rollout, credit)
        policy_loss = (out.metrics["policy/loss"] * credit.loss_weights).sum()
        critic_loss = (out.metrics["critic/loss"] * credit.loss_weights).sum()
        agree(policy_loss, numbers(case, f"policy_loss_{printed}"))
        agree(critic_loss, numbers(case, "value_loss"))

        (out.per_token * credit.loss_weights).sum().backward()
        agree(actor.log_probs.grad, numbers(case, f"grad_log_probs_{printed}"))
        agree(criticism.gradients[actor.values], numbers(case, "grad_values"))
