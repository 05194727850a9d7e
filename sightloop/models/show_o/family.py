"""The row of Show-o: its folder opened for a recipe or command, and a trained one written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sightloop.models.families import Learning, Parts
from sightloop.models.merging import merge_adapters
from sightloop.models.prompt_strings import QUESTION_PLACE
from sightloop.models.protocols import Usage
from sightloop.models.show_o.checkpoint import ShowOSizes, ShowOWeights, load_show_o, write_show_o
from sightloop.models.show_o.layout import SPECIAL_TOKENS, SYSTEM_PROMPT
from sightloop.models.show_o.policy import ShowO
from sightloop.models.show_o.settings import ShowOSettings
from sightloop.models.weight_files import refuse_not_finite
from sightloop.text_files import read_json


def load_show_o_for(
    folder: Path, *, dtype: torch.dtype, device: torch.device, parts: Parts, learning: Learning | None
) -> ShowO:
    """The policy of a folder in any form.

    Raises:
        ValueError: a part is missing or does not fit.
    """
    return load_show_o(
        folder,
        magvit=parts.magvit,
        tokenizer=parts.tokenizer,
        tower=parts.tower or None,
        dtype=dtype,
        device=device,
        settings=ShowOSettings(prompts=parts.prompts, **vars(learning or Learning())),
    )


def write_trained_show_o(policy: ShowO, folder: Path, *, dtype: torch.dtype, start: Path) -> Usage:
    """Write a folder that `load_show_o` and `sightloop draw` read, adapters merged, its language model as
    transformers' `PhiForCausalLM`.

    Raises:
        ValueError: a weight that is too large for `dtype`.
    """
    if policy.adapters is not None:
        merge_adapters(policy.adapters, policy.model.model)
    model: Any = policy.model
    model.to(dtype)
    projector = None if policy.vision is None else policy.vision.projector.to(dtype)
    refuse_not_finite(policy.model, dtype)
    weights = ShowOWeights(model=policy.model, projector=projector, sizes=_sizes(policy, start))
    write_show_o(
        weights, folder, tokenizer=policy.tokenizer, magvit=policy.magvit, strings=_own_strings(policy)
    )
    return Usage(library="sightloop", lines=[*_USE, *(_TOWER_NOTE if policy.vision is not None else [])])


def _own_strings(policy: ShowO) -> dict[str, str]:
    """What the policy reads around questions, where it is not the authors'."""
    own = (
        {}
        if policy.settings.question_template is None
        else {"question_template": policy.asking.around(QUESTION_PLACE)}
    )
    if policy.vision is not None and policy.vision.system_prompt != SYSTEM_PROMPT:
        own["system_prompt"] = policy.vision.system_prompt
    return own


def _sizes(policy: ShowO, start: Path) -> ShowOSizes:
    given = read_json(start / "config.json")
    origin = given.get("language_model") or given.get("llm_model_path") or ShowOSizes.language_model
    return ShowOSizes(
        num_image_tokens=policy.num_image_tokens,
        num_text=len(policy.tokenizer) - len(SPECIAL_TOKENS),
        num_codes=policy.magvit.num_codes,
        max_text_tokens=policy.settings.max_text_tokens,
        language_model=origin,
    )


_USE = [
    "```sh",
    'sightloop draw "a photo of a dog" --model FOLDER',
    'sightloop ask drawings/0001.png "What is in the image?" --model FOLDER',
    "```",
    "",
    "`sightloop convert show-o FOLDER OUTPUT --to official` writes the form that the authors' code reads.",
    "The language model alone (`FOLDER/language_model`) is transformers' `PhiForCausalLM`.",
]
_TOWER_NOTE = ["", "It reads features of a CLIP tower, which is not in this folder: name it with `--tower`."]
