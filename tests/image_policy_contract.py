"""What every policy that draws images and answers about them must keep: one set of checks for all families.

For each of `CHECKS` (`pytest.mark.parametrize`) call `check(candidate)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from image_policy_candidate import TOLERANCE, Candidate, close, one_by_one, rows, same_texts
from image_policy_learning import (
    adapters_start_as_the_reference,
    gradients_add_up_over_rows,
    hard_codes_answer_as_their_ids,
    only_the_trainable_module_learns,
    recomputed_layers_give_the_same_gradient,
    relaxed_codes_carry_a_gradient,
)

from sightloop.types import Images, Tokens, Turn

# -- drawing


def a_drawing_is_a_whole_image(candidate: Candidate) -> None:
    """Ids of codes, all of which count, that become pixels and codes again."""
    policy = candidate.policy
    tokens = policy.sample(candidate.default_sampling(), policy.default_sampling())
    assert tokens.ids.shape == (len(candidate.prompts), policy.num_image_tokens)
    assert tokens.mask.all()
    assert ((tokens.ids >= 0) & (tokens.ids < candidate.num_codes)).all()
    assert tokens.one_hot is None
    images = policy.pixels(tokens)
    assert images.pixels.dtype == torch.uint8
    assert images.pixels.shape[:2] == (len(tokens), 3)
    again = policy.image_tokens(images)
    assert again.ids.shape == tokens.ids.shape
    assert again.mask.all()
    assert ((again.ids >= 0) & (again.ids < candidate.num_codes)).all()


def images_of_any_size_become_codes(candidate: Candidate) -> None:
    """They are brought to the policy's own size."""
    policy = candidate.policy
    side = candidate.images.pixels.shape[-1]
    wide = torch.randint(0, 256, (2, 3, side + 3, 2 * side)).to(torch.uint8)
    assert policy.image_tokens(Images(pixels=wide)).ids.shape == (2, policy.num_image_tokens)


def drawn_codes_score_as_recorded(candidate: Candidate) -> None:
    """`score` under the drawing distribution gives what `sample` wrote down, under every distribution of the
    family."""
    policy = candidate.policy
    assert candidate.laws
    for changes in candidate.laws.values():
        law = policy.default_sampling(**changes)
        tokens = policy.sample(candidate.default_sampling(), law)
        assert tokens.log_probs is not None
        assert tokens.log_probs.isfinite().all()
        assert (tokens.log_probs <= 0).all()
        scored = policy.score(Turn(prompt=candidate.default_sampling(), tokens=tokens), law)
        close(scored.log_probs, tokens.log_probs)


def the_natural_law_is_without_guidance(candidate: Candidate) -> None:
    """None stands for temperature 1, no guidance, all codes; guidance is another distribution."""
    policy = candidate.policy
    tokens = policy.sample(candidate.default_sampling(), policy.default_sampling())
    turn = Turn(prompt=candidate.default_sampling(), tokens=tokens)
    plain = policy.score(turn)
    close(plain.log_probs, policy.score(turn, policy.default_sampling(guidance=0.0)).log_probs)
    guided = policy.score(turn, policy.default_sampling(guidance=3.0))
    assert (guided.log_probs - plain.log_probs).abs().max() > 10 * TOLERANCE
    hot = policy.score(turn, policy.default_sampling(guidance=0.0, temperature=3.0))
    assert (hot.entropy >= plain.entropy - TOLERANCE).all()
    assert (plain.entropy >= -TOLERANCE).all()
    assert plain.log_probs.dtype == plain.entropy.dtype == torch.float32


def an_image_depends_on_its_seed_alone(candidate: Candidate) -> None:
    """Whatever else is in the batch, in whatever order."""
    policy = candidate.policy
    law, prompt = policy.default_sampling(), candidate.default_sampling()
    together = policy.sample(prompt, law)
    for row in range(len(prompt)):
        alone = policy.sample(prompt.rows(rows(row)), law)
        assert torch.equal(alone.ids, together.ids[row : row + 1])
        close(alone.log_probs, together.log_probs[row : row + 1])
    backwards = torch.arange(len(prompt)).flip(0)
    assert torch.equal(policy.sample(prompt.rows(backwards), law).ids, together.ids[backwards])


def other_seeds_draw_other_images(candidate: Candidate) -> None:
    """Seeds are used; without them the global generator decides."""
    policy = candidate.policy
    law, prompt = (
        policy.default_sampling(guidance=0.0),
        candidate.default_sampling(texts=[""] * len(candidate.prompts)),
    )
    first = policy.sample(prompt, law).ids
    assert torch.equal(first, policy.sample(prompt, law).ids)
    assert len(first.unique(dim=0)) > 1
    others = [seed + 1 for seed in candidate.seeds]
    assert not torch.equal(first, policy.sample(replace(prompt, seeds=others), law).ids)
    free = replace(prompt, seeds=None)
    torch.manual_seed(5)
    once = policy.sample(free, law).ids
    assert not torch.equal(once, policy.sample(free, law).ids)
    torch.manual_seed(5)
    assert torch.equal(once, policy.sample(free, law).ids)
    with pytest.raises(ValueError, match="seed"):
        policy.sample(replace(prompt, seeds=candidate.seeds[:-1]), law)


