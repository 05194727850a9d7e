"""Captioners whose images do not stand among a prompt's words keep the contract of every policy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models.classic_folders import CLASSIC
from models.tiny_captioners import LAW, noise, random_weights
from policy_contract import CHECKS, Candidate

from sightloop.models.captioners.encoder_decoder import EncoderDecoderCaptioner
from sightloop.models.named_models import load_captioner
from sightloop.types import Images, Prompt, Turn

FORMS = ("blip", "git", "blip2_t5", "instructblip")
"""Attended to, before the words, read by an encoder, in front as embedded words."""


@pytest.fixture(scope="module", params=FORMS)
def candidate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    folder = CLASSIC[request.param](tmp_path_factory.mktemp("contract") / request.param)
    made: Any = load_captioner(str(folder), dtype=torch.float32, device=torch.device("cpu"))
    captioner: EncoderDecoderCaptioner = made
    if not captioner.plan.bridge:
        random_weights(captioner.trainable_module(), seed=5)
    if request.param == "blip":
        # Its random weights hardly ever end a text.
        captioner.states.head.bias.data[captioner.end] += 3
    return Candidate(
        policy=captioner,
        images=Images(pixels=noise(8)),
        prompts=["what is it", "", "describe", "a", "", "why", "a cat", "q"],
        captions=["a cat", "two red dogs", "n"],
        vocabulary=captioner.states.head.out_features,
        max_tokens=40,
    )


@pytest.mark.parametrize("check", CHECKS)
def test_a_classic_captioner_keeps_the_contract(
    candidate: Candidate, check: Callable[[Candidate], None]
) -> None:
    check(candidate)


@pytest.mark.parametrize("name", ["vit_gpt2", "git", "florence2", "kosmos2", "instructblip_t5"])
def test_a_device_that_is_not_the_cpu_draws_and_writes_the_same(
    name: str, tmp_path: Path, emulated: torch.device
) -> None:
    folder = CLASSIC[name](tmp_path / name)

    def found(device: torch.device) -> tuple[list[list[int]], list[str], list[list[float]]]:
        captioner: Any = load_captioner(str(folder), dtype=torch.float32, device=device)
        images = captioner.encode_images(Images(pixels=noise(3)))
        asked = Prompt(texts=["a", "", "why"], images=images, seeds=[1, 2, 3])
        tokens = captioner.sample(asked, LAW)
        scores = captioner.score(Turn(prompt=asked, tokens=tokens), under=LAW)
        written = captioner.write(images, beams=3, no_repeat_ngram=2, min_tokens=2, max_tokens=9)
        return tokens.ids.tolist(), written, scores.log_probs.tolist()

    assert found(emulated) == found(torch.device("cpu"))
