"""What a Show-o is opened with: sizes of its sequences, its strings, and what of it is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sightloop.models.prompt_strings import PromptOptions

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2")


@dataclass(frozen=True, kw_only=True)
class ShowOSettings:
    """Sizes of a checkpoint's sequences, how questions are asked, and what is trained."""

    num_image_tokens: int = 256
    """Codes of an image: 256 at 256 pixels, 1024 at 512."""
    max_text_tokens: int = 128
    """Text positions; longer prompts are cut. UniRL's 512-pixel configuration has 64."""
    trained: Literal["lora", "full"] = "lora"
    lora_rank: int = 16
    lora_alpha: float | None = None
    """None = twice the rank."""
    lora_targets: tuple[str, ...] = LORA_TARGETS
    """Last names of the adapted linear layers."""
    question_template: str | None = None
    """Holds `{question}`; None = as the official evaluation asks, or as `prompts` of an opened folder say."""
    prompts: PromptOptions | None = None

    def __post_init__(self) -> None:
        if math.isqrt(self.num_image_tokens) ** 2 != self.num_image_tokens:
            raise ValueError(f"num_image_tokens is {self.num_image_tokens}; images are squares of codes")
        if self.max_text_tokens < 2:
            raise ValueError(f"max_text_tokens is {self.max_text_tokens}; a prompt has a begin and an end")
        if self.trained not in ("lora", "full"):
            raise ValueError(f"trained is {self.trained!r}; use 'lora' or 'full'")
