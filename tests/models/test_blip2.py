"""BLIP-2 as a policy: the contract, transformers' own passes, what is trained, and shared towers."""

from typing import Any

import numpy as np
import pytest
import torch
from models import tiny_blip2
from policy_contract import CHECKS, Candidate
from torch import nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    GenerationConfig,
    T5Config,
)

from sightloop.models.captioners.blip2 import LORA_TARGETS, TOWER, Blip2Captioner
from sightloop.models.captioners.vision_towers import same_tower
from sightloop.models.checkpointing import no_dropout
from sightloop.rewards.similarity import ItmSimilarity
from sightloop.types import Images, Prompt, Sampling, Turn
from sightloop.world.bundled import WEIGHTS
from sightloop.world.language import WORDS
from sightloop.world.models import PAD
from sightloop.world.scenes import render, sample_scene

TRAINED = ("query_tokens", "qformer.", "language_projection.")
PROMPTS = ["", "a", "there is", "", "a small", "an image of", "a red circle ,", ""]


def candidate_of(policy: Blip2Captioner, images: Images, *, comma: str, max_tokens: int) -> Candidate:
    return Candidate(
        policy=policy,
        images=images,
        prompts=PROMPTS,
        captions=["a red circle", f"a small blue cross top-left{comma} a large green square", "image"],
        vocabulary=len(WORDS),
        max_tokens=max_tokens,
        natural_logits=lambda images, prompt, ids: tiny_blip2.whole_model_logits(policy, images, prompt, ids),
    )


def scenes(number: int) -> Images:
    rng = np.random.default_rng(3)
    pixels = np.stack([render(sample_scene(rng), rng) for _ in range(number)])
    return Images(pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())


@pytest.fixture(scope="module")
def bundled() -> Candidate:
    policy = Blip2Captioner.from_pretrained(WEIGHTS / "captioner")
    return candidate_of(policy, scenes(8), comma=",", max_tokens=20)


@pytest.fixture(scope="module")
def odd() -> Candidate:
    """Random weights; texts begin with `</s>` and end with an ordinary word, as in published checkpoints."""
    return candidate_of(tiny_blip2.captioner(), tiny_blip2.pictures(8), comma=",", max_tokens=30)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_bundled_captioner_keeps_the_contract(check, bundled) -> None:
    check(bundled)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_captioner_that_ends_with_an_ordinary_word_keeps_the_contract(check, odd) -> None:
    check(odd)


# -- transformers' own passes


@pytest.mark.parametrize("queries", ["random", "zero"])
def test_scores_are_those_of_the_whole_model_whatever_the_queries(queries) -> None:
    policy = tiny_blip2.captioner()
    if queries == "zero":
        # transformers starts new query tokens at 0.
        policy.model.query_tokens.data.zero_()
    images, ids = tiny_blip2.pictures(2), [4, 9, 11, tiny_blip2.END]
    tokens = policy.encode(["red square cross"])
    for row in range(2):
        one = images.rows(torch.tensor([row]))
        ours = policy.score(Turn(prompt=Prompt(texts=[""], images=one), tokens=tokens)).log_probs[0]
        law = tiny_blip2.whole_model_logits(policy, one, "", tokens.ids[0].tolist()).log_softmax(-1)
        torch.testing.assert_close(ours, law.gather(1, tokens.ids[0, :, None])[:, 0], atol=1e-5, rtol=0)
    assert tokens.ids.shape == (1, len(ids))


