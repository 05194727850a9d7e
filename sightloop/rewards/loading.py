"""How rewards by name are loaded, and what their names hold; loads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from sightloop.rewards.samples import Judged

READER, CLASSIFIER = "reader", "classifier"
"""What a function of the user's can be in a reward of the library's."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How reward models are loaded, and which text they judge."""

    text: Judged = "caption"
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"


def processor_for(model: str, processor: str) -> str:
    """Another's processor, unless the folder has one of its own."""
    here = any((Path(model) / f"{part}_config.json").is_file() for part in ("preprocessor", "processor"))
    return "" if here else processor


def clip_and_head(named: str) -> tuple[str, str]:
    """Both names of `CLIP+HEAD`, which may have plus signs too: `sac+logos+ava1-l14-linearMSE.pth`."""
    for place, character in enumerate(named):
        if character == "+" and Path(named[place + 1 :]).is_file():
            return named[:place], named[place + 1 :]
    clip, _, head = named.partition("+")
    return clip, head
