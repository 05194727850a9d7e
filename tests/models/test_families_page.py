"""docs/families.md holds what folders of all families that the tests make turn out to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models.chat_folders import CHAT_FOLDERS
from models.classic_folders import CLASSIC
from models.tiny_captioners import LAW, SIDE, noise
from sources import ROOT

from sightloop.models.captioners.blip2 import Bridge
from sightloop.models.captioners.generic import GenericCaptioner
from sightloop.models.families import CaptionerChoices
from sightloop.models.named_models import captioner_family, load_captioner
from sightloop.types import Images, Prompt, Turn

TITLES = {
    "blip2": "BLIP-2 with OPT",
    "blip2_t5": "BLIP-2 with FLAN-T5",
    "instructblip": "InstructBLIP with Vicuna",
    "instructblip_t5": "InstructBLIP with FLAN-T5",
    "blip": "BLIP",
    "git": "GIT",
    "vit_gpt2": "ViT-GPT2",
    "vit_bert": "any vision encoder with a text decoder (a BERT)",
    "florence2": "Florence-2",
    "kosmos2": "Kosmos-2",
    "llava": "LLaVA",
    "llava_next": "LLaVA-NeXT",
    "llava_onevision": "LLaVA-OneVision",
    "idefics3": "Idefics3",
    "smolvlm": "SmolVLM",
    "qwen2_vl": "Qwen2-VL",
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL",
    "qwen3_5": "Qwen3.5",
    "internvl": "InternVL",
    "gemma3": "Gemma 3",
    "pixtral": "Pixtral",
    "mistral3": "Mistral 3",
    "aya_vision": "Aya Vision",
    "paligemma": "PaliGemma",
    "janus": "Janus, in transformers' form",
}
"""In the page's order."""
MAKERS = {**CLASSIC, **CHAT_FOLDERS}
PAGE = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")


def row(name: str, folder: Path) -> str:
    """The line of the table that a folder says of itself."""
    choices = CaptionerChoices(image_size=SIDE) if "qwen" in name else CaptionerChoices()
    captioner: Any = load_captioner(
        str(folder), dtype=torch.float32, device=torch.device("cpu"), choices=choices
    )
    side = captioner.image_size
    images = captioner.encode_images(Images(pixels=noise(2, side=side)))
    asked = Prompt(texts=["a", "a"], images=images, seeds=[1, 2])
    tokens = captioner.sample(asked, LAW)
    scores = captioner.score(Turn(prompt=asked, tokens=tokens), under=LAW)
    torch.testing.assert_close(scores.log_probs, tokens.log_probs, atol=1e-5, rtol=1e-5)
    whole = isinstance(captioner, GenericCaptioner) and captioner._way is captioner._whole
    bridged = isinstance(captioner.trainable_module(), Bridge)
    cells = [
        TITLES[name],
        f"`{type(captioner.model).__name__}`",
        "in every pass" if whole else "once an image",
        "queries, Q-Former, projection" if bridged else "adapters",
        f"{captioner_family(str(folder)).learning_rate:.0e}".replace("e-0", "e-"),
    ]
    return f"| {' | '.join(cells)} |"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in PaliGemma's processor
@pytest.mark.parametrize("name", TITLES)
def test_the_page_says_of_a_family_what_its_folder_is(name: str, tmp_path: Path) -> None:
    assert row(name, MAKERS[name](tmp_path / name)) in PAGE


def test_the_page_has_these_families_and_no_others() -> None:
    assert TITLES.keys() == MAKERS.keys()
    lines = [
        line.split(" | ")[0].removeprefix("| ")
        for line in PAGE.splitlines()
        if "`" in line and line[0] == "|"
    ]
    assert lines == list(TITLES.values())
