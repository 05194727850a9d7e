"""What the contract of image policies asks of learning: who gets a gradient, and which."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from image_policy_candidate import TOLERANCE, Candidate, close, one_by_one, rows

from sightloop.models.reference import Reference
from sightloop.types import Turn

# -- training


def only_the_trainable_module_learns(candidate: Candidate) -> None:
    """Both scores carry a gradient to it and to nothing else; drawing leaves no trace."""
    policy = candidate.policy
    trained = set(policy.trainable_module().parameters())
    assert trained
    assert {p for p in policy.parameters() if p.requires_grad} == trained
    drawn = policy.sample(candidate.default_sampling(), policy.default_sampling())
    written = policy.sample(candidate.asking(), candidate.writing())
    assert not drawn.log_probs.requires_grad
    for turn in (
        Turn(prompt=candidate.default_sampling(), tokens=drawn),
        Turn(prompt=candidate.asking(), tokens=written),
    ):
        scores = policy.score(turn)
        assert not scores.entropy.requires_grad
        scores.log_probs.sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in trained)
        assert all(p.grad is None for p in policy.parameters() if p not in trained)
        policy.zero_grad(set_to_none=True)


def gradients_add_up_over_rows(candidate: Candidate) -> None:
    """The gradient of a batch is the sum of those of its rows, also where rows share what they start with."""
    policy = candidate.policy
    law = policy.default_sampling()
    shared = replace(
        candidate.default_sampling(), texts=[*candidate.prompts[:2]] * 2, seeds=candidate.seeds[:4]
    )
    asking = candidate.asking(candidate.images.rows(rows(0, 0, 1, 1))).rows(rows(0, 1, 2, 3))
    for prompt, under, sampling in ((shared, law, law), (asking, None, candidate.writing())):
        turn = Turn(prompt=prompt, tokens=policy.sample(prompt, sampling))
        policy.score(turn, under).log_probs.sum().backward()
        together = [p.grad.clone() for p in policy.trainable_module().parameters()]
        policy.zero_grad(set_to_none=True)
        one_by_one(policy, turn, under).log_probs.sum().backward()
        for p, wanted in zip(policy.trainable_module().parameters(), together, strict=True):
            torch.testing.assert_close(p.grad, wanted, atol=1e-4, rtol=1e-3)
        policy.zero_grad(set_to_none=True)


def recomputed_layers_give_the_same_gradient(candidate: Candidate) -> None:
    """Gradient checkpointing changes no number."""
    plain, saving = candidate.policy, candidate.policy
    saving.enable_gradient_checkpointing()
    law = plain.default_sampling()
    drawn = plain.sample(candidate.default_sampling(), law)
    written = plain.sample(candidate.asking(), candidate.writing())
    for turn, under in (
        (Turn(prompt=candidate.default_sampling(), tokens=drawn), law),
        (Turn(prompt=candidate.asking(), tokens=written), None),
    ):
        for policy in (plain, saving):
            policy.zero_grad(set_to_none=True)
            policy.score(turn, under).log_probs.sum().backward()
        pairs = zip(
            plain.trainable_module().parameters(), saving.trainable_module().parameters(), strict=True
        )
        for one, other in pairs:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)


def adapters_start_as_the_reference(candidate: Candidate) -> None:
    """Untrained adapters change nothing, nor do trained ones that are off; the reference has no gradient."""
    fresh, policy = candidate.make(), candidate.policy
    drawn = fresh.sample(candidate.default_sampling(), fresh.default_sampling())
    written = fresh.sample(candidate.asking(), candidate.writing())
    for turn in (
        Turn(prompt=candidate.default_sampling(), tokens=drawn),
        Turn(prompt=candidate.asking(), tokens=written),
    ):
        start = fresh.score(turn).log_probs
        reference = Reference(policy).score(turn)
        assert not reference.log_probs.requires_grad
        close(reference.log_probs, start.detach())
        assert (policy.score(turn).log_probs - start).abs().max() > 10 * TOLERANCE
    with policy.adapters_off():
        again = policy.sample(candidate.default_sampling(), policy.default_sampling())
    assert torch.equal(again.ids, drawn.ids)
    assert torch.equal(
        Reference(policy).sample(candidate.default_sampling(), policy.default_sampling()).ids, drawn.ids
    )
    assert Reference(policy).decode(written) == policy.decode(written)
    assert torch.equal(Reference(policy).encode(candidate.answers).ids, policy.encode(candidate.answers).ids)


def relaxed_codes_carry_a_gradient(candidate: Candidate) -> None:
    """Hard ones are the drawn codes, soft ones sum to 1; through both an answer teaches the drawing."""
    policy = candidate.policy
    trained = list(policy.trainable_module().parameters())
    for is_hard in (True, False):
        law = policy.default_sampling(relaxation=0.7, relaxed_hard=is_hard)
        tokens = policy.sample(candidate.default_sampling(), law)
        assert tokens.one_hot is not None
        assert tokens.one_hot.shape == (*tokens.ids.shape, candidate.num_codes)
        assert tokens.one_hot.requires_grad
        close(tokens.one_hot.detach().sum(-1), torch.ones(tokens.ids.shape))
        if is_hard:
            assert torch.equal(tokens.one_hot.argmax(-1), tokens.ids)
            close(tokens.one_hot.detach().amax(-1), torch.ones(tokens.ids.shape))
        answer = Turn(prompt=candidate.asking(tokens), tokens=policy.encode(candidate.answers))
        upstream = torch.autograd.grad(
            policy.score(answer).log_probs.sum(), tokens.one_hot, retain_graph=True
        )[0]
        assert upstream.abs().max() > 0
        found = torch.autograd.grad(tokens.one_hot, trained, upstream, allow_unused=True)
        assert any(grad is not None and grad.abs().max() > 0 for grad in found)
        with pytest.raises(ValueError, match="relax"):
            policy.sample(candidate.default_sampling(), replace(law, **candidate.greedy))


def hard_codes_answer_as_their_ids(candidate: Candidate) -> None:
    """An image given as one-hot codes is the image given as ids."""
    policy = candidate.policy
    own = policy.sample(candidate.default_sampling(), policy.default_sampling())
    exact = torch.nn.functional.one_hot(own.ids, candidate.num_codes).float()
    answers = policy.encode(candidate.answers)
    by_ids = policy.score(Turn(prompt=candidate.asking(own), tokens=answers)).log_probs
    by_codes = policy.score(
        Turn(prompt=candidate.asking(replace(own, one_hot=exact)), tokens=answers)
    ).log_probs
    close(by_codes, by_ids)
