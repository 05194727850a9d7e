"""The row of Janus and Janus-Pro: a folder opened for a recipe or command, and a trained one written."""

from __future__ import annotations

from pathlib import Path

import torch

from sightloop.models.families import Learning, Parts
from sightloop.models.janus.checkpoint import load_janus, write_janus
from sightloop.models.janus.policy import Janus, JanusSettings
from sightloop.models.merging import merge_adapters
from sightloop.models.protocols import Usage
from sightloop.models.weight_files import refuse_not_finite


def load_janus_for(
    folder: Path, *, dtype: torch.dtype, device: torch.device, parts: Parts, learning: Learning | None
) -> Janus:
    """The policy of a folder in either form.

    Raises:
        ValueError: a part is missing, does not fit, or is not one of a Janus.
    """
    if parts.magvit is not None or parts.tower:
        raise ValueError(f"{folder} is a Janus, which has all its parts; leave --magvit and --tower out")
    return load_janus(
        folder,
        tokenizer=parts.tokenizer,
        dtype=dtype,
        device=device,
        settings=JanusSettings(**vars(learning or Learning())),
        prompts=parts.prompts,
    )


def write_trained_janus(policy: Janus, folder: Path, *, dtype: torch.dtype, start: Path) -> Usage:
    """Write a folder that transformers' `JanusForConditionalGeneration` and `AutoProcessor` read, adapters
    merged.

    Raises:
        ValueError: a weight that is too large for `dtype`.
    """
    del start
    if policy.adapters is not None:
        merge_adapters(policy.adapters, policy.model.model.language_model)
    policy.model.to(dtype)
    refuse_not_finite(policy.model, dtype)
    write_janus(policy.model, folder, tokenizer=policy.tokenizer, strings=policy.prompts.strings)
    return Usage(library="transformers", lines=_USE)


_USE = [
    "```python",
    "from transformers import AutoProcessor, JanusForConditionalGeneration",
    "",
    'model = JanusForConditionalGeneration.from_pretrained("FOLDER")',
    'processor = AutoProcessor.from_pretrained("FOLDER")',
    'told = [{"role": "user", "content": [{"type": "text", "text": "a photo of a dog"}]}]',
    "prompt = processor.apply_chat_template(told, add_generation_prompt=True)",
    'inputs = processor(text=prompt, generation_mode="image", return_tensors="pt")',
    'codes = model.generate(**inputs, generation_mode="image", do_sample=True)',
    "image = model.decode_image_tokens(codes)",
    "```",
]