def test_pixels_are_prepared_as_the_processor_does() -> None:
    policy, images = tiny_blip2.captioner(), tiny_blip2.pictures(3)
    expected = tiny_blip2.images_processor()(list(images.pixels), return_tensors="pt").pixel_values
    values = (images.pixels.float() / 255 - policy.pixel_mean) / policy.pixel_std
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [{"num_beams": 1}, {"num_beams": 3, "no_repeat_ngram_size": 2}], ids=str)
def test_beam_search_is_transformers_own_from_pixels(settings) -> None:
    policy, images = tiny_blip2.captioner(), tiny_blip2.pictures(4)
    made: Any = policy.model
    text = [policy.bos, *policy.words("a red").input_ids]
    row = [made.config.image_token_index] * tiny_blip2.NUM_QUERIES + text
    theirs = made.generate(
        pixel_values=(images.pixels.float() / 255 - policy.pixel_mean) / policy.pixel_std,
        input_ids=torch.tensor([row] * 4),
        attention_mask=torch.ones(4, len(row), dtype=torch.long),
        do_sample=False,
        min_new_tokens=3,
        max_new_tokens=9,
        eos_token_id=[tiny_blip2.END],
        pad_token_id=PAD,
        **settings,
    )
    written = [[id for id in row if id != tiny_blip2.END] for row in theirs[:, len(row) :].tolist()]
    expected = policy.words.batch_decode(written, skip_special_tokens=True)
    ours = policy.write(
        images,
        prompt="a red",
        beams=settings["num_beams"],
        no_repeat_ngram=settings.get("no_repeat_ngram_size", 0),
        min_tokens=3,
        max_tokens=9,
    )
    assert [" ".join(text.split()) for text in ours] == [" ".join(text.split()) for text in expected]
    assert len(set(ours)) > 1
    assert ours == [text.strip() for text in ours]


@pytest.mark.parametrize("name", ["bundled", "odd"])
def test_greedy_writing_is_greedy_drawing(name, request) -> None:
    candidate: Candidate = request.getfixturevalue(name)
    tokens = candidate.policy.sample(candidate.prompt(), candidate.law(temperature=0.0))
    drawn = ["".join(pieces).strip() for pieces in candidate.policy.decode(tokens)]
    limits = {"min_tokens": 0, "max_tokens": candidate.max_tokens}
    assert candidate.policy.write(candidate.images, beams=1, no_repeat_ngram=0, **limits) == drawn


# -- loading and what is trained


def test_only_queries_qformer_and_projection_are_trained_under_their_published_names(odd) -> None:
    policy = odd.policy
    trained = {name for name, parameter in policy.model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in policy.model.named_parameters() if name.startswith(TRAINED)}
    assert set(policy.trainable_module().state_dict()) == trained
    own = dict(policy.model.named_parameters())
    assert all(parameter is own[name] for name, parameter in policy.trainable_module().named_parameters())


def test_dropout_stays_off_even_in_training_mode(tmp_path) -> None:
    folder = tiny_blip2.save(tmp_path, tiny_blip2.model())
    policy = Blip2Captioner.from_pretrained(folder)
    config: Any = policy.model.config
    assert config.text_config.dropout == config.qformer_config.hidden_dropout_prob == 0.1
    prompt = Prompt(texts=[""] * 3, images=tiny_blip2.pictures(3))
    turn = Turn(prompt=prompt, tokens=policy.encode(["a red circle", "a", "a blue cross top-left"]))
    calm = policy.score(turn).log_probs
    policy.train()
    assert torch.equal(policy.score(turn).log_probs, calm)
    assert torch.equal(policy.score(turn).log_probs, calm)


def test_no_dropout_reaches_modules_and_plain_numbers() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout, self.attention_dropout, self.layerdrop = 0.1, 0.2, 0.3
            self.part = nn.Dropout(0.4)

    layer = Layer()
    no_dropout(layer)
    assert (layer.dropout, layer.attention_dropout, layer.layerdrop, layer.part.p) == (0, 0, 0, 0)


