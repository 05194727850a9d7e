"""Policies that draw and answer, by the name of a folder: Show-o or Janus, in anyone's form."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from sightloop.models.families import found_in
from sightloop.models.janus.checkpoint import load_janus
from sightloop.models.janus.policy import Janus, JanusSettings
from sightloop.models.precision import DTYPES
from sightloop.models.prompt_strings import PromptOptions
from sightloop.models.show_o.checkpoint import load_show_o
from sightloop.models.show_o.policy import ShowO, ShowOSettings
from sightloop.training import distributed
from sightloop.world.bundled import WEIGHTS

WorldModel = Literal["show-o", "janus"]
WORLD_MODELS: dict[str, Path] = {"show-o": WEIGHTS / "show_o", "janus": WEIGHTS / "janus"}
"""The embedded world's own."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Folders of what an official folder lacks, and strings that are not to be its own."""

    magvit: Path | None = None
    """MAGVIT-v2, for the authors' Show-o."""
    tokenizer: Path | None = None
    """Words, where the folder has none."""
    tower: str = ""
    """CLIP (folder or hub name) whose features the w-clip-vit Show-o reads."""
    prompts: PromptOptions = field(default_factory=PromptOptions)
    """Strings around prompts and questions, where they are not to be the checkpoint's."""


def load_image_policy(
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    world_model: WorldModel = "show-o",
    parts: Parts | None = None,
    settings: ShowOSettings | JanusSettings | None = None,
) -> ShowO | Janus:
    """The policy of a folder, or the embedded world's `world_model` if `name` is empty.

    Frozen weights are in `dtype`.

    Raises:
        ValueError: no such folder, another family than Show-o or Janus, settings of the other family, or a
            checkpoint that does not fit.
    """
    parts = Parts() if parts is None else parts
    folder = Path(name) if name else world_folder(world_model)
    family = found_in(folder).family
    if family == "show-o" and not isinstance(settings, JanusSettings):
        return load_show_o(
            folder,
            magvit=parts.magvit,
            tokenizer=parts.tokenizer,
            tower=parts.tower or None,
            dtype=dtype,
            device=device,
            settings=replace(settings or ShowOSettings(), prompts=parts.prompts),
        )
    if family == "janus" and not isinstance(settings, ShowOSettings):
        if parts.magvit is not None or parts.tower:
            raise ValueError(f"{folder} is a Janus, which has all its parts; leave --magvit and --tower out")
        return load_janus(
            folder,
            tokenizer=parts.tokenizer,
            dtype=dtype,
            device=device,
            settings=settings,
            prompts=parts.prompts,
        )
    if family == "magvit2":
        raise ValueError(
            f"{folder} is MAGVIT-v2 alone, which cannot draw; give the folder of a Show-o or Janus"
        )
    raise ValueError(f"{folder} is {family} and the settings are {type(settings).__name__}")


def open_policy(
    name: str,
    *,
    world_model: WorldModel,
    parts: Parts,
    dtype: Literal["float32", "bfloat16", "float16"],
    device: str,
) -> ShowO | Janus:
    """The policy for drawing and asking, by names as a command gives them.

    Raises:
        ValueError: as for `load_image_policy`.
    """
    return load_image_policy(
        name, device=distributed.device(device), dtype=DTYPES[dtype], world_model=world_model, parts=parts
    )


def world_folder(world_model: WorldModel) -> Path:
    """The folder of one of the embedded world's models.

    Raises:
        ValueError: there is none of this name.
    """
    if world_model not in WORLD_MODELS:
        raise ValueError(f"world_model is {world_model!r}; there are: {', '.join(WORLD_MODELS)}")
    folder = WORLD_MODELS[world_model]
    if not folder.is_dir():
        raise ValueError(f"the embedded world's {world_model} is not at {folder}; install the package again")
    return folder
