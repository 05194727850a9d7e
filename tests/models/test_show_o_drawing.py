"""Rounds of drawing: schedules, noise, which codes are kept, relaxed codes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_show_o import NUM_TOKENS, show_o, stirred
from torch import Tensor

from sightloop.models.decoding.code_likelihood import gumbel_noise_given, unit_exponentials
from sightloop.models.show_o.policy import ShowO
from sightloop.models.show_o.sampling import (
    RELAXED_STREAM,
    Noise,
    chosen_rounds,
    distribution_of,
    draw_codes,
    gumbel_of,
    official_noise,
    relaxed_round,
    rounds_of,
    seeded_noise,
    unknown_share,
)
from sightloop.types import Prompt, Sampling, Tokens, Turn

LAW = Sampling(max_tokens=16, decode_steps=4)


def unsure(seed: int = 0, *, size: int = 3, length: int = 16, num_codes: int = 8) -> Tensor:
    """Logits at each position."""
    return torch.randn(size, length, num_codes, generator=torch.Generator().manual_seed(seed))


def drawn(sampling: Sampling, known: Tokens | None = None, logits: Tensor | None = None) -> Tokens:
    """Codes of a model that says the same in every round."""
    logits = unsure() if logits is None else logits
    blank = torch.zeros(logits.shape[:2], dtype=torch.int64)
    known = Tokens(ids=blank, mask=blank > 0) if known is None else known
    return draw_codes(
        lambda _codes, unknown: (logits[unknown],),
        lambda hidden: hidden,
        known,
        sampling=sampling,
        noise=seeded_noise(
            (len(logits), logits.shape[1], logits.shape[2]), sampling, [1, 2, 3][: len(logits)]
        ),
    )


def test_schedules_are_computed_in_float32() -> None:
    # In exact arithmetic cos(pi / 3) is 1 / 2, and 128 of 256 codes would stay unknown.
    assert int((256 * unknown_share(2 / 3, "cosine")).floor()) == 127
    assert int((1024 * unknown_share(2 / 3, "cosine")).floor()) == 511
    assert float(unknown_share(1.0, "cosine")) < 0
    assert float(unknown_share(0.25, "linear")) == 0.75
    assert float(unknown_share(0.5, "pow")) == 0.75
    assert float(unknown_share(0.5, "sigmoid")) == pytest.approx(0.5)
    assert float(unknown_share(1.0, "linear")) == pytest.approx(1e-6)
    low, high = 1 / (1 + math.exp(3)), 1 / (1 + math.exp(-3))
    expected = (high - 1 / (1 + math.exp(1.5))) / (high - low)
    assert float(unknown_share(0.25, "sigmoid")) == pytest.approx(expected, rel=1e-5)


def test_each_round_keeps_what_the_schedule_says() -> None:
    tokens = drawn(LAW)
    assert tokens.decode_step is not None
    # floor(16 cos(pi r / 2)) at r = 1/4, 1/2, 3/4 is 14, 11, 6 that stay unknown.
    for row in tokens.decode_step:
        assert row.bincount(minlength=4).tolist() == [2, 3, 5, 6]


def test_without_noise_the_surest_codes_are_kept_first() -> None:
    logits = unsure()
    tokens = drawn(replace(LAW, temperature=0.0, order_temperature=0.0), logits=logits)
    assert torch.equal(tokens.ids, logits.argmax(-1))
    assert tokens.log_probs is None
    sure = logits.log_softmax(-1).amax(-1)
    assert tokens.decode_step is not None
    for row in range(3):
        order = sure[row].argsort(descending=True)
        assert tokens.decode_step[row, order].tolist() == [0] * 2 + [1] * 3 + [2] * 5 + [3] * 6


def test_given_codes_stay_and_the_others_are_drawn() -> None:
    ids = torch.arange(48).view(3, 16) % 8
    mask = torch.zeros(3, 16, dtype=torch.bool)
    mask[0, ::2], mask[1] = True, True
    tokens = drawn(LAW, Tokens(ids=ids, mask=mask))
    assert torch.equal(tokens.ids[mask], ids[mask])
    assert torch.equal(tokens.mask, ~mask)
    assert tokens.decode_step is not None
    assert tokens.log_probs is not None
    assert torch.equal(tokens.decode_step == -1, mask)
    assert (tokens.log_probs[mask] == 0).all()
    # Eight are unknown and the schedule would keep 14: seven stay so after the first round.
    assert int((tokens.decode_step[0] == 0).sum()) == 1


def test_every_round_fixes_a_code_while_two_are_unknown() -> None:
    tokens = drawn(replace(LAW, decode_steps=16))
    assert tokens.decode_step is not None
    for row in tokens.decode_step:
        assert row.bincount(minlength=16).min() >= 1
    assert (drawn(replace(LAW, decode_steps=1)).decode_step == 0).all()


def test_codes_follow_their_law() -> None:
    logits = torch.tensor([0.5, 0.1, 0.2, 0.2]).log().expand(1, 4000, 4)
    law = Sampling(max_tokens=4000, decode_steps=1)
    for changes, wanted in (
        ({}, [0.5, 0.1, 0.2, 0.2]),
        ({"temperature": 0.5}, [0.25 / 0.34, 0.01 / 0.34, 0.04 / 0.34, 0.04 / 0.34]),
        ({"top_k": 1}, [1.0, 0.0, 0.0, 0.0]),
    ):
        tokens = drawn(replace(law, **changes), logits=logits)
        found = tokens.ids[0].bincount(minlength=4) / 4000
        torch.testing.assert_close(found, torch.tensor(wanted), atol=0.03, rtol=0)
        assert tokens.log_probs is not None
        expected = torch.tensor(wanted).log()[tokens.ids[0]]
        torch.testing.assert_close(tokens.log_probs[0], expected, atol=1e-5, rtol=0)


def test_a_code_that_the_law_excludes_is_never_drawn() -> None:
    law = distribution_of(torch.tensor([[3.0, 2.0, -torch.inf, 1.0]]), replace(LAW, top_k=2)).exp()
    for uniform in (0.0, 0.3, 0.99999994):
        noise = Noise(order=torch.zeros(1, 1), uniform=torch.tensor([[uniform]]))
        assert int(noise.pick(law, torch.tensor([0]))) in (0, 1)


def test_noise_of_the_official_code_draws_as_multinomial_does() -> None:
    probs = torch.rand(6, 5).softmax(-1)
    generator = torch.Generator().manual_seed(3)
    noise = next(official_noise((2, 3, 5), 1, generator))
    generator.manual_seed(3)
    wanted = torch.multinomial(probs, 1, generator=generator)[:, 0]
    assert torch.equal(noise.pick(probs, torch.arange(6)), wanted)
    assert torch.equal(noise.order, gumbel_of(torch.rand(2, 3, generator=generator)))
    # The same numbers as Gumbel noise make the same draws.
    assert torch.equal((probs.log() + noise.gumbel(torch.arange(6))).argmax(-1), wanted)


def test_the_noise_of_a_sample_is_that_of_its_seed() -> None:
    alone = list(seeded_noise((1, 16, 8), LAW, [9]))
    beside = list(seeded_noise((2, 16, 8), LAW, [4, 9]))
    assert len(alone) == 4
    for one, other in zip(alone, beside, strict=True):
        assert one.uniform is not None
        assert other.uniform is not None
        assert torch.equal(one.uniform[0], other.uniform[1])
        assert torch.equal(one.order[0], other.order[1])


def test_rounds_end_with_the_relaxed_one() -> None:
    assert (relaxed_round(LAW), rounds_of(LAW)) == (None, 4)
    assert (relaxed_round(replace(LAW, relaxation=1.0)), rounds_of(replace(LAW, relaxation=1.0))) == (None, 4)
    relaxed = replace(LAW, relaxation=1.0, relaxed_round=-1)
    assert (relaxed_round(relaxed), rounds_of(relaxed)) == (3, 4)
    early = replace(relaxed, relaxed_round=1)
    assert (relaxed_round(early), rounds_of(early)) == (1, 2)
    tokens = drawn(early)
    assert tokens.decode_step is not None
    assert int(tokens.decode_step.max()) == 1
    assert (tokens.decode_step == 0).sum(1).tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match="4 rounds"):
        relaxed_round(replace(relaxed, relaxed_round=4))
    for changes in ({"relaxed_rounds": 2}, {"relaxed_rounds": 0, "relaxed_round": None}):
        with pytest.raises(ValueError, match="at least 1 round of the finished drawing"):
            relaxed_round(replace(relaxed, **changes))
    with pytest.raises(ValueError, match="decode_steps"):
        rounds_of(replace(LAW, decode_steps=None))


def finished(changes: dict[str, int], seeds: tuple[int, int] = (3, 4)) -> tuple[Tokens, Tokens]:
    """The same images plain and with relaxed codes."""
    torch.manual_seed(5)
    policy = stirred(show_o())
    prompt = Prompt(texts=["a cat", "red"], wants="image", seeds=list(seeds))
    law = policy.default_sampling(decode_steps=6, guidance=1.0)
    soft = replace(law, relaxation=0.8, relaxed_hard=False, **changes)
    return policy.sample(prompt, law), policy.sample(prompt, soft)


def soft_codes(tokens: Tokens) -> Tensor:
    """Where codes are soft."""
    assert tokens.one_hot is not None
    return tokens.one_hot.detach().amax(-1) < 1 - 1e-6


def test_all_codes_of_a_finished_drawing_are_relaxed_and_it_is_the_same_drawing() -> None:
    plain, relaxed = finished({})
    assert plain.decode_step is not None and relaxed.decode_step is not None
    assert torch.equal(plain.ids, relaxed.ids) and torch.equal(plain.decode_step, relaxed.decode_step)
    torch.testing.assert_close(plain.log_probs, relaxed.log_probs)
    assert bool(soft_codes(relaxed).all())
    assert relaxed.one_hot is not None
    assert torch.equal(relaxed.one_hot.argmax(-1), relaxed.ids)


def test_only_the_codes_of_some_rounds_are_relaxed_of_others_in_each_drawing() -> None:
    plain, relaxed = finished({"relaxed_rounds": 2})
    assert torch.equal(plain.ids, relaxed.ids) and relaxed.decode_step is not None
    chosen = [relaxed.decode_step[row][soft_codes(relaxed)[row]].unique().tolist() for row in (0, 1)]
    assert [len(rounds) for rounds in chosen] == [2, 2] and chosen[0] != chosen[1]
    for row, rounds in enumerate(chosen):
        wanted = torch.isin(relaxed.decode_step[row], torch.tensor(rounds))
        assert torch.equal(soft_codes(relaxed)[row], wanted)
    # A sample's seed alone decides.
    _, turned = finished({"relaxed_rounds": 2}, seeds=(9, 4))
    assert torch.equal(soft_codes(turned)[1], soft_codes(relaxed)[1])
    assert bool(soft_codes(finished({"relaxed_rounds": 99})[1]).all())


@pytest.mark.parametrize("changes", [{}, {"relaxed_rounds": 2}])
def test_the_gradient_of_a_finished_drawing_is_that_of_a_small_change(changes: dict[str, int]) -> None:
    policy = stirred(show_o())
    weights = torch.randn(2, NUM_TOKENS, policy.vocabulary.num_codes)
    total, tokens = relaxed_sum(policy, weights, relaxed_hard=False, guidance=2.0, **changes)
    total.backward()
    weight = policy.adapters.up["layers/1/mlp/fc1"]  # pyright: ignore
    direction = torch.randn(weight.shape)
    found = float((weight.grad * direction).sum())
    # The noise is held: it is drawn given the code and the distribution of before.
    prompt = Prompt(texts=["a cat", "red"], wants="image", seeds=[3, 4])
    law = policy.default_sampling(relaxation=0.8, decode_steps=3, relaxed_hard=False, guidance=2.0, **changes)
    with torch.no_grad():
        chosen = tokens.mask
        if "relaxed_rounds" in changes:
            chosen = chosen_rounds(tokens, changes["relaxed_rounds"], prompt.seeds)
        before = law_at_codes(policy, prompt, tokens, law)
        seeds = [seed ^ RELAXED_STREAM for seed in prompt.seeds or []]
        exponentials = unit_exponentials(before.shape, seeds)
        noise = gumbel_noise_given(before, tokens.ids, exponentials)
        sums: list[float] = []
        for step in (2e-3, -2e-3):
            weight.add_(direction, alpha=step)
            after = law_at_codes(policy, prompt, tokens, law).double()
            weight.sub_(direction, alpha=step)
            soft = ((after + noise) / 0.8).softmax(-1)
            sums.append(float((soft * weights)[chosen].sum()))
        expected = (sums[0] - sums[1]) / 4e-3
    assert found == pytest.approx(expected, rel=0.02, abs=1e-3)


def law_at_codes(policy: ShowO, prompt: Prompt, tokens: Tokens, law: Sampling) -> Tensor:
    """Log-probabilities of all codes where each was drawn, by scoring every code in every place."""
    num_codes = policy.vocabulary.num_codes
    every = Turn(prompt=prompt, tokens=tokens).rows(torch.arange(len(tokens)).repeat_interleave(num_codes))
    other = torch.arange(num_codes).repeat(len(tokens))[:, None]
    found = torch.zeros(every.tokens.ids.shape)
    for step in range(3):
        # Only this round's codes change: those before it are what it saw.
        here = every.tokens.decode_step == step
        changed = replace(every.tokens, ids=every.tokens.ids.where(~here, other), mask=here, one_hot=None)
        found += policy.score(replace(every, tokens=changed), law).log_probs
    return found.unflatten(0, (len(tokens), num_codes)).transpose(1, 2)


def relaxed_sum(policy, weights: Tensor, **changes) -> tuple[Tensor, Tokens]:
    """A number that depends on the codes with a gradient."""
    law = policy.default_sampling(relaxation=0.8, decode_steps=3, **changes)
    tokens = policy.sample(Prompt(texts=["a cat", "red"], wants="image", seeds=[3, 4]), law)
    return (tokens.one_hot * weights).sum(), tokens


@pytest.mark.parametrize("chosen", [-1, 1])
def test_gradients_of_soft_codes_are_those_of_finite_differences(chosen: int) -> None:
    policy = stirred(show_o())
    policy.double()
    weights = torch.randn(2, NUM_TOKENS, policy.vocabulary.num_codes, dtype=torch.float64)
    changes = {"relaxed_hard": False, "relaxed_round": chosen, "guidance": 2.0}
    total, tokens = relaxed_sum(policy, weights, **changes)
    assert tokens.decode_step is not None
    assert int((tokens.decode_step == tokens.decode_step.max()).sum()) > 2
    total.backward()
    generator = torch.Generator().manual_seed(0)
    for name in ("layers/0/self_attn/q_proj", "layers/1/mlp/fc1"):
        for table in (policy.adapters.up, policy.adapters.down):  # pyright: ignore
            weight = table[name]
            direction = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            sums = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    weight += step * direction
                moved, again = relaxed_sum(policy, weights, **changes)
                assert torch.equal(again.ids, tokens.ids), "another image was drawn"
                sums.append(float(moved.detach()))
                with torch.no_grad():
                    weight -= step * direction
            wanted = (sums[0] - sums[1]) / 2e-5
            found = float((weight.grad * direction).sum())
            assert found == pytest.approx(wanted, rel=2e-3, abs=1e-4), name


def test_hard_codes_have_the_gradient_of_the_soft_ones() -> None:
    policy = stirred(show_o())
    weights = torch.randn(2, NUM_TOKENS, policy.vocabulary.num_codes)
    grads = []
    for is_hard in (True, False):
        policy.zero_grad()
        total, tokens = relaxed_sum(policy, weights, relaxed_hard=is_hard)
        total.backward()
        grads.append([p.grad.clone() for p in policy.trainable_module().parameters() if p.grad is not None])
        assert tokens.one_hot is not None
        is_one_hot = bool((tokens.one_hot.detach().amax(-1) > 1 - 1e-5).all())
        assert is_one_hot or not is_hard
    for hard, soft in zip(*grads, strict=True):
        torch.testing.assert_close(hard, soft)