def test_in_half_precision_the_trainable_modules_keep_every_digit(tmp_path) -> None:
    saved = tiny_blip2.model()
    policy = Blip2Captioner.from_pretrained(tiny_blip2.save(tmp_path, saved), dtype=torch.bfloat16)
    assert type(policy.model) is Blip2ForConditionalGeneration
    exact = dict(saved.named_parameters())
    for name, parameter in policy.model.named_parameters():
        if name.startswith(TRAINED):
            assert parameter.dtype == torch.float32
            assert torch.equal(parameter, exact[name]), name
        else:
            assert parameter.dtype == torch.bfloat16, name
    prompt = Prompt(texts=[""] * 4, images=policy.encode_images(tiny_blip2.pictures(4)), seeds=[1, 2, 3, 4])
    law = Sampling(max_tokens=10, temperature=2.0, top_k=6)
    tokens = policy.sample(prompt, law)
    turn = Turn(prompt=prompt, tokens=tokens)
    scores = policy.score(turn, law)
    assert tokens.log_probs is not None
    assert scores.log_probs.dtype == torch.float32
    torch.testing.assert_close(scores.log_probs[tokens.mask], tokens.log_probs[tokens.mask], atol=0.1, rtol=0)
    scores.log_probs.sum().backward()
    gradients = [parameter.grad for parameter in policy.trainable_module().parameters()]
    assert {gradient.dtype for gradient in gradients if gradient is not None} == {torch.float32}
    exact_policy = tiny_blip2.captioner()
    plain = exact_policy.score(
        Turn(prompt=Prompt(texts=[""] * 4, images=tiny_blip2.pictures(4)), tokens=tokens)
    )
    torch.testing.assert_close(policy.score(turn).log_probs, plain.log_probs, atol=0.2, rtol=0)


def test_checkpoints_from_before_image_tokens_load_and_say_the_same(tmp_path) -> None:
    law, images = Sampling(max_tokens=12), tiny_blip2.pictures(4)
    prompt = Prompt(texts=["", "a red", "", "a"], images=images, seeds=[1, 2, 3, 4])
    old = Blip2Captioner.from_pretrained(tiny_blip2.save(tmp_path, tiny_blip2.model(image_token_index=None)))
    assert old.model.config.image_token_index is None
    mine, theirs = old.sample(prompt, law), tiny_blip2.captioner().sample(prompt, law)
    assert torch.equal(mine.ids[mine.mask], theirs.ids[theirs.mask])
    assert old.write(images, max_tokens=8) == tiny_blip2.captioner().write(images, max_tokens=8)


def test_special_tokens_come_from_the_generation_settings_first() -> None:
    made = tiny_blip2.model()
    assert Blip2Captioner(made, tiny_blip2.words(), tiny_blip2.images_processor()).ends == (tiny_blip2.END,)
    made.generation_config = GenerationConfig(bos_token_id=7, eos_token_id=[5, 6], pad_token_id=9)
    policy = Blip2Captioner(made, tiny_blip2.words(), tiny_blip2.images_processor())
    assert (policy.bos, policy.ends, policy.pad) == (7, (5, 6), 9)
    assert policy.encode(["a", "a red"]).ids[0, 1:].tolist() == [5, 9]


def test_a_checkpoint_that_names_no_end_token_is_refused() -> None:
    made: Any = tiny_blip2.model()
    made.generation_config = GenerationConfig(bos_token_id=1, pad_token_id=0)
    made.config.text_config.eos_token_id = None
    with pytest.raises(ValueError, match="end"):
        Blip2Captioner(made, tiny_blip2.words(), tiny_blip2.images_processor())


def test_other_language_models_are_refused_by_name() -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    config = Blip2Config(
        vision_config=Blip2VisionConfig(image_size=8, patch_size=8, **sizes),
        qformer_config=Blip2QFormerConfig(vocab_size=8, encoder_hidden_size=8, **sizes),
        text_config=T5Config(vocab_size=8, d_model=8, d_kv=8, d_ff=8, num_layers=1, num_heads=1),
        num_query_tokens=2,
    )
    with pytest.raises(ValueError, match="'t5'"):
        Blip2Captioner(
            Blip2ForConditionalGeneration(config), tiny_blip2.words(), tiny_blip2.images_processor()
        )


def test_a_prompt_without_images_is_refused(odd) -> None:
    with pytest.raises(ValueError, match="images"):
        odd.policy.sample(Prompt(texts=[""]), Sampling(max_tokens=2))


# -- the critic's trunk


