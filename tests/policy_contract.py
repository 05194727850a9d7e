"""What every captioning policy must keep: one set of checks, run on each of them by the tests of its file.

For each of `CHECKS` (`pytest.mark.parametrize`) call `check(candidate)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sightloop.types import Images, Prompt, Sampling, Tokens, Turn

TOLERANCE = 1e-4
LAWS = {
    "the paper's": {"temperature": 2.0, "top_k": 6},
    "the model's own": {"temperature": 1.0},
    "a sharp one": {"temperature": 0.7},
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A policy with what it can be tried on."""

    policy: Any
    """A `Captioner` with a `trainable_module()` of its trainable parts."""
    images: Images
    """Different images, at least 6; with temperature 1 most captions of them end within `max_tokens`."""
    prompts: list[str]
    """As many prompts as images, of different lengths."""
    captions: list[str]
    """Texts that the tokenizer holds without loss, of different lengths."""
    vocabulary: int
    max_tokens: int
    natural_logits: Callable[[Images, str, list[int]], Tensor] | None = None
    """Logits (T, V) of transformers' own forward pass at each token, of one image, prompt and token ids."""

    def prompt(self, *, texts: list[str] | None = None) -> Prompt:
        """A prompt about all images, with a seed each."""
        number = len(self.images)
        texts = [""] * number if texts is None else texts
        return Prompt(
            texts=texts,
            images=self.policy.encode_images(self.images),
            seeds=[7 + 13 * i for i in range(number)],
        )

    def law(self, **changes: Any) -> Sampling:
        """A drawing distribution with this candidate's limit."""
        return Sampling(max_tokens=self.max_tokens, **changes)


def texts_of(tokens: Tokens) -> list[list[int]]:
    """The ids that count, row by row."""
    rows = zip(tokens.ids.tolist(), tokens.mask.tolist(), strict=True)
    return [[token for token, counts in zip(*row, strict=True) if counts] for row in rows]


def same_rows(one: Tokens, other: Tokens) -> None:
    """Both hold the same texts, drawn with the same log-probabilities."""
    assert texts_of(one) == texts_of(other)
    if one.log_probs is None or other.log_probs is None:
        assert one.log_probs is other.log_probs
    else:
        torch.testing.assert_close(
            one.log_probs[one.mask], other.log_probs[other.mask], atol=TOLERANCE, rtol=0
        )