def codes_score_alike_alone_and_together(candidate: Candidate) -> None:
    """Neighbors, their longer prompts and the micro-batch change no log-probability."""
    policy = candidate.policy
    law = policy.default_sampling()
    turn = Turn(prompt=candidate.default_sampling(), tokens=policy.sample(candidate.default_sampling(), law))
    for under in (None, law):
        together = policy.score(turn, under)
        alone = one_by_one(policy, turn, under)
        close(alone.log_probs, together.log_probs)
        close(alone.entropy, together.entropy)


def masked_codes_score_nothing(candidate: Candidate) -> None:
    """0 where masked, and no other score changes."""
    policy = candidate.policy
    tokens = policy.sample(candidate.default_sampling(), policy.default_sampling())
    whole = policy.score(Turn(prompt=candidate.default_sampling(), tokens=tokens))
    mask = torch.rand(tokens.ids.shape) < 0.5
    mask[0] = False
    part = policy.score(Turn(prompt=candidate.default_sampling(), tokens=replace(tokens, mask=mask)))
    assert (part.log_probs[~mask] == 0).all()
    assert (part.entropy[~mask] == 0).all()
    close(part.log_probs[mask], whole.log_probs[mask])
    close(part.entropy[mask], whole.entropy[mask])


def greedy_images_have_no_law(candidate: Candidate) -> None:
    """Nothing is recorded, nothing is left to chance, nothing can be scored."""
    policy = candidate.policy
    law = policy.default_sampling(**candidate.greedy)
    tokens = policy.sample(candidate.default_sampling(), law)
    assert tokens.log_probs is None
    assert torch.equal(tokens.ids, policy.sample(replace(candidate.default_sampling(), seeds=None), law).ids)
    with pytest.raises(ValueError, match="greedy"):
        policy.score(Turn(prompt=candidate.default_sampling(), tokens=tokens), law)


def prompts_matter(candidate: Candidate) -> None:
    """The same codes score otherwise after another prompt; an empty prompt is no condition."""
    policy = candidate.policy
    tokens = policy.sample(candidate.default_sampling(), policy.default_sampling(guidance=0.0))
    asked = policy.score(Turn(prompt=candidate.default_sampling(), tokens=tokens)).log_probs
    empty = candidate.default_sampling(texts=[""] * len(candidate.prompts))
    free = policy.score(Turn(prompt=empty, tokens=tokens)).log_probs
    differences = (asked - free).abs().amax(1)
    for text, difference in zip(candidate.prompts, differences, strict=True):
        assert (difference > 10 * TOLERANCE) == (text != "")


def a_drawing_law_of_the_wrong_length_is_refused(candidate: Candidate) -> None:
    """An image has one number of tokens."""
    policy = candidate.policy
    with pytest.raises(ValueError, match=str(policy.num_image_tokens)):
        policy.sample(
            candidate.default_sampling(), policy.default_sampling(max_tokens=policy.num_image_tokens + 1)
        )


# -- answers


def answers_score_as_recorded(candidate: Candidate) -> None:
    """About pixels and about the policy's own codes, under every distribution."""
    policy = candidate.policy
    own = policy.sample(candidate.default_sampling(), policy.default_sampling())
    for about in (candidate.images, own):
        prompt = candidate.asking(about)
        for law in (candidate.writing(temperature=0.7), candidate.writing(temperature=2.0, top_k=5)):
            tokens = policy.sample(prompt, law)
            assert (tokens.log_probs[tokens.mask] <= 0).all()
            scored = policy.score(Turn(prompt=prompt, tokens=tokens), law).log_probs
            close(scored[tokens.mask], tokens.log_probs[tokens.mask])
            assert (scored[~tokens.mask] == 0).all()


def answers_end_at_the_end_token(candidate: Candidate) -> None:
    """The mask stops at it; ids are text."""
    policy = candidate.policy
    tokens = policy.sample(candidate.asking(), candidate.writing())
    assert ((tokens.ids[tokens.mask] >= 0) & (tokens.ids[tokens.mask] < candidate.num_words)).all()
    ended = 0
    for row in range(len(tokens)):
        count = int(tokens.mask[row].sum())
        assert tokens.mask[row, :count].all()
        ends = policy.is_end(tokens)[row]
        assert not ends[: count - 1].any()
        assert bool(ends[count - 1]) or count == candidate.max_tokens
        ended += int(ends.any())
    assert ended, "no answer ended"
    pieces = policy.decode(tokens)
    assert len(pieces) == len(tokens)


