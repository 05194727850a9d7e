"""The rows of captioners: BLIP-2, and any other image-text-to-text model with adapters."""

from __future__ import annotations

from pathlib import Path

import torch

from sightloop.models.captioners.adapter_folder import AdapterCard, export_adapter, merge_folder
from sightloop.models.captioners.blip2 import Blip2Captioner
from sightloop.models.captioners.generic import CaptionerSettings, GenericCaptioner
from sightloop.models.captioners.vlrm_checkpoint import export_folder, export_tensors
from sightloop.models.families import CaptionerChoices
from sightloop.models.named_models import base_of
from sightloop.models.protocols import Export


def load_blip2(
    name: str, *, dtype: torch.dtype, device: torch.device, choices: CaptionerChoices
) -> Blip2Captioner:
    """BLIP-2 with OPT.

    Raises:
        ValueError: no such model, or settings for other captioners.
    """
    if choices != CaptionerChoices():
        raise ValueError(f"{name!r} is BLIP-2, which has no captioner.* settings; leave them out")
    return Blip2Captioner.from_pretrained(name, dtype=dtype, device=device)


def load_generic(
    name: str, *, dtype: torch.dtype, device: torch.device, choices: CaptionerChoices
) -> GenericCaptioner:
    """Any other model of transformers that reads images and writes text, or adapters of one.

    Adapters become part of the weights: what is trained further starts from them, and is compared with them.

    Raises:
        ValueError: no such model, or none that can be driven.
    """
    settings = CaptionerSettings(
        lora_alpha=choices.lora_alpha,
        lora_targets=choices.lora_targets or None,
        template=choices.template or None,
        image_size=choices.image_size,
        reuse_features=choices.reuse_features,
    )
    folders = [name]
    while (base := base_of(folders[-1])) != folders[-1]:
        folders.append(base)
    captioner = GenericCaptioner.from_pretrained(
        base, dtype=dtype, device=device, lora_rank=choices.lora_rank, settings=settings
    )
    # What was trained first is added first.
    for folder in reversed(folders[:-1]):
        merge_folder(captioner, Path(folder))
    return captioner


def export_blip2(policy: Blip2Captioner, output: Path, wanted: Export) -> None:
    """A plain folder with a model card, or VLRM's tensors.

    Raises:
        ValueError: the output is in the way.
    """
    if wanted.form == "tensors":
        return export_tensors(policy, output, dtype=wanted.dtype)
    export_folder(policy, output, base=wanted.card.base, card=wanted.card, dtype=wanted.dtype)


def export_generic(policy: GenericCaptioner, output: Path, wanted: Export) -> None:
    """A folder of adapters for peft, in float32, with a model card.

    Raises:
        ValueError: the output is in the way, or VLRM's tensors are asked for.
    """
    base = wanted.card.base
    if wanted.form == "tensors":
        raise ValueError(
            f"{wanted.run} trained adapters of {base!r}; VLRM's tensors are BLIP-2's, use --form folder"
        )
    card = AdapterCard(run=wanted.card, prompt=wanted.prompt, decoding=wanted.decoding)
    export_adapter(policy, output, base=base, card=card)