def test_hidden_states_are_those_that_predict_or_have_read_a_token(odd) -> None:
    policy = odd.policy
    prompt = Prompt(texts=PROMPTS[:3], images=tiny_blip2.pictures(3))
    tokens = policy.encode(["a red circle", "a blue cross top-left", "a"])
    turn = Turn(prompt=prompt, tokens=tokens)
    before, after = policy.hidden_states(turn), policy.hidden_states(turn, "post")
    assert before.shape == after.shape == (*tokens.ids.shape, policy.hidden_size)
    torch.testing.assert_close(before[:, 1:], after[:, :-1], atol=1e-5, rtol=0)
    law = (before @ policy.model.language_model.lm_head.weight.T).log_softmax(-1)
    mine = law.gather(2, tokens.ids[..., None])[..., 0].masked_fill(~tokens.mask, 0)
    torch.testing.assert_close(mine, policy.score(turn).log_probs, atol=1e-5, rtol=0)


def test_hidden_states_carry_no_gradient_into_the_bridge(odd) -> None:
    policy = odd.policy
    turn = Turn(prompt=Prompt(texts=[""], images=tiny_blip2.pictures(1)), tokens=policy.encode(["a red"]))
    assert not policy.hidden_states(turn).requires_grad
    assert policy.score(turn).log_probs.requires_grad


def test_the_trunk_is_all_six_linears_of_every_layer_and_nothing_of_the_tower(odd) -> None:
    linears = odd.policy.trunk_linears()
    assert len(linears) == 2 * len(LORA_TARGETS)
    decoder = odd.policy.model.language_model.model.decoder
    inside = {id(part) for part in decoder.layers.modules()}
    assert all(id(linear) in inside for linear in linears.values())


# -- towers


def towers() -> tuple[Any, Any]:
    one, other = tiny_blip2.captioner().model.vision_model, tiny_blip2.matcher().vision_model
    other.load_state_dict(one.state_dict())
    return one, other


def test_towers_are_the_same_up_to_their_last_norm_and_half_precision() -> None:
    one, other = towers()
    assert same_tower(one, other)
    torch.nn.init.normal_(other.post_layernorm.weight)
    assert same_tower(one, other.half())
    assert same_tower(one, other.bfloat16())


@pytest.mark.parametrize("name", ["embeddings.class_embedding", "encoder.layers.1.mlp.fc2.bias"])
def test_one_other_tensor_makes_another_tower(name) -> None:
    one, other = towers()
    other.get_parameter(name).data.add_(0.05)
    assert not same_tower(one, other)


def test_towers_of_other_sizes_are_no_match() -> None:
    one, _ = towers()
    assert not same_tower(one, Blip2Captioner.from_pretrained(WEIGHTS / "captioner").model.vision_model)
    assert not same_tower(one, nn.Linear(2, 2))


def test_pixels_must_be_prepared_alike_for_a_tower_to_be_shared(odd) -> None:
    mean, std, size = tuple(tiny_blip2.MEAN), tuple(tiny_blip2.STD), tiny_blip2.SIDE
    assert odd.policy.prepares_like(mean, std, size)
    assert not odd.policy.prepares_like((0.41, *mean[1:]), std, size)
    assert not odd.policy.prepares_like(mean, (*std[:2], 0.2), size)
    assert not odd.policy.prepares_like(mean, std, size + 1)


def test_a_judge_on_the_captioners_tower_says_what_it_says_from_pixels(bundled) -> None:
    judge = ItmSimilarity.from_pretrained(WEIGHTS / "judge")
    policy = bundled.policy
    assert same_tower(policy.model.vision_model, judge.tower)
    assert policy.prepares_like(judge.preparation.mean, judge.preparation.std, judge.preparation.height)
    texts = policy.write(bundled.images, beams=1, no_repeat_ngram=0, min_tokens=1)
    from_pixels = judge.logits(bundled.images, texts)
    judge.reuse_tower(TOWER)
    seen = policy.encode_images(bundled.images)
    torch.testing.assert_close(judge.logits(seen, texts), from_pixels, atol=1e-5, rtol=0)
    assert from_pixels.std() > 0.1
