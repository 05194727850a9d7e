"""Codes scored in parts: the same numbers and gradients as all at once, and less memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sightloop.models.decoding.code_likelihood import code_log_probs
from sightloop.models.decoding.sampling import token_log_probs
from sightloop.types import Sampling

ROWS, WIDTH, CODES = 11, 6, 40
LAWS = [None, Sampling(max_tokens=1, temperature=0.7), Sampling(max_tokens=1, temperature=1.4, top_k=5)]


def inputs() -> tuple[Tensor, Tensor, nn.Linear]:
    """Hidden states that take a gradient, codes, and a trained head."""
    torch.manual_seed(3)
    hidden = torch.randn(ROWS, WIDTH, requires_grad=True)
    return hidden, torch.randint(CODES, (ROWS,)), nn.Linear(WIDTH, CODES)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operator returned."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run an operator and look at what it made."""
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, tuple | list) else [out]
        self.most = max([self.most, *(value.numel() for value in made if isinstance(value, Tensor))])
        return out


@pytest.mark.parametrize("under", LAWS)
def test_parts_score_as_texts_do(under: Sampling | None) -> None:
    hidden, ids, head = inputs()
    frozen = head.weight.detach()
    expected = token_log_probs(hidden, frozen, ids, under=under)
    scores = code_log_probs(lambda h: h @ frozen.T, (hidden,), ids, under=under, rows_at_once=4)
    for one, other in zip(scores, expected, strict=True):
        torch.testing.assert_close(one, other)
    weights = torch.randn(ROWS)
    one, other = (torch.autograd.grad((s[0] * weights).sum(), hidden)[0] for s in (scores, expected))
    torch.testing.assert_close(one, other)
    assert not scores[1].requires_grad


@pytest.mark.parametrize("rows_at_once", [1, 4, ROWS, 100])
def test_the_trained_head_gets_the_gradient_of_the_whole(rows_at_once: int) -> None:
    hidden, ids, head = inputs()
    weights = torch.randn(ROWS)
    whole = head(hidden / 0.5).div(0.7).log_softmax(-1).gather(1, ids[:, None])[:, 0]
    expected = torch.autograd.grad((whole * weights).sum(), [hidden, *head.parameters()])
    law = Sampling(max_tokens=1, temperature=0.7)
    log_probs, _ = code_log_probs(
        lambda h: head(h / 0.5), (hidden,), ids, under=law, rows_at_once=rows_at_once
    )
    torch.testing.assert_close(log_probs, whole)
    found = torch.autograd.grad((log_probs * weights).sum(), [hidden, *head.parameters()])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_guidance_combines_two_branches_and_both_learn() -> None:
    hidden, ids, head = inputs()
    free = torch.randn(ROWS, WIDTH, requires_grad=True)

    def guided(given: Tensor, blank: Tensor) -> Tensor:
        without = head(blank)
        return without + 5 * (head(given) - without)

    whole = guided(hidden, free).log_softmax(-1).gather(1, ids[:, None])[:, 0]
    log_probs, entropy = code_log_probs(guided, (hidden, free), ids, rows_at_once=3)
    torch.testing.assert_close(log_probs, whole)
    law = guided(hidden, free).softmax(-1)
    torch.testing.assert_close(entropy, torch.special.entr(law).sum(-1).detach())
    sources = [hidden, free, *head.parameters()]
    for one, other in zip(
        torch.autograd.grad(log_probs.sum(), sources), torch.autograd.grad(whole.sum(), sources), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_no_pass_holds_the_logits_of_all_codes() -> None:
    hidden, ids, head = inputs()
    with LargestTensor() as seen:
        log_probs, _ = code_log_probs(head, (hidden,), ids, rows_at_once=2)
        forward = seen.most
        log_probs.sum().backward()
    assert 2 * CODES <= forward < ROWS * CODES
    assert seen.most < ROWS * CODES
    assert head.weight.grad is not None


def test_half_precision_hidden_states_are_scored_in_float32() -> None:
    hidden, ids, head = inputs()
    low = head.bfloat16()
    log_probs, entropy = code_log_probs(low, (hidden.bfloat16(),), ids)
    assert log_probs.dtype == entropy.dtype == torch.float32
    expected = low(hidden.bfloat16()).float().log_softmax(-1).gather(1, ids[:, None])[:, 0]
    torch.testing.assert_close(log_probs, expected)


def test_a_code_outside_the_top_k_takes_the_last_place() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    law = Sampling(max_tokens=1, top_k=2)
    log_probs, entropy = code_log_probs(lambda h: h, (logits,), torch.tensor([3]), under=law)
    expected = torch.tensor([3.0, 0.0]).log_softmax(0)
    torch.testing.assert_close(log_probs, expected[1:])
    torch.testing.assert_close(entropy, -(expected.exp() * expected).sum()[None])


def test_no_rows_are_scored_as_none() -> None:
    log_probs, entropy = code_log_probs(lambda h: h, (torch.zeros(0, 4),), torch.zeros(0, dtype=torch.long))
    assert log_probs.shape == entropy.shape == (0,)


def test_a_greedy_law_has_no_likelihood() -> None:
    hidden, ids, head = inputs()
    with pytest.raises(ValueError, match="greedy"):
        code_log_probs(head, (hidden,), ids, under=Sampling(max_tokens=1, temperature=0))