def the_mask_ends_at_the_end_token(candidate: Candidate) -> None:
    """Every row counts up to its first end token, or up to the limit."""
    cut = replace(candidate.law(), max_tokens=max(2, candidate.max_tokens // 2))
    num_ended = 0
    for law in (candidate.law(), cut):
        tokens = candidate.policy.sample(candidate.prompt(), law)
        lengths = tokens.mask.sum(1)
        assert torch.equal(tokens.mask, torch.arange(tokens.mask.shape[1])[None] < lengths[:, None])
        assert int(lengths.max()) == tokens.ids.shape[1] <= law.max_tokens
        assert int(lengths.min()) >= 1
        ends = candidate.policy.is_end(tokens)
        last = torch.arange(tokens.mask.shape[1])[None] == lengths[:, None] - 1
        assert not (ends & ~last).any(), "a text goes on after its end token, or an end token does not count"
        ended = ends.any(1)
        assert (ended | (lengths == law.max_tokens)).all(), "a text stops before its end"
        num_ended += int(ended.sum())
    assert num_ended > 0, "no text ended: the check saw nothing"


def texts_come_back_from_their_tokens(candidate: Candidate) -> None:
    """`decode` undoes `encode`; the end token is there, counts, and has no text."""
    tokens = candidate.policy.encode(candidate.captions)
    pieces = candidate.policy.decode(tokens)
    assert ["".join(row).strip() for row in pieces] == candidate.captions
    lengths = tokens.mask.sum(1)
    assert [len(row) for row in pieces] == (lengths - 1).tolist()
    assert candidate.policy.is_end(tokens).sum(1).tolist() == [1] * len(lengths)
    assert candidate.policy.is_end(tokens).int().argmax(1).tolist() == (lengths - 1).tolist()
    assert tokens.log_probs is None


def drawn_texts_decode_to_a_piece_a_token(candidate: Candidate) -> None:
    """Piece k is the text of token k, and end tokens have none."""
    tokens = candidate.policy.sample(candidate.prompt(), candidate.law(temperature=2.0))
    pieces = candidate.policy.decode(tokens)
    counted = (tokens.mask & ~candidate.policy.is_end(tokens)).sum(1).tolist()
    assert all(len(row) <= number for row, number in zip(pieces, counted, strict=True))
    again = candidate.policy.decode(replace(tokens, mask=tokens.mask & ~candidate.policy.is_end(tokens)))
    assert again == pieces


def a_text_depends_on_its_seed_alone(candidate: Candidate) -> None:
    """The same seed draws the same tokens alone, in any order and beside any other row."""
    prompt, law = candidate.prompt(), candidate.law(temperature=1.5)
    together = candidate.policy.sample(prompt, law)
    assert len({len(text) for text in texts_of(together)}) > 1, "all texts are of one length"
    for row in range(len(prompt)):
        index = torch.tensor([row])
        same_rows(candidate.policy.sample(prompt.rows(index), law), together.rows(index))
    backwards = torch.arange(len(prompt)).flip(0)
    same_rows(candidate.policy.sample(prompt.rows(backwards), law), together.rows(backwards))


def other_seeds_draw_other_texts(candidate: Candidate) -> None:
    """Seeds are used; without them the global generator decides."""
    prompt, law = candidate.prompt(), candidate.law(temperature=2.0)
    assert prompt.seeds is not None
    first = texts_of(candidate.policy.sample(prompt, law))
    assert first == texts_of(candidate.policy.sample(prompt, law))
    assert first != texts_of(
        candidate.policy.sample(replace(prompt, seeds=[seed + 1 for seed in prompt.seeds]), law)
    )
    free = replace(prompt, seeds=None)
    torch.manual_seed(5)
    once = texts_of(candidate.policy.sample(free, law))
    assert once != texts_of(candidate.policy.sample(free, law))
    torch.manual_seed(5)
    assert once == texts_of(candidate.policy.sample(free, law))
    with pytest.raises(ValueError, match="seed"):
        candidate.policy.sample(replace(prompt, seeds=prompt.seeds[:-1]), law)


def a_lower_limit_only_cuts(candidate: Candidate) -> None:
    """With fewer tokens allowed the texts are the beginnings of the longer ones."""
    prompt = candidate.prompt()
    whole = texts_of(candidate.policy.sample(prompt, candidate.law()))
    short = candidate.policy.sample(prompt, replace(candidate.law(), max_tokens=3))
    assert texts_of(short) == [text[:3] for text in whole]


def prompts_of_any_length_mix(candidate: Candidate) -> None:
    """Rows with prompts of different lengths draw and score as they do alone."""
    prompt, law = candidate.prompt(texts=candidate.prompts), candidate.law(temperature=1.5)
    assert len({len(text) for text in candidate.prompts}) > 1
    tokens = candidate.policy.sample(prompt, law)
    scores = candidate.policy.score(Turn(prompt=prompt, tokens=tokens)).log_probs
    for row in range(len(prompt)):
        index = torch.tensor([row])
        same_rows(candidate.policy.sample(prompt.rows(index), law), tokens.rows(index))
        alone = candidate.policy.score(Turn(prompt=prompt, tokens=tokens).rows(index)).log_probs
        torch.testing.assert_close(alone, scores[index], atol=TOLERANCE, rtol=0)
    bare = candidate.policy.score(Turn(prompt=candidate.prompt(), tokens=tokens)).log_probs
    assert (bare - scores).abs().max() > 10 * TOLERANCE, "the prompt changes nothing"


def recorded_log_probs_are_scored_ones(candidate: Candidate) -> None:
    """`score` under the drawing distribution gives what `sample` wrote down."""
    for changes in LAWS.values():
        law, prompt = candidate.law(**changes), candidate.prompt(texts=candidate.prompts)
        tokens = candidate.policy.sample(prompt, law)
        assert tokens.log_probs is not None
        scored = candidate.policy.score(Turn(prompt=prompt, tokens=tokens), law).log_probs
        recorded = tokens.log_probs[tokens.mask]
        assert recorded.isfinite().all()
        assert (recorded <= 0).all()
        torch.testing.assert_close(scored[tokens.mask], recorded, atol=TOLERANCE, rtol=0)


def the_natural_law_is_the_whole_models(candidate: Candidate) -> None:
    """Without a distribution, log-probabilities and entropy are those of transformers' own forward pass."""
    if candidate.natural_logits is None:
        pytest.skip("no forward pass of transformers to compare with")
    prompt = candidate.prompt(texts=candidate.prompts)
    tokens = candidate.policy.sample(prompt, candidate.law(temperature=2.0))
    scores = candidate.policy.score(Turn(prompt=prompt, tokens=tokens))
    for row, ids in enumerate(texts_of(tokens)):
        logits = candidate.natural_logits(
            candidate.images.rows(torch.tensor([row])), candidate.prompts[row], ids
        )
        law = logits.log_softmax(-1)
        expected = law.gather(1, torch.tensor(ids)[:, None])[:, 0]
        torch.testing.assert_close(scores.log_probs[row, : len(ids)], expected, atol=TOLERANCE, rtol=0)
        entropy = -(law.exp() * law).sum(-1)
        torch.testing.assert_close(scores.entropy[row, : len(ids)], entropy, atol=TOLERANCE, rtol=0)


def greedy_takes_the_likeliest_and_has_no_law(candidate: Candidate) -> None:
    """Temperature 0 records nothing, needs no seed, and cannot be scored."""
    prompt, law = candidate.prompt(), candidate.law(temperature=0.0)
    tokens = candidate.policy.sample(prompt, law)
    assert tokens.log_probs is None
    assert texts_of(tokens) == texts_of(candidate.policy.sample(replace(prompt, seeds=None), law))
    turn = Turn(prompt=prompt, tokens=tokens)
    # The only token that a distribution of one candidate can draw is the likeliest one.
    certain = candidate.policy.score(turn, candidate.law(top_k=1)).log_probs
    torch.testing.assert_close(certain, torch.zeros_like(certain), atol=TOLERANCE, rtol=0)
    with pytest.raises(ValueError, match="greedy"):
        candidate.policy.score(turn, law)


def scores_are_zero_where_masked_and_blind_to_padding(candidate: Candidate) -> None:
    """Columns beyond the mask change nothing, whatever they hold."""
    prompt = candidate.prompt()
    tokens = candidate.policy.sample(prompt, candidate.law())
    scores = candidate.policy.score(Turn(prompt=prompt, tokens=tokens))
    assert not tokens.mask.all()
    assert (scores.log_probs[~tokens.mask] == 0).all()
    assert (scores.entropy[~tokens.mask] == 0).all()
    assert (scores.entropy >= -TOLERANCE).all()
    assert (scores.entropy <= math.log(candidate.vocabulary) + TOLERANCE).all()
    assert scores.log_probs.dtype == scores.entropy.dtype == torch.float32
    width = tokens.ids.shape[1]
    padded = Tokens(
        ids=torch.nn.functional.pad(tokens.ids.masked_fill(~tokens.mask, 5), (0, 4), value=6),
        mask=torch.nn.functional.pad(tokens.mask, (0, 4)),
    )
    again = candidate.policy.score(Turn(prompt=prompt, tokens=padded))
    torch.testing.assert_close(again.log_probs[:, :width], scores.log_probs, atol=TOLERANCE, rtol=0)
    assert (again.log_probs[:, width:] == 0).all()


def texts_of_one_token_can_be_scored(candidate: Candidate) -> None:
    """The shortest turn there is."""
    law = replace(candidate.law(), max_tokens=1)
    prompt = candidate.prompt()
    tokens = candidate.policy.sample(prompt, law)
    assert tokens.ids.shape[1] == 1
    scored = candidate.policy.score(Turn(prompt=prompt, tokens=tokens), law).log_probs
    torch.testing.assert_close(scored, tokens.log_probs, atol=TOLERANCE, rtol=0)


def features_stand_for_pixels(candidate: Candidate) -> None:
    """`look` adds features once; with or without them everything is the same."""
    seen = candidate.policy.encode_images(candidate.images)
    assert torch.equal(seen.pixels, candidate.images.pixels)
    assert all(not feature.requires_grad for feature in seen.features.values())
    again = candidate.policy.encode_images(seen)
    assert all(again.features[key] is seen.features[key] for key in seen.features)
    bare = replace(candidate.prompt(), images=candidate.images)
    tokens = candidate.policy.sample(candidate.prompt(), candidate.law())
    same_rows(candidate.policy.sample(bare, candidate.law()), tokens)
    one = candidate.policy.score(Turn(prompt=bare, tokens=tokens)).log_probs
    other = candidate.policy.score(Turn(prompt=candidate.prompt(), tokens=tokens)).log_probs
    torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=0)


def images_matter(candidate: Candidate) -> None:
    """The same text scores otherwise about another image."""
    prompt = candidate.prompt()
    tokens = candidate.policy.encode([candidate.captions[0]] * len(prompt))
    scores = candidate.policy.score(Turn(prompt=prompt, tokens=tokens)).log_probs.sum(1)
    assert (scores[1:] - scores[:1]).abs().max() > 10 * TOLERANCE


def only_the_bridge_learns(candidate: Candidate) -> None:
    """`score` carries a gradient to the trainable parts and to nothing else; drawing leaves no trace."""
    policy = candidate.policy
    prompt = candidate.prompt()
    tokens = policy.sample(prompt, candidate.law())
    assert tokens.log_probs is not None
    assert not tokens.log_probs.requires_grad
    assert not any(part.training for part in policy.modules() if isinstance(part, torch.nn.Dropout))
    bridge = set(policy.trainable_module().parameters())
    assert bridge
    assert {p for p in policy.parameters() if p.requires_grad} == bridge
    assert {p.dtype for p in bridge} == {torch.float32}
    scores = policy.score(Turn(prompt=prompt, tokens=tokens))
    assert not scores.entropy.requires_grad
    scores.log_probs.sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in bridge)
    assert all(p.grad is None for p in policy.parameters() if p not in bridge)
    policy.zero_grad(set_to_none=True)


