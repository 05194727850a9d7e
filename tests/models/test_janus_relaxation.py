"""Codes with a gradient: the noise that explains a drawn code, and what flows back through it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_janus import NUM_CODES, NUM_TOKENS, tiny_janus
from torch import Tensor

from sightloop.models.decoding.code_likelihood import gumbel_noise_given, relaxed_codes, unit_exponentials
from sightloop.models.janus.policy import Janus
from sightloop.types import Prompt, Sampling

PROMPT = Prompt(texts=["a cat", "two red dogs"], wants="image", seeds=[3, 10])


def law(**changes: Any) -> Sampling:
    """A relaxed distribution."""
    return Sampling(**{"max_tokens": NUM_TOKENS, "relaxation": 0.8, **changes})


def test_the_noise_picks_the_drawn_code() -> None:
    logits = torch.randn(50, 4, 9) * 3
    drawn = torch.distributions.Categorical(logits=logits).sample()
    noise = gumbel_noise_given(logits.log_softmax(-1), drawn, torch.empty(50, 4, 9).exponential_())
    assert torch.equal((logits.log_softmax(-1) + noise).argmax(-1), drawn)
    assert noise.isfinite().all()


def test_over_drawn_codes_the_noise_is_plain_gumbel_noise() -> None:
    size = 40_000
    logits = torch.tensor([2.0, 0.5, -1.0, -4.0]).log_softmax(-1)
    drawn = torch.distributions.Categorical(logits=logits.expand(size, 1, 4)).sample()
    noise = gumbel_noise_given(logits.expand(size, 1, 4), drawn, torch.empty(size, 1, 4).exponential_())[:, 0]
    plain = -torch.empty(size).exponential_().log()
    shares = torch.linspace(0.05, 0.95, 10)
    for code in range(4):
        # Five standard errors of a quantile of 40,000 draws are below 0.05 except in the upper tail.
        apart = noise[:, code].quantile(shares) - plain.quantile(shares)
        assert apart.abs().max() < 0.12, code
    independent = torch.corrcoef(noise.T) - torch.eye(4)
    assert independent.abs().max() < 0.03


def test_hard_codes_are_the_drawn_ones_and_soft_codes_lean_to_them() -> None:
    logits, ids = torch.randn(3, 5, 7), torch.randint(7, (3, 5))
    noise = unit_exponentials((3, 5, 7), [1, 2, 3])
    hard = relaxed_codes(logits, ids, noise, sampling=law())
    torch.testing.assert_close(hard, torch.nn.functional.one_hot(ids, 7).float())
    soft = relaxed_codes(logits, ids, noise, sampling=law(relaxed_hard=False))
    assert torch.equal(soft.argmax(-1), ids)
    torch.testing.assert_close(soft.sum(-1), torch.ones(3, 5))
    sharp = relaxed_codes(logits, ids, noise, sampling=law(relaxed_hard=False, relaxation=1e-3))
    assert (sharp.amax(-1) > soft.amax(-1)).all()


def test_codes_outside_the_top_k_get_nothing() -> None:
    logits = torch.randn(3, 5, 7, requires_grad=True)
    ids = logits.detach().topk(3).indices[..., 2]
    noise = unit_exponentials((3, 5, 7), None)
    soft = relaxed_codes(logits, ids, noise, sampling=law(relaxed_hard=False, top_k=3))
    assert ((soft > 0).sum(-1) == 3).all()
    soft[..., 0].sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("changes", [{}, {"temperature": 0.6}, {"top_k": 4}])
def test_the_gradient_is_that_of_the_soft_codes(changes: dict[str, Any]) -> None:
    logits = torch.randn(2, 3, 6, dtype=torch.float64)
    ids, weights = logits.topk(2).indices[..., 1], torch.randn(2, 3, 6)
    noise = unit_exponentials((2, 3, 6), [4, 5])
    scale = Sampling(max_tokens=1, **changes)
    scaled = logits.float() / scale.temperature
    held = gumbel_noise_given(kept(scaled, scale.top_k).log_softmax(-1), ids, noise)

    def soft_value(values: Tensor) -> Tensor:
        chosen = kept(values / scale.temperature, scale.top_k).log_softmax(-1)
        return (((chosen + held) / 0.8).softmax(-1) * weights).sum()

    found = logits.float().requires_grad_()
    (relaxed_codes(found, ids, noise, sampling=law(**changes)) * weights).sum().backward()
    assert found.grad is not None
    step = 1e-6
    for place in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(6)):
        moved = torch.zeros_like(logits)
        moved[tuple(place)] = step
        slope = (soft_value(logits + moved) - soft_value(logits - moved)) / (2 * step)
        assert float(found.grad[tuple(place)]) == pytest.approx(float(slope), abs=1e-4)


def kept(logits: Tensor, top_k: int | None) -> Tensor:
    """Logits of the k likeliest codes."""
    if top_k is None:
        return logits
    return logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)


@pytest.mark.parametrize("guidance", [0.0, 3.0])
def test_the_gradient_of_a_drawing_is_that_of_a_small_change(guidance: float) -> None:
    janus = tiny_janus(trained="full")
    law_ = janus.default_sampling(relaxation=0.8, guidance=guidance)
    weights = torch.randn(2, NUM_TOKENS, NUM_CODES)
    tokens = janus.sample(PROMPT, law_)
    assert tokens.one_hot is not None
    (tokens.one_hot * weights).sum().backward()
    bias = janus.model.model.generation_head.vision_head.bias
    direction = torch.randn(NUM_CODES)
    slope = float((bias.grad * direction).sum())
    exponentials = unit_exponentials((2, NUM_TOKENS, NUM_CODES), PROMPT.seeds, skip=NUM_TOKENS)
    with torch.no_grad():
        start = janus.drawings.logits(PROMPT.texts, tokens.ids, law_).log_softmax(-1)
        noise = gumbel_noise_given(start, tokens.ids, exponentials)

        def soft_value(change: float) -> float:
            bias.add_(direction, alpha=change)
            logits = janus.drawings.logits(PROMPT.texts, tokens.ids, law_).double()
            bias.add_(direction, alpha=-change)
            return float((((logits.log_softmax(-1) + noise) / 0.8).softmax(-1) * weights).sum())

        expected = (soft_value(1e-3) - soft_value(-1e-3)) / 2e-3
    assert slope == pytest.approx(expected, rel=0.02, abs=1e-3)


@pytest.fixture(scope="module")
def janus() -> Janus:
    """A policy whose adapters change what it says."""
    return tiny_janus()


def test_relaxed_drawings_are_the_same_images(janus: Janus) -> None:
    plain = janus.sample(PROMPT, janus.default_sampling())
    relaxed = janus.sample(PROMPT, janus.default_sampling(relaxation=1.0))
    assert torch.equal(plain.ids, relaxed.ids)
    assert torch.equal(janus.sample(PROMPT, janus.default_sampling(relaxation=1.0)).ids, relaxed.ids)
    assert plain.one_hot is None
    assert relaxed.one_hot is not None
    with torch.no_grad():
        without = janus.sample(PROMPT, janus.default_sampling(relaxation=1.0)).one_hot
    assert without is not None
    assert not without.requires_grad
    torch.testing.assert_close(without, relaxed.one_hot.detach())


def test_relaxed_codes_depend_on_their_seed_alone(janus: Janus) -> None:
    relaxed = janus.default_sampling(relaxation=1.0, relaxed_hard=False)
    together = janus.sample(PROMPT, relaxed).one_hot
    alone = janus.sample(PROMPT.rows(torch.tensor([1])), relaxed).one_hot
    assert together is not None
    assert alone is not None
    torch.testing.assert_close(alone[0], together[1], atol=1e-3, rtol=0)


def test_noise_needs_a_seed_a_sample() -> None:
    with pytest.raises(ValueError, match="1 seeds for 2"):
        unit_exponentials((2, 3, 4), [1])
