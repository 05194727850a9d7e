"""Show-o keeps the contract of image policies, and what only masked decoders have to keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from image_policy_candidate import Candidate
from image_policy_contract import CHECKS
from tiny_show_o import NUM_BITS, language, magvit, pictures, show_o, stirred, tokenizer

from sightloop.algorithms.unmasking import FreshMasks, SomeRounds
from sightloop.models.reference import Reference, frozen_copy
from sightloop.models.show_o.layout import drawing_prompt, drawing_rows, image_prefix, pads
from sightloop.models.show_o.losses import Masking
from sightloop.models.show_o.masks import answer_mask, drawing_mask
from sightloop.models.show_o.policy import ShowO, ShowOSettings
from sightloop.types import Prompt, Sampling, Tokens, Turn


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


def test_codes_that_are_given_stay_and_the_rest_is_drawn_and_scored() -> None:
    policy = stirred(show_o())
    given = policy.image_tokens(pictures(2))
    mask = torch.zeros_like(given.mask)
    mask[0, :5], mask[1, ::2] = True, True
    prompt = Prompt(texts=["red", "a cat"], wants="image", seeds=[1, 2], images=replace(given, mask=mask))
    law = policy.default_sampling(decode_steps=3)
    tokens = policy.sample(prompt, law)
    assert torch.equal(tokens.ids[mask], given.ids[mask])
    assert torch.equal(tokens.mask, ~mask)
    assert tokens.log_probs is not None
    scored = policy.score(Turn(prompt=prompt, tokens=tokens), law).log_probs
    torch.testing.assert_close(scored, tokens.log_probs, atol=1e-4, rtol=0)
    # An image that is known whole is given back.
    whole = policy.sample(replace(prompt, images=given), law)
    assert torch.equal(whole.ids, given.ids)
    assert not whole.mask.any()
    blank = policy.score(Turn(prompt=prompt, tokens=whole), law)
    assert (blank.log_probs == 0).all()
    with pytest.raises(ValueError, match="image_tokens"):
        policy.sample(replace(prompt, images=pictures(2)), law)


def test_codes_without_rounds_are_scored_from_an_image_of_which_nothing_is_known() -> None:
    policy = stirred(show_o())
    prompt = Prompt(texts=["red", "a cat"], wants="image")
    tokens = policy.image_tokens(pictures(2))
    found = policy.score(Turn(prompt=prompt, tokens=tokens)).log_probs
    at_once = replace(tokens, decode_step=torch.zeros_like(tokens.ids))
    assert torch.equal(found, policy.score(Turn(prompt=prompt, tokens=at_once)).log_probs)


def test_each_round_is_scored_as_the_whole_model_scores_it() -> None:
    policy = stirred(show_o())
    words, max_text = policy.vocabulary, policy.settings.max_text_tokens
    texts = ["a cat", "two dogs", ""]
    prompt = Prompt(texts=texts, wants="image", seeds=[1, 2, 3])
    tokens = policy.sample(prompt, policy.default_sampling(decode_steps=3))
    scores = policy.score(Turn(prompt=prompt, tokens=tokens))
    assert tokens.decode_step is not None
    rows = [drawing_prompt(text, words, max_text=max_text) for text in policy.text_ids(texts)]
    assert policy.adapters is not None
    for step in range(3):
        codes = (tokens.ids + words.first_code).masked_fill(tokens.decode_step >= step, words.mask)
        ids = drawing_rows(rows, codes, words, max_text=max_text)
        mask = drawing_mask(pads(ids, words), first=max_text + 1)
        with policy.adapters.switched(True), torch.no_grad():
            logits = policy.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        law = logits[:, max_text + 2 : -1, words.first_code : words.mask].log_softmax(-1)
        now = tokens.decode_step == step
        wanted = law.gather(2, tokens.ids[..., None])[..., 0]
        torch.testing.assert_close(scores.log_probs[now], wanted[now], atol=1e-5, rtol=1e-5)
        entropy = -(law.exp() * law).sum(-1)
        torch.testing.assert_close(scores.entropy[now], entropy[now], atol=1e-5, rtol=1e-5)


def test_answers_are_scored_as_the_whole_model_scores_them() -> None:
    policy = stirred(show_o())
    words = policy.vocabulary
    images, question, answer = pictures(1), "what is it?", "a red cat"
    turn = Turn(prompt=Prompt(texts=[question], images=images), tokens=policy.encode([answer]))
    found = policy.score(turn).log_probs[0]
    prefix = image_prefix(policy.image_tokens(images).ids + words.first_code, words)
    asked = policy.text_ids([f"USER: \n{question} ASSISTANT:"])[0]
    given = turn.tokens.ids[0].tolist()
    ids = torch.cat([prefix, torch.tensor([[words.begin, *asked, *given]])], 1)
    mask = answer_mask(ids.shape[1], last=prefix.shape[1] - 1)
    assert policy.adapters is not None
    with policy.adapters.switched(True), torch.no_grad():
        logits = policy.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    law = logits[0, -len(given) - 1 : -1, : words.num_text].log_softmax(-1)
    wanted = law.gather(1, turn.tokens.ids[0][:, None])[:, 0]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_the_whole_model_can_be_trained_and_compared_with_a_frozen_copy() -> None:
    policy = show_o(trained="full")
    copied = frozen_copy(policy)
    prompt = Prompt(texts=["red", "a cat"], wants="image", seeds=[1, 2])
    tokens = policy.sample(prompt, policy.default_sampling())
    asked = Turn(prompt=Prompt(texts=["what?", "who?"], images=tokens), tokens=policy.encode(["a", "no"]))
    drawn = Turn(prompt=prompt, tokens=tokens)
    before = [policy.score(turn).log_probs for turn in (drawn, asked)]
    (before[0].sum() + before[1].sum()).backward()
    weights = set(policy.trainable_module().parameters())
    assert {p for p in policy.parameters() if p.requires_grad} == weights == set(policy.model.parameters())
    assert all(p.grad is not None for p in weights)
    with torch.no_grad():
        for weight in weights:
            weight -= 0.01 * weight.grad.sign()  # pyright: ignore
    for turn, was in zip((drawn, asked), before, strict=True):
        found = copied.score(turn).log_probs
        assert torch.equal(found, was)
        assert not found.requires_grad
        assert not torch.allclose(policy.score(turn).log_probs, was, atol=1e-3)
    assert copied.magvit.decoder.conv_in.weight is policy.magvit.decoder.conv_in.weight
    with pytest.raises(ValueError, match="frozen copy"), policy.adapters_off():
        pass
    with pytest.raises(ValueError, match="needs no copy"):
        frozen_copy(show_o())


def test_supervised_losses_teach_what_is_trained() -> None:
    policy = stirred(show_o())
    tokens = policy.image_tokens(pictures(3))
    texts = ["a cat", "red", ""]
    torch.manual_seed(1)
    losses = policy.losses(drawings=(texts, tokens), captions=(tokens, texts), texts=texts)
    assert losses.drawing is not None
    assert losses.text is not None
    assert losses.answer is not None
    total = losses.drawing + 0.1 * losses.text + losses.answer
    torch.testing.assert_close(losses.total(), total)
    total.backward()
    assert all(p.grad is not None for p in policy.trainable_module().parameters())
    alone = policy.losses(captions=(tokens, texts))
    assert alone.drawing is None
    assert alone.text is None
    torch.testing.assert_close(alone.total(), losses.answer)
    with pytest.raises(ValueError, match="no rows"):
        policy.losses()


def test_masks_of_one_ratio_hide_as_many_codes_everywhere() -> None:
    keys = torch.rand(4, 16)
    hidden = Masking(progress=torch.full((4,), 2 / 3), keys=keys).hidden()
    assert hidden.sum(1).tolist() == [8] * 4
    assert Masking(progress=torch.ones(4), keys=keys).hidden().sum(1).tolist() == [1] * 4
    assert Masking(progress=torch.ones(4), keys=keys).hidden(min_share=0.5).sum(1).tolist() == [8] * 4


def test_orders_of_unmasking_are_scored_alike_by_policy_and_reference() -> None:
    policy = stirred(show_o())
    prompt = Prompt(texts=["a cat", "a cat", "red"], wants="image", seeds=[1, 2, 3])
    turn = Turn(prompt=prompt, tokens=policy.sample(prompt, policy.default_sampling(decode_steps=4)))
    for order in [*FreshMasks(number=2)(turn), *SomeRounds(number=2)(turn)]:
        found, reference = policy.score(order), Reference(policy).score(order)
        assert (found.log_probs[order.tokens.mask] < 0).all()
        assert (found.log_probs[~order.tokens.mask] == 0).all()
        assert torch.equal(found.log_probs == 0, reference.log_probs == 0)
    whole, (some,) = policy.score(turn).log_probs, SomeRounds(number=2)(turn)
    part = policy.score(some).log_probs
    torch.testing.assert_close(part[some.tokens.mask], whole[some.tokens.mask], atol=1e-5, rtol=0)


def test_long_prompts_are_cut_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    policy = show_o()
    law, long = policy.default_sampling(decode_steps=1), "a cat and two dogs"
    tokens = policy.sample(Prompt(texts=[long, "a"], wants="image", seeds=[1, 2]), law)
    cut = policy.sample(Prompt(texts=[long[:10], "a"], wants="image", seeds=[1, 2]), law)
    assert torch.equal(tokens.ids, cut.ids)
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 2 prompts are longer than 12 text positions and were cut; this is said once"
    ]


def test_special_tokens_in_prompts_and_answers_are_spaces() -> None:
    policy = show_o()
    assert policy.text_ids(["a<|soi|>cat"]) == policy.text_ids(["a cat"])
    assert policy.encode(["no<|endoftext|>"]).ids.tolist() == policy.encode(["no "]).ids.tolist()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"num_image_tokens": 10}, "squares"),
        ({"max_text_tokens": 1}, "max_text_tokens"),
        ({"trained": "some"}, "lora"),
        ({"question_template": "?"}, "question"),
        ({"lora_targets": ("head",)}, "q_proj"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        show_o(**settings)


def test_bad_turns_are_named() -> None:
    policy = show_o()
    one = Prompt(texts=["a"], wants="image")
    with pytest.raises(ValueError, match="guidance"):
        policy.default_sampling(guidance=-1.0)
    with pytest.raises(ValueError, match="decode_steps"):
        policy.default_sampling(decode_steps=10)
    with pytest.raises(ValueError, match="decode_steps"):
        policy.sample(one, policy.default_sampling(decode_steps=None))
    with pytest.raises(ValueError, match="needs images"):
        policy.sample(Prompt(texts=["a"]), Sampling(max_tokens=3))
    ids = torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="4 tokens an image"):
        policy.pixels(Tokens(ids=ids, mask=ids == 0))
    codes = torch.full((1, policy.num_image_tokens), 32)
    with pytest.raises(ValueError, match="0 to 31"):
        policy.pixels(Tokens(ids=codes, mask=codes > 0))
    asked = Prompt(texts=["a"], images=pictures(1))
    with pytest.raises(ValueError, match="no text token"):
        policy.score(Turn(prompt=asked, tokens=Tokens(ids=ids + 60, mask=ids == 0)))
    with pytest.raises(ValueError, match="256"):
        policy.sample(asked, Sampling(max_tokens=300))


def test_attention_that_misreads_masks_is_refused() -> None:
    words = tokenizer()
    model = language(words)
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="sdpa"):
        ShowO(model, words, magvit(), settings=ShowOSettings(num_image_tokens=9, max_text_tokens=12))


def test_a_token_in_the_middle_that_does_not_count_is_still_read() -> None:
    policy = stirred(show_o())
    prompt = Prompt(texts=["what?", "who?"], images=pictures(2))
    tokens = policy.encode(["a red cat", "two"])
    whole = policy.score(Turn(prompt=prompt, tokens=tokens)).log_probs
    mask = tokens.mask.clone()
    mask[0, 2], mask[1] = False, False
    part = policy.score(Turn(prompt=prompt, tokens=replace(tokens, mask=mask))).log_probs
    torch.testing.assert_close(part, whole * mask, atol=1e-5, rtol=0)


def test_a_group_of_one_prompt_draws_what_its_samples_draw_beside_others() -> None:
    policy = stirred(show_o())
    law = policy.default_sampling(decode_steps=3)
    group = policy.sample(Prompt(texts=["a cat"] * 3, wants="image", seeds=[1, 2, 3]), law)
    mixed = policy.sample(Prompt(texts=["a cat", "red", "a cat"], wants="image", seeds=[1, 2, 3]), law)
    assert torch.equal(group.ids[[0, 2]], mixed.ids[[0, 2]])
    assert not torch.equal(group.ids[0], group.ids[2])
