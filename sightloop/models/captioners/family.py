"""The rows of captioners: BLIP-2 with OPT, those with a text decoder of their own, and any other model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch

from sightloop.models.captioners.adapted import AdaptedCaptioner, CaptionerSettings
from sightloop.models.captioners.adapter_folder import AdapterCard, export_adapter, merge_folder
from sightloop.models.captioners.blip2 import Blip2Captioner
from sightloop.models.captioners.encoder_decoder import EncoderDecoderCaptioner, architecture_of
from sightloop.models.captioners.generic import GenericCaptioner
from sightloop.models.captioners.merged_folder import export_merged
from sightloop.models.captioners.vlrm_checkpoint import export_folder, export_tensors, load_vlrm
from sightloop.models.families import CaptionerChoices
from sightloop.models.named_models import base_of
from sightloop.models.open import open_config
from sightloop.models.protocols import Export

Captioner = TypeVar("Captioner", bound=AdaptedCaptioner)


def load_blip2(
    name: str, *, dtype: torch.dtype, device: torch.device, choices: CaptionerChoices
) -> Blip2Captioner | EncoderDecoderCaptioner:
    """BLIP-2, with OPT or with another language model.

    Raises:
        ValueError: no such model, or settings for other captioners.
    """
    config: Any = open_config(name)
    if config.text_config.model_type != "opt":
        return load_encoder_decoder(name, dtype=dtype, device=device, choices=choices)
    if choices != CaptionerChoices():
        raise ValueError(f"{name!r} is BLIP-2, which has no captioner.* settings; leave them out")
    return Blip2Captioner.from_pretrained(name, dtype=dtype, device=device)


def load_encoder_decoder(
    name: str, *, dtype: torch.dtype, device: torch.device, choices: CaptionerChoices
) -> EncoderDecoderCaptioner:
    """A captioner of the table in encoder_decoder.py, or adapters of one.

    Raises:
        ValueError: no such model, or settings that it does not have.
    """
    folders = _adapters_over(name)
    config = open_config(folders[-1])
    plan = architecture_of(config)
    if not choices.reuse_features:
        raise ValueError(
            f"{name!r} is {plan.title}, whose tower always runs once an image; leave "
            "--captioner.no-reuse-features out"
        )
    plain = CaptionerChoices(template=choices.template, image_size=choices.image_size)
    if plan.bridge and choices != plain:
        raise ValueError(
            f"{name!r} is {plan.title}, which trains its Q-Former and no adapters; leave "
            "--captioner.lora-rank and its neighbors out"
        )
    captioner = EncoderDecoderCaptioner.from_pretrained(
        folders[-1],
        dtype=dtype,
        device=device,
        lora_rank=choices.lora_rank,
        settings=_settings(choices),
        kind=config.model_type,
    )
    return _merged(captioner, folders)


def load_generic(
    name: str, *, dtype: torch.dtype, device: torch.device, choices: CaptionerChoices
) -> GenericCaptioner:
    """Any other model of transformers that reads images and writes text, or adapters of one.

    Adapters become part of the weights: what is trained further starts from them, and is compared with them.

    Raises:
        ValueError: no such model, or none that can be driven.
    """
    folders = _adapters_over(name)
    captioner = GenericCaptioner.from_pretrained(
        folders[-1], dtype=dtype, device=device, lora_rank=choices.lora_rank, settings=_settings(choices)
    )
    return _merged(captioner, folders)


def _settings(choices: CaptionerChoices) -> CaptionerSettings:
    return CaptionerSettings(
        lora_alpha=choices.lora_alpha,
        lora_targets=choices.lora_targets or None,
        template=choices.template or None,
        image_size=choices.image_size,
        reuse_features=choices.reuse_features,
    )


def _adapters_over(name: str) -> list[str]:
    """Folders of adapters, each over the next, and last the model under them."""
    folders = [name]
    while (base := base_of(folders[-1])) != folders[-1]:
        folders.append(base)
    return folders


def _merged(captioner: Captioner, folders: list[str]) -> Captioner:
    # What was trained first is added first.
    for folder in reversed(folders[:-1]):
        merge_folder(captioner, Path(folder))
    return captioner


def load_trained(captioner: Blip2Captioner | EncoderDecoderCaptioner, file: Path) -> None:
    """Put VLRM's tensors into a captioner with a Q-Former.

    Raises:
        ValueError: they are not of this model.
    """
    load_vlrm(captioner.model, file)


def export_bridge(policy: Blip2Captioner | EncoderDecoderCaptioner, output: Path, wanted: Export) -> None:
    """A plain folder with a model card, or VLRM's tensors.

    Raises:
        ValueError: the output is in the way.
    """
    if wanted.form == "tensors":
        return export_tensors(policy, output, dtype=wanted.dtype)
    base = _adapters_over(wanted.card.base)[-1]
    export_folder(policy, output, base=base, card=wanted.card, dtype=wanted.dtype)


def export_adapters(policy: AdaptedCaptioner, output: Path, wanted: Export) -> None:
    """A folder of adapters for peft, in float32, or one of the whole model with them in its weights, with a
    model card.

    Raises:
        ValueError: the output is in the way, or VLRM's tensors are asked for.
    """
    base = wanted.card.base
    if wanted.form == "tensors":
        raise ValueError(
            f"{wanted.run} trained adapters of {base!r}; VLRM's tensors are BLIP-2's, use --form folder"
        )
    if wanted.form == "merged":
        return export_merged(policy, output, wanted, base=_adapters_over(base)[-1])
    card = AdapterCard(run=wanted.card, prompt=wanted.prompt, decoding=wanted.decoding)
    export_adapter(policy, output, base=base, card=card)


def export_encoder_decoder(policy: EncoderDecoderCaptioner, output: Path, wanted: Export) -> None:
    """What was trained of it: a plain folder with the trained bridge, or adapters.

    Raises:
        ValueError: as for these.
    """
    (export_bridge if policy.plan.bridge else export_adapters)(policy, output, wanted)
