"""Janus as a policy: what it draws, how it scores it, what learns, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from image_policy_candidate import Candidate
from image_policy_contract import CHECKS
from tiny_janus import NUM_CODES, NUM_TOKENS, pictures, stirred, tiny_janus, tiny_model, tokenizer
from torch import Tensor, nn

from sightloop.models.janus.policy import Janus
from sightloop.types import Prompt, Sampling, Tokens, Turn

TEXTS = ["a cat", "two red dogs", "a cat"]
LAWS: list[dict[str, Any]] = [
    {},
    {"guidance": 0.0},
    {"guidance": 1.0, "temperature": 0.7},
    {"guidance": 2.5, "top_k": 7},
    {"guidance": 0.0, "top_k": 5, "temperature": 1.3},
]


@pytest.fixture(scope="module")
def janus() -> Janus:
    """A policy whose adapters change what it says."""
    return tiny_janus()


def drawing(texts: list[str] = TEXTS) -> Prompt:
    """A prompt that wants images, a seed each."""
    return Prompt(texts=texts, wants="image", seeds=[3 + 7 * k for k in range(len(texts))])


def given(ids: Tensor) -> Tokens:
    """Tokens that all count."""
    return Tokens(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool))


def same(one: Tensor | None, other: Tensor | None) -> None:
    """Equal up to rounding."""
    assert one is not None
    assert other is not None
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("check", CHECKS)
def test_janus_keeps_the_contract_of_image_policies(check: Callable[[Candidate], None]) -> None:
    check(
        Candidate(
            make=lambda: tiny_janus(stir=False),
            stir=stirred,
            prompts=["a cat", "", "two dogs and a bird", "red", "a cat"],
            questions=["what?", "how many cats are there?", "is it", "", "which one is red?"],
            images=pictures(5),
            answers=["two cats", "a", "red and blue", "no", "yes it is"],
            num_codes=NUM_CODES,
            num_words=len(tokenizer()),
            max_tokens=30,
            laws={f"distribution {number}": law for number, law in enumerate(LAWS)},
        )
    )


@pytest.mark.parametrize("changes", LAWS)
def test_recorded_log_probabilities_are_scored_ones(janus: Janus, changes: dict[str, Any]) -> None:
    law = janus.default_sampling(**changes)
    tokens = janus.sample(drawing(), law)
    assert tokens.ids.shape == (len(TEXTS), NUM_TOKENS)
    assert tokens.mask.all()
    scores = janus.score(Turn(prompt=drawing(), tokens=tokens), law)
    same(tokens.log_probs, scores.log_probs.detach())
    assert not scores.entropy.requires_grad
    assert (scores.entropy >= -1e-5).all()


def test_an_image_depends_on_its_seed_alone(janus: Janus) -> None:
    together = janus.sample(drawing(), janus.default_sampling())
    assert not torch.equal(together.ids[0], together.ids[2]), "two seeds drew one image"
    for row in range(len(TEXTS)):
        index = torch.tensor([row])
        alone = janus.sample(drawing().rows(index), janus.default_sampling())
        assert torch.equal(alone.ids, together.ids[index])
        same(alone.log_probs, together.rows(index).log_probs)


@pytest.mark.parametrize("guidance", [0.0, 5.0])
def test_prompts_of_different_lengths_score_as_they_do_alone(janus: Janus, guidance: float) -> None:
    law = janus.default_sampling(guidance=guidance)
    turn = Turn(prompt=drawing(), tokens=given(torch.randint(NUM_CODES, (len(TEXTS), NUM_TOKENS))))
    whole = janus.score(turn, law).log_probs
    for rows in ([0], [1], [2, 1]):
        index = torch.tensor(rows)
        same(janus.score(turn.rows(index), law).log_probs.detach(), whole[index].detach())


def test_the_law_of_none_is_the_model_without_guidance(janus: Janus) -> None:
    turn = Turn(prompt=drawing(), tokens=given(torch.randint(NUM_CODES, (len(TEXTS), NUM_TOKENS))))
    own = janus.score(turn).log_probs.detach()
    same(own, janus.score(turn, janus.default_sampling(guidance=0.0)).log_probs.detach())
    assert (own - janus.score(turn, janus.default_sampling()).log_probs).abs().max() > 0.1


def test_greedy_codes_are_those_of_transformers_own_loop() -> None:
    janus = tiny_janus(stir=False)
    tokens = janus.sample(drawing(), janus.default_sampling(temperature=0))
    assert tokens.log_probs is None
    for row, text in enumerate(TEXTS):
        ids = torch.tensor([janus.prompts.drawing_row(text)])
        expected = janus.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_mode="image",
            do_sample=False,
            guidance_scale=5.0,
        )
        assert tokens.ids[row].tolist() == expected[0].tolist()


def test_codes_fall_as_often_as_the_law_says(janus: Janus) -> None:
    prompt = Prompt(texts=["a cat"] * 400, wants="image", seeds=list(range(400)))
    law = janus.default_sampling(temperature=1.5, guidance=1.5)
    first = janus.sample(prompt, law).ids[:, 0]
    one = Prompt(texts=["a cat"], wants="image")
    logits = janus.drawings.logits(one.texts, torch.zeros(1, NUM_TOKENS, dtype=torch.long), law)
    expected = (logits[0, 0].detach() / 1.5).softmax(-1)
    found = torch.bincount(first, minlength=NUM_CODES) / 400
    # Total variation of 400 draws among a few dozen codes stays well below a third of a coin flip.
    assert (found - expected).abs().sum() / 2 < 0.2
    assert (first.unique().numel()) > 5


def test_masked_codes_do_not_count(janus: Janus) -> None:
    ids = torch.randint(NUM_CODES, (2, NUM_TOKENS))
    mask = torch.rand(2, NUM_TOKENS) < 0.6
    prompt = drawing(TEXTS[:2])
    whole = janus.score(Turn(prompt=prompt, tokens=given(ids)), janus.default_sampling())
    part = janus.score(Turn(prompt=prompt, tokens=Tokens(ids=ids, mask=mask)))
    assert (part.log_probs[~mask] == 0).all()
    assert (part.entropy[~mask] == 0).all()
    assert (whole.log_probs != 0).all()


def test_adapters_lie_on_the_language_model_only() -> None:
    janus = tiny_janus()
    linears = janus.trunk_linears()
    core = janus.model.model
    assert len(linears) == 2 * 7
    frozen = [core.vision_model, core.vqmodel, core.aligner, core.generation_head, core.generation_aligner]
    seen = {id(part) for tower in frozen for part in tower.modules()}
    assert not seen & {id(linear) for linear in linears.values()}
    values = torch.rand(1, 3, 32, 32)
    before = janus.pictures.features(values)
    with janus.adapters_off():
        assert torch.equal(janus.pictures.features(values), before)
    # Leaf names of the tower's attention are those of the language model: structure decides, not names.
    assert any(name.endswith("q_proj") for name, _ in core.vision_model.named_modules())
    assert not any(part._forward_hooks for tower in frozen for part in tower.modules())


def test_a_pattern_of_adapters_is_looked_for_in_the_language_model_alone() -> None:
    janus = tiny_janus(lora_targets=("q_proj",))
    assert janus.adapters is not None
    own = {name.replace(".", "/") for name in janus.trunk_linears() if name.endswith("q_proj")}
    assert set(janus.adapters.up) == own and len(own) == 2
    hooked = [name for name, part in janus.model.named_modules() if part._forward_hooks]
    assert len(hooked) == 2 and all(name.startswith("model.language_model.") for name in hooked)
    # A name of the tower alone is none of the language model.
    with pytest.raises(ValueError, match=r"projection_layer.*q_proj"):
        tiny_janus(lora_targets=("projection_layer",))
    with pytest.raises(ValueError, match="nothing"):
        tiny_janus(lora_targets=())


def test_only_adapters_learn() -> None:
    janus = tiny_janus()
    own = set(janus.trainable_module().parameters())
    assert {p for p in janus.parameters() if p.requires_grad} == own
    turn = Turn(prompt=drawing(), tokens=janus.sample(drawing(), janus.default_sampling()))
    janus.score(turn, janus.default_sampling()).log_probs.sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in own)
    assert all(p.grad is None for p in janus.parameters() if p not in own)


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("embeddings", [True, False])
def test_full_training_never_touches_what_sees(head: bool, embeddings: bool) -> None:
    janus = tiny_janus(trained="full", generation_head=head, embeddings=embeddings)
    turn = Turn(prompt=drawing(), tokens=janus.sample(drawing(), janus.default_sampling()))
    janus.score(turn, janus.default_sampling()).log_probs.sum().backward()
    asked = Prompt(texts=["what?"], images=pictures(1))
    janus.score(Turn(prompt=asked, tokens=janus.encode(["a cat"]))).log_probs.sum().backward()
    learned = {name.split(".")[1] for name, p in janus.model.named_parameters() if p.grad is not None}
    names = {"language_model", "generation_aligner"} | ({"generation_head"} if head else set())
    names |= {"generation_embeddings", "weight"} if embeddings else set()
    assert learned == names
    own = set(janus.trainable_module().parameters())
    assert {p for p in janus.parameters() if p.requires_grad} == own
    words = janus.model.model.language_model.embed_tokens.weight
    assert (words.grad is not None) == embeddings


def test_a_small_step_makes_an_image_likelier() -> None:
    janus = tiny_janus(trained="full")
    law = janus.default_sampling()
    turn = Turn(prompt=drawing(), tokens=janus.sample(drawing(), law))
    optimizer = torch.optim.SGD(janus.trainable_module().parameters(), lr=1e-6)
    before = janus.score(turn, law).log_probs.sum()
    (-before).backward()
    optimizer.step()
    assert janus.score(turn, law).log_probs.sum() > before


def test_adapters_off_is_the_model_before_training(janus: Janus) -> None:
    turn = Turn(prompt=drawing(), tokens=given(torch.randint(NUM_CODES, (len(TEXTS), NUM_TOKENS))))
    plain = tiny_janus(stir=False).score(turn).log_probs.detach()
    with janus.adapters_off():
        reference = janus.score(turn).log_probs.detach()
    same(reference, plain)
    assert (janus.score(turn).log_probs - plain).abs().max() > 0.1
    with pytest.raises(ValueError, match="full"):
        tiny_janus(trained="full").adapters_off()


@pytest.mark.parametrize("trained", ["lora", "full"])
def test_recomputed_layers_give_the_same_gradients(trained: str) -> None:
    one, other = tiny_janus(trained=trained), tiny_janus(trained=trained)
    other.load_state_dict(one.state_dict())
    other.enable_gradient_checkpointing()
    turn = Turn(prompt=drawing(), tokens=one.sample(drawing(), one.default_sampling()))
    for policy in (one, other):
        policy.score(turn, policy.default_sampling()).log_probs.sum().backward()
    pairs = zip(one.trainable_module().parameters(), other.trainable_module().parameters(), strict=True)
    for first, second in pairs:
        torch.testing.assert_close(first.grad, second.grad, rtol=1e-3, atol=1e-3)


def test_recomputation_does_keep_less() -> None:
    janus = tiny_janus()
    turn = Turn(prompt=drawing(), tokens=given(torch.randint(NUM_CODES, (len(TEXTS), NUM_TOKENS))))

    def kept() -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            janus.score(turn)
        return sum(sizes)

    before = kept()
    janus.enable_gradient_checkpointing()
    assert kept() < before / 2


@pytest.mark.parametrize("trained", ["lora", "full"])
def test_what_learns_stays_in_float32_under_bfloat16(trained: str) -> None:
    janus = tiny_janus(dtype=torch.bfloat16, trained=trained)
    assert {p.dtype for p in janus.trainable_module().parameters()} == {torch.float32}
    assert janus.model.model.vision_model.post_layernorm.weight.dtype == torch.bfloat16
    law = janus.default_sampling()
    tokens = janus.sample(drawing(), law)
    scores = janus.score(Turn(prompt=drawing(), tokens=tokens), law)
    assert scores.log_probs.dtype == torch.float32
    scores.log_probs.sum().backward()
    asked = Prompt(texts=["what?"] * 3, images=tokens, seeds=[1, 2, 3])
    answers = janus.sample(asked, Sampling(max_tokens=3))
    janus.score(Turn(prompt=asked, tokens=answers)).log_probs.sum().backward()
    assert all(p.grad is not None for p in janus.trainable_module().parameters())


def test_laws_that_fit_no_image_are_refused(janus: Janus) -> None:
    for changes, said in (
        ({"max_tokens": 5}, "max_tokens is 5"),
        ({"decode_steps": 4}, "decode_steps is 4"),
        ({"temperature": 0.0, "relaxation": 1.0}, "no distribution to relax"),
    ):
        with pytest.raises(ValueError, match=said):
            janus.sample(drawing(), janus.default_sampling(**changes))
    with pytest.raises(ValueError, match="guidance is -1"):
        janus.default_sampling(guidance=-1)
    with pytest.raises(ValueError, match="greedy"):
        tokens = janus.sample(drawing(), janus.default_sampling(temperature=0))
        janus.score(Turn(prompt=drawing(), tokens=tokens), janus.default_sampling(temperature=0))
    with pytest.raises(ValueError, match="2 seeds for 1"):
        janus.sample(Prompt(texts=["a"], wants="image", seeds=[1, 2]), janus.default_sampling())


def test_prompts_that_cannot_be_drawn_are_refused(janus: Janus) -> None:
    codes = given(torch.zeros(2, NUM_TOKENS, dtype=torch.long))
    for text, said in (
        ("a" * 500, "positions"),
        ("<image_placeholder>", "image's place"),
    ):
        prompt = Prompt(texts=["a cat", text], wants="image")
        with pytest.raises(ValueError, match=said):
            janus.sample(prompt, janus.default_sampling())
        with pytest.raises(ValueError, match=said):
            janus.score(Turn(prompt=prompt, tokens=codes), janus.default_sampling())
    with pytest.raises(ValueError, match="keeps none"):
        janus.sample(Prompt(texts=["a"], images=pictures(1), wants="image"), janus.default_sampling())


def test_an_empty_prompt_draws_what_comes_to_mind(janus: Janus) -> None:
    tokens = janus.sample(drawing(["", "a cat"]), janus.default_sampling())
    expected = janus.sample(drawing([""]), janus.default_sampling())
    same(expected.log_probs, tokens.rows(torch.tensor([0])).log_probs)


def test_codes_that_are_none_are_refused(janus: Janus) -> None:
    prompt = drawing(["a cat"])
    for ids, said in (
        (torch.full((1, NUM_TOKENS), NUM_CODES), "64 codes"),
        (torch.full((1, NUM_TOKENS), -1), "values that are not numbers"),
        (torch.zeros(1, NUM_TOKENS + 1, dtype=torch.long), "17 tokens"),
    ):
        with pytest.raises(ValueError, match=said):
            janus.score(Turn(prompt=prompt, tokens=given(ids)))


def test_models_and_tokenizers_that_are_not_janus_are_refused() -> None:
    with pytest.raises(ValueError, match="no head for image tokens"):
        Janus(tiny_model().model.language_model, tokenizer())
    broken = tiny_model()
    broken.model.generation_head.vision_head = nn.Linear(64, 10)
    with pytest.raises(ValueError, match="10 codes"):
        Janus(broken, tokenizer())
    bad: list[tuple[dict[str, Any], str]] = [
        ({"frame": ("<boi>", "<eoi>")}, "<boi>"),
        ({"drawing_template": "no place"}, "drawing_template"),
        ({"answer_template": "{prompt}{image}"}, "before"),
        ({"trained": "half"}, "'half'"),
        ({"embeddings": True}, "embeddings"),
    ]
    for settings, said in bad:
        with pytest.raises(ValueError, match=said):
            tiny_janus(**settings)
