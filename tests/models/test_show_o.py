"""Show-o keeps the contract of image policies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from image_policy_contract import CHECKS, Candidate
from tiny_show_o import NUM_BITS, pictures, show_o, stirred, tokenizer


@pytest.fixture(scope="module")
def candidate() -> Candidate:
    """A tiny Show-o and what it is tried on."""
    return Candidate(
        make=show_o,
        stir=stirred,
        prompts=["a cat", "", "two dogs and a bird", "red", "a cat"],
        questions=["what?", "how many cats are there?", "is it", "", "which one is red?"],
        images=pictures(5),
        answers=["two cats", "a", "red and blue", "no", "yes it is"],
        num_codes=2**NUM_BITS,
        num_words=len(tokenizer()),
        max_tokens=12,
        laws={
            "one round": {"decode_steps": 1},
            "as many rounds as codes": {"decode_steps": 9, "guidance": 0.0},
            "guided": {"guidance": 4.0, "decode_steps": 5},
            "hot": {"temperature": 1.7, "decode_steps": 6, "order_temperature": 3.0},
            "few": {"temperature": 0.8, "top_k": 4, "decode_steps": 4, "schedule": "linear"},
        },
        greedy={"temperature": 0.0, "order_temperature": 0.0},
    )


@pytest.mark.parametrize("check", CHECKS)
def test_show_o_keeps_the_contract_of_image_policies(
    candidate: Candidate, check: Callable[[Candidate], None]
) -> None:
    check(candidate)
