"""How held-out images are captioned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.tiny_captioners import EOS, SPECIALS, llava, noise

from sightloop.evaluators.held_out_captions import HeldOut, HeldOutImages
from sightloop.evaluators.settings import HeldOutSettings
from sightloop.models.captioners.generic import GenericCaptioner
from sightloop.models.clip import ClipEncoder, SeenImages
from sightloop.world.bundled import WEIGHTS


def captions(policy: GenericCaptioner, **settings: Any) -> list[str]:
    """Captions of three images, by one beam."""
    pictures = HeldOutImages(pixels=noise(3), sources=["a", "b", "c"], references=[[], [], []])
    chosen = HeldOutSettings(beams=1, **settings)
    clip = ClipEncoder.from_pretrained(str(WEIGHTS / "clip"), device=torch.device("cpu"))
    evaluator = HeldOut(
        settings=chosen,
        prompt="",
        pictures=pictures,
        encoder=clip,
        seen=SeenImages(embeddings=torch.zeros(3, 2), digest=""),
    )
    return evaluator.captions(policy)


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> GenericCaptioner:
    """A captioner that ends at once if it may."""
    policy = GenericCaptioner.from_pretrained(llava(tmp_path_factory.mktemp("llava") / "model"), lora_rank=2)
    # Hidden states no longer differ; the end is the likeliest of all tokens, then the first letter.
    policy.model.model.language_model.norm.register_forward_hook(lambda norm, args, out: torch.ones_like(out))
    policy.model.lm_head.weight.data[EOS] = 10
    policy.model.lm_head.weight.data[len(SPECIALS)] = 5
    return policy


def test_a_greedy_caption_has_the_fewest_tokens_that_are_asked_for(silent: GenericCaptioner) -> None:
    assert captions(silent, no_repeat_ngram=0, min_tokens=1, max_tokens=6) == ["", "", ""]
    assert captions(silent, no_repeat_ngram=0, min_tokens=4, max_tokens=6) == ["aaaa"] * 3