def an_answer_depends_on_its_seed_alone(candidate: Candidate) -> None:
    """Whatever is asked beside it, in whatever order."""
    policy = candidate.policy
    prompt, law = candidate.asking(), candidate.writing()
    together = policy.sample(prompt, law)
    turn = Turn(prompt=prompt, tokens=together)
    for row in range(len(prompt)):
        same_texts(policy.sample(prompt.rows(rows(row)), law), together.rows(rows(row)))
    backwards = torch.arange(len(prompt)).flip(0)
    same_texts(policy.sample(prompt.rows(backwards), law), together.rows(backwards))
    found, alone = policy.score(turn), one_by_one(policy, turn, None)
    close(alone.log_probs, found.log_probs)
    close(alone.entropy, found.entropy)


def several_questions_about_one_image(candidate: Candidate) -> None:
    """Rows that share an image answer as rows with a copy of it do alone."""
    policy = candidate.policy
    for about in (candidate.images, policy.image_tokens(candidate.images)):
        one = about.rows(torch.zeros(len(candidate.questions), dtype=torch.int64))
        prompt, law = candidate.asking(one), candidate.writing()
        tokens = policy.sample(prompt, law)
        for row in range(len(prompt)):
            same_texts(policy.sample(prompt.rows(rows(row)), law), tokens.rows(rows(row)))
        turn = Turn(prompt=prompt, tokens=tokens)
        close(policy.score(turn).log_probs, one_by_one(policy, turn, None).log_probs)


def images_and_questions_matter(candidate: Candidate) -> None:
    """The same answer scores otherwise about another image and to another question."""
    policy = candidate.policy
    tokens = policy.encode([candidate.answers[0]] * len(candidate.questions))
    shifted = candidate.images.rows(torch.arange(len(candidate.images)).roll(1))
    asked = policy.score(Turn(prompt=candidate.asking(), tokens=tokens)).log_probs
    for prompt in (
        candidate.asking(shifted),
        replace(candidate.asking(), texts=candidate.questions[::-1]),
    ):
        other = policy.score(Turn(prompt=prompt, tokens=tokens)).log_probs
        assert (other - asked).abs().max() > 10 * TOLERANCE


def greedy_answers_need_no_seed(candidate: Candidate) -> None:
    """Temperature 0 records nothing and cannot be scored; it draws what a distribution of one word draws."""
    policy = candidate.policy
    law = candidate.writing(temperature=0.0)
    tokens = policy.sample(candidate.asking(), law)
    assert tokens.log_probs is None
    same_texts(policy.sample(replace(candidate.asking(), seeds=None), law), tokens)
    same_texts(policy.sample(candidate.asking(), candidate.writing(top_k=1)), tokens)
    with pytest.raises(ValueError, match="greedy"):
        policy.score(Turn(prompt=candidate.asking(), tokens=tokens), law)


def answers_come_back_from_their_tokens(candidate: Candidate) -> None:
    """`encode` ends every text; `decode` returns it, with the blank before it; padding scores nothing."""
    policy = candidate.policy
    tokens = policy.encode(candidate.answers)
    assert ["".join(pieces).strip() for pieces in policy.decode(tokens)] == candidate.answers
    assert (policy.is_end(tokens).sum(1) == 1).all()
    scores = policy.score(Turn(prompt=candidate.asking(), tokens=tokens))
    assert not tokens.mask.all()
    assert (scores.log_probs[~tokens.mask] == 0).all()
    assert (scores.log_probs[tokens.mask] < 0).all()
    longer = Tokens(
        ids=torch.nn.functional.pad(tokens.ids, (0, 3)), mask=torch.nn.functional.pad(tokens.mask, (0, 3))
    )
    padded = policy.score(Turn(prompt=candidate.asking(), tokens=longer)).log_probs
    close(padded[:, :-3], scores.log_probs)
    assert (padded[:, -3:] == 0).all()


CHECKS: tuple[Callable[[Candidate], None], ...] = (
    a_drawing_is_a_whole_image,
    images_of_any_size_become_codes,
    drawn_codes_score_as_recorded,
    the_natural_law_is_without_guidance,
    an_image_depends_on_its_seed_alone,
    other_seeds_draw_other_images,
    codes_score_alike_alone_and_together,
    masked_codes_score_nothing,
    greedy_images_have_no_law,
    prompts_matter,
    a_drawing_law_of_the_wrong_length_is_refused,
    answers_score_as_recorded,
    answers_end_at_the_end_token,
    an_answer_depends_on_its_seed_alone,
    several_questions_about_one_image,
    images_and_questions_matter,
    greedy_answers_need_no_seed,
    answers_come_back_from_their_tokens,
    only_the_trainable_module_learns,
    gradients_add_up_over_rows,
    recomputed_layers_give_the_same_gradient,
    adapters_start_as_the_reference,
    relaxed_codes_carry_a_gradient,
    hard_codes_answer_as_their_ids,
)
