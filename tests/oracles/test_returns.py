"""VLRM's eq. 1 on the golden captions: flags, rewards per token, returns."""

import json
from pathlib import Path

import pytest
import torch

from sightloop.algorithms.credit import discounted_returns
from sightloop.rewards.combine import combine
from sightloop.rewards.phrases import BadPhrases, Repeats, flag_bad, flag_repeats, missing_end
from sightloop.types import Outcome, Tokens, on_last_token


@pytest.fixture(scope="module")
def cases(oracles: Path) -> list[dict]:
    """The golden captions."""
    return json.loads((oracles / "algorithms" / "returns.json").read_text())


def outcome_of(case: dict) -> Outcome:
    """The case as a batch of one, with two columns of padding."""
    length = len(case["pieces"]) + case["ends_with_eos"]
    mask = torch.arange(length + 2)[None] < length
    return Outcome(
        tokens=Tokens(ids=torch.zeros_like(mask, dtype=torch.long), mask=mask),
        pieces=[case["pieces"]],
        ended=torch.tensor([case["ends_with_eos"]]),
        images=None,
        references=[""],
    )


def test_every_flag_of_every_caption(cases: list[dict]) -> None:
    assert cases
    for case in cases:
        end = [0] * case["ends_with_eos"]
        bad = flag_bad(case["pieces"], tuple(case["bad_phrases"]))
        repeats = flag_repeats(case["pieces"], frozenset(case["exempt_words"]))
        assert bad + end == case["bad"], case["name"]
        assert repeats + end == case["repeat"], case["name"]


def test_the_returns_of_every_caption(cases: list[dict]) -> None:
    for case in cases:
        outcome = outcome_of(case)
        judge = combine(
            {
                "similarity": lambda o, case=case: on_last_token(torch.tensor([case["sim"]]), o.tokens),
                "reference": lambda o, case=case: on_last_token(torch.tensor([case["ref"]]), o.tokens),
                "missing_end": missing_end,
                "bad_phrases": BadPhrases(phrases=tuple(case["bad_phrases"])),
                "repeats": Repeats(exempt=frozenset(case["exempt_words"])),
            },
            dict.fromkeys(["similarity", "reference", "missing_end", "bad_phrases", "repeats"], 1.0),
        )
        rewards, _ = judge(outcome)
        wanted = torch.tensor([case["returns"] + [0.0, 0.0]])
        returns = discounted_returns(rewards, outcome.tokens.mask)
        torch.testing.assert_close(returns, wanted, rtol=1e-5, atol=1e-5, msg=case["name"])


def test_the_returns_in_double_precision(cases: list[dict]) -> None:
    for case in cases:
        rewards = -torch.tensor([case["bad"]]).double() - torch.tensor([case["repeat"]]).double()
        rewards[0, -1] += case["sim"] + case["ref"] - (not case["ends_with_eos"])
        returns = discounted_returns(rewards, torch.ones_like(rewards, dtype=torch.bool))
        wanted = torch.tensor([case["returns"]], dtype=torch.float64)
        torch.testing.assert_close(returns, wanted, rtol=1e-9, atol=1e-9, msg=case["name"])
