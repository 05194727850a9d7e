"""GRPO on the golden batches: advantages, clipped ratios, divergence, both means, and their gradients."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sightloop.algorithms.credit import group_relative
from sightloop.algorithms.grpo import GRPO
from sightloop.algorithms.ratios import clipped_ratio, kl_to_reference
from sightloop.algorithms.turn_objectives import TurnObjective, TurnObjectives
from sightloop.types import Prompt, Rollout, Sampling, Tokens, TokenScores, Turn

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
LAW = Sampling(max_tokens=8)


class GivenScores(nn.Module):
    """A policy whose log-probabilities are given."""

    def __init__(self, log_probs: Tensor) -> None:
        super().__init__()
        self.log_probs = nn.Parameter(log_probs)

    def sample(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """Nothing is drawn."""
        raise NotImplementedError

    def score(self, turn: Turn, under: Sampling | None = None) -> TokenScores:
        """The given log-probabilities where tokens count; ids say of which row and token."""
        scores = self.log_probs.flatten()[turn.tokens.ids] * turn.tokens.mask
        return TokenScores(log_probs=scores, entropy=torch.zeros_like(scores))

    def encode(self, texts: list[str]) -> Tokens:
        """Nothing is written."""
        raise NotImplementedError

    def decode(self, tokens: Tokens) -> list[list[str]]:
        """Nothing is written."""
        raise NotImplementedError


@pytest.fixture(scope="module")
def cases(oracles: Path) -> list[dict]:
    """The golden batches."""
    found = json.loads((oracles / "algorithms" / "grpo.json").read_text())
    assert found
    return found


def numbers(case: dict, name: str, dtype: torch.dtype) -> Tensor:
    return torch.tensor(case[name], dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])
def test_the_pure_functions_of_every_batch(cases, dtype) -> None:
    for case in cases:
        rewards, group = numbers(case, "rewards", dtype), torch.tensor(case["group"])
        mask = torch.tensor(case["mask"], dtype=torch.bool)
        scaled = group_relative(rewards, group, eps=case["std_eps"])
        worth = group_relative(rewards, group, divide_by_std=False)
        new, old = numbers(case, "log_probs", dtype), numbers(case, "old_log_probs", dtype)
        term = clipped_ratio(
            new, old, scaled[:, None].expand_as(new), low=case["clip_low"], high=case["clip_high"]
        )
        kl = kl_to_reference(new, numbers(case, "reference_log_probs", dtype))
        for found, name in (
            (scaled, "advantages"),
            (worth, "advantages_mean_only"),
            (term * mask, "policy_term"),
            (kl * mask, "kl_k3"),
        ):
            wanted = numbers(case, name, dtype)
            torch.testing.assert_close(found, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])
@pytest.mark.parametrize(("average_over", "wanted"), [("sample", "sequence"), ("token", "token")])
@pytest.mark.parametrize("size", [100, 2])
def test_the_loss_of_every_batch_in_pieces_of_any_size(cases, dtype, average_over, wanted, size) -> None:
    for case in cases:
        rewards, mask = numbers(case, "rewards", dtype), torch.tensor(case["mask"], dtype=torch.bool)
        ids = torch.arange(mask.numel()).view(mask.shape)
        tokens = Tokens(ids=ids, mask=mask, log_probs=numbers(case, "old_log_probs", dtype))
        first = torch.zeros_like(numbers(case, "log_probs", dtype))
        first[:, 0] = rewards
        rollout = Rollout(
            turns=(Turn(prompt=Prompt(texts=[""] * len(mask)), tokens=tokens),),
            rewards=first,
            reward_parts={},
            group=torch.tensor(case["group"]),
        )
        policy = GivenScores(numbers(case, "log_probs", dtype))
        algorithm = GRPO(
            reference=GivenScores(numbers(case, "reference_log_probs", dtype)),
            kl_weight=case["kl_weight"],
            std_eps=case["std_eps"],
            old="recorded",
            clip_low=case["clip_low"],
            clip_high=case["clip_high"],
            objectives=TurnObjectives(
                drawing=TurnObjective(weight=0), answering=TurnObjective(under=LAW), average_over=average_over
            ),
        )
        credit = algorithm.credit(policy, rollout)
        total = torch.zeros((), dtype=dtype)
        for rows in torch.arange(len(mask)).split(size):
            part = credit.rows(rows)
            total = (
                total + (algorithm.loss(policy, rollout.rows(rows), part).per_token * part.loss_weights).sum()
            )
        tolerance = TOLERANCE[dtype]
        golden = numbers(case, f"loss_{wanted}_mean", dtype)
        torch.testing.assert_close(total, golden, rtol=tolerance, atol=tolerance)