def scoring_twice_is_the_same(candidate: Candidate) -> None:
    """Nothing random is left in a pass, whether or not it keeps a gradient."""
    prompt = candidate.prompt()
    turn = Turn(prompt=prompt, tokens=candidate.policy.sample(prompt, candidate.law()))
    first = candidate.policy.score(turn).log_probs
    assert torch.equal(first, candidate.policy.score(turn).log_probs)
    with torch.no_grad():
        torch.testing.assert_close(candidate.policy.score(turn).log_probs, first.detach(), atol=1e-5, rtol=0)


def the_reference_reads_text_alone(candidate: Candidate) -> None:
    """Reference log-probabilities depend on the text, not on its neighbors, and are 0 where masked."""
    tokens = candidate.policy.encode(candidate.captions)
    reference = candidate.policy.reference_log_probs(tokens)
    assert reference.shape == tokens.ids.shape
    assert not reference.requires_grad
    assert (reference[~tokens.mask] == 0).all()
    assert (reference[tokens.mask] < 0).all()
    for row, caption in enumerate(candidate.captions):
        alone = candidate.policy.reference_log_probs(candidate.policy.encode([caption]))
        torch.testing.assert_close(alone[0], reference[row, : alone.shape[1]], atol=TOLERANCE, rtol=0)


CHECKS: tuple[Callable[[Candidate], None], ...] = (
    the_mask_ends_at_the_end_token,
    texts_come_back_from_their_tokens,
    drawn_texts_decode_to_a_piece_a_token,
    a_text_depends_on_its_seed_alone,
    other_seeds_draw_other_texts,
    a_lower_limit_only_cuts,
    prompts_of_any_length_mix,
    recorded_log_probs_are_scored_ones,
    the_natural_law_is_the_whole_models,
    greedy_takes_the_likeliest_and_has_no_law,
    scores_are_zero_where_masked_and_blind_to_padding,
    texts_of_one_token_can_be_scored,
    features_stand_for_pixels,
    images_matter,
    only_the_bridge_learns,
    scoring_twice_is_the_same,
    the_reference_reads_text_alone,
)
