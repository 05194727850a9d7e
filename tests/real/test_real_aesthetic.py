"""The aesthetic head in the layout of LAION's own files, on photographs; its weights are random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from photographs import as_images, photograph
from rewards.tiny_clips import MEAN, SIDE, STD
from rewards.words_of_a_few import BEGIN, END, PAD, WORDS, few_words
from torch import nn
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from sightloop.rewards.custom import load_rewards
from sightloop.rewards.samples import outcome_of_texts
from sightloop.types import Images

WIDTH = 768
"""Numbers of an embedding of CLIP ViT-L/14, for which the published heads were trained."""


class Head(nn.Module):
    """The layers as they are published: dropout between them takes numbers 1, 3 and 5, and no activation."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(WIDTH, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A tiny CLIP with embeddings of that size."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    ends = {"bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": PAD, "vocab_size": len(WORDS)}
    config = CLIPConfig(
        text_config={**sizes, **ends, "max_position_embeddings": 12},
        vision_config={**sizes, "image_size": SIDE, "patch_size": 8},
        projection_dim=WIDTH,
    )
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=MEAN,
        image_std=STD,
    ).save_pretrained(tmp_path / "clip")
    few_words(frame=True).save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def small_photographs() -> Images:
    """Photographs in the size of the tiny CLIP."""
    names = ("astronaut.png", "chelsea.png", "coffee.png", "flower.jpg")
    return as_images(*(photograph(name).resize((SIDE, SIDE)) for name in names))


def test_the_published_layout_is_scored_as_the_plain_layers_do(clip: Path, tmp_path: Path) -> None:
    head = Head().eval()
    assert [name for name in head.state_dict() if name.endswith("weight")] == [
        f"layers.{number}.weight" for number in (0, 2, 4, 6, 7)
    ]
    torch.save(head.state_dict(), tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    images = small_photographs()
    model: Any = CLIPModel.from_pretrained(clip).eval()
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))
    with torch.no_grad():
        seen = model.get_image_features(pixel_values=(images.pixels / 255 - mean) / std).pooler_output
        wanted = head.layers(seen / seen.norm(dim=1, keepdim=True))[:, 0]
    # The name of the file has plus signs of its own.
    rewards, _ = load_rewards([f"aesthetic:{clip}+{tmp_path / 'sac+logos+ava1-l14-linearMSE.pth'}"])
    found = rewards["aesthetic"](outcome_of_texts(images, ["a"] * len(images))).sum(1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert wanted.std() > 1e-5
