"""BLIP-2 as a policy: the contract, transformers' own passes, what is trained, and shared towers."""

import numpy as np
import pytest
import torch
from models import tiny_blip2
from policy_contract import CHECKS, Candidate

from sightloop.models.blip2 import Blip2Captioner
from sightloop.shapes.language import WORDS
from sightloop.shapes.models import WEIGHTS
from sightloop.shapes.scenes import render, sample_scene
from sightloop.types import Images

CAPTIONS = ["a red circle", "a small blue cross top-left , a large green square", "image"]


@pytest.fixture(scope="module")
def bundled() -> Candidate:
    policy = Blip2Captioner.from_pretrained(WEIGHTS / "captioner")
    rng = np.random.default_rng(3)
    pixels = torch.from_numpy(np.stack([render(sample_scene(rng), rng) for _ in range(8)])).permute(0, 3, 1, 2)
    return Candidate(
        policy=policy,
        images=Images(pixels=pixels.contiguous()),
        prompts=["", "a", "there is", "", "a small", "an image of", "a red circle ,", ""],
        captions=["a red circle", "a small blue cross top-left, a large green square", "image"],
        vocabulary=len(WORDS),
        max_tokens=20,
        natural_logits=lambda images, prompt, ids: tiny_blip2.whole_model_logits(policy, images, prompt, ids),
    )


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_bundled_captioner_keeps_the_contract(check, bundled) -> None:
    check(bundled)
