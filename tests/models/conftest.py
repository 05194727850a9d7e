"""Tiny captioners for the tests of this folder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_captioners import SIDE, Make, idefics3, llava, qwen2_vl, random_weights

from sightloop.models.captioners.generic import CaptionerSettings, GenericCaptioner


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Loads a family's captioner; `stirred` gives its adapters weights."""
    root = tmp_path_factory.mktemp("captioners")
    folders = {"llava": llava(root / "llava"), "idefics3": idefics3(root / "idefics3")}

    def load(family: str, *, stirred: bool = True, dtype: torch.dtype = torch.float32, **settings: Any):
        chosen = CaptionerSettings(**settings)
        if family == "qwen2_vl":
            model, processor = qwen2_vl()
            # transformers' own loop miscounts the position after a prompt that ends with an image.
            chosen = replace(chosen, image_size=SIDE, template="<|image_pad|>{prompt}:")
            captioner = GenericCaptioner(model, processor, lora_rank=2, settings=chosen)
        else:
            captioner = GenericCaptioner.from_pretrained(
                folders[family], dtype=dtype, lora_rank=2, settings=chosen
            )
        if stirred:
            random_weights(captioner.adapters, seed=5)
        return captioner

    return load
