"""The variant of Show-o that reads features of a frozen tower."""

from __future__ import annotations

from dataclasses import replace

import torch
from tiny_captioners import random_weights
from tiny_show_o import NUM_TOKENS, language, magvit, pictures, stirred, tokenizer
from transformers import CLIPVisionConfig, CLIPVisionModel

from sightloop.models.show_o.policy import ShowO, ShowOSettings
from sightloop.models.show_o.vision import FEATURES, MEAN, SPREAD, ShowOVision, new_projector
from sightloop.types import Images, Prompt, Sampling, Turn


def seeing(**settings: str) -> ShowO:
    """A tiny policy with a tiny tower of 4 patches."""
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    tower, projector = CLIPVisionModel(config), new_projector(16, 32)
    random_weights(tower)
    random_weights(projector)
    words = tokenizer()
    return ShowO(
        language(words),
        words,
        magvit(),
        settings=ShowOSettings(num_image_tokens=NUM_TOKENS, max_text_tokens=12, lora_rank=2, **settings),  # pyright: ignore
        vision=ShowOVision(tower, projector, system_prompt="a chat"),
    )


ASKED = ["what?", "how many are there?", ""]


def test_the_tower_looks_once_and_reads_normal_pixels() -> None:
    policy = seeing()
    images = policy.encode_images(pictures(3))
    assert images.features[FEATURES].shape == (3, 4, 16)
    assert policy.encode_images(images) is images
    assert policy.vision is not None
    white = Images(pixels=torch.full((1, 3, 16, 16), 255, dtype=torch.uint8))
    normal = (1 - torch.tensor(MEAN)) / torch.tensor(SPREAD)
    out = policy.vision.tower(
        pixel_values=normal.view(1, 3, 1, 1).expand(1, 3, 16, 16), output_hidden_states=True
    )
    found = policy.encode_images(white).features[FEATURES]
    torch.testing.assert_close(found, out.hidden_states[-2][:, 1:])


def test_answers_about_features_score_as_recorded_alone_and_together() -> None:
    policy = stirred(seeing())
    images = policy.encode_images(pictures(3))
    prompt, law = Prompt(texts=ASKED, images=images, seeds=[1, 2, 3]), Sampling(max_tokens=8)
    tokens = policy.sample(prompt, law)
    assert tokens.log_probs is not None
    scored = policy.score(Turn(prompt=prompt, tokens=tokens), law).log_probs
    torch.testing.assert_close(scored[tokens.mask], tokens.log_probs[tokens.mask], atol=1e-4, rtol=0)
    bare = policy.score(Turn(prompt=replace(prompt, images=pictures(3)), tokens=tokens)).log_probs
    torch.testing.assert_close(bare, scored, atol=1e-5, rtol=0)
    for row in range(3):
        index = torch.tensor([row])
        alone = policy.score(Turn(prompt=prompt, tokens=tokens).rows(index)).log_probs
        torch.testing.assert_close(alone, scored[row : row + 1], atol=1e-4, rtol=0)
    other = policy.score(
        Turn(prompt=replace(prompt, images=pictures(4).rows(torch.tensor([3, 0, 1]))), tokens=tokens)
    )
    assert (other.log_probs - scored).abs().max() > 1e-3


def test_own_drawings_are_seen_as_pixels_and_carry_a_gradient() -> None:
    policy = stirred(seeing())
    drawing = Prompt(texts=ASKED, wants="image", seeds=[1, 2, 3])
    drawn = policy.sample(drawing, policy.default_sampling(relaxation=1.0, decode_steps=2))
    assert drawn.one_hot is not None
    answers = policy.encode(["a", "two", "no"])
    by_codes = policy.score(Turn(prompt=Prompt(texts=ASKED, images=drawn), tokens=answers)).log_probs
    by_pixels = policy.score(
        Turn(prompt=Prompt(texts=ASKED, images=policy.pixels(drawn)), tokens=answers)
    ).log_probs
    # Decoded pixels are not rounded to bytes on their way, and are resized by another code.
    assert (by_codes - by_pixels).abs().max() < 0.5
    gradient = torch.autograd.grad(by_codes.sum(), drawn.one_hot)[0]
    assert gradient.abs().max() > 0


def test_the_projection_learns_with_the_whole_model() -> None:
    policy = seeing(trained="full")
    assert policy.vision is not None
    prompt = Prompt(texts=ASKED, images=pictures(3))
    policy.score(Turn(prompt=prompt, tokens=policy.encode(["a", "two", "no"]))).log_probs.sum().backward()
    trained = set(policy.trainable_module().parameters())
    assert set(policy.vision.projector.parameters()) < trained
    assert {p for p in policy.parameters() if p.requires_grad} == trained
    assert all(p.grad is not None for p in policy.vision.projector.parameters())
    assert all(p.grad is None for p in policy.vision.tower.parameters())
