"""What the command `export` does: a run's captioner for those who do not have sightloop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch

from sightloop.models.captioners.adapter_folder import AdapterCard, export_adapter
from sightloop.models.captioners.blip2 import Blip2Captioner
from sightloop.models.captioners.vlrm_checkpoint import Card, export_folder, export_tensors
from sightloop.runs.restore import Restored, restore
from sightloop.models.precision import DTYPES

_TOLD = ("recall@1", "recall@5", "mrr", "precision", "told", "length")


def export_run(
    run: Path,
    output: Path,
    *,
    form: Literal["folder", "tensors"],
    step: str,
    dtype: Literal["float16", "bfloat16", "float32"],
    license_name: str,
) -> None:
    """Write a run's captioner: BLIP-2 as a plain folder with a model card or as VLRM's 257 tensors, any other
    as a folder of adapters for peft, in float32, with a model card.

    Raises:
        ValueError: no such run or checkpoint, a form that the captioner does not have, or an output that is
            in the way.
    """
    restored = restore(run, step, device=torch.device("cpu"))
    card = _card(run, restored, license_name)
    if not isinstance(restored.policy, Blip2Captioner):
        if form == "tensors":
            raise ValueError(
                f"{run} trained adapters of {restored.base!r}; VLRM's tensors are BLIP-2's, use --form folder"
            )
        asked = AdapterCard(told=card, prompt=restored.config.draw.prompt, decoding=_decoding(restored))
        return export_adapter(restored.policy, output, base=restored.base, card=asked)
    if form == "tensors":
        export_tensors(restored.policy, output, dtype=DTYPES[dtype])
        return
    export_folder(
        restored.policy,
        output,
        base=restored.base,
        card=card,
        dtype=DTYPES[dtype],
    )


def _decoding(restored: Restored) -> dict[str, int]:
    held_out = restored.config.held_out
    return {
        "num_beams": held_out.beams,
        "no_repeat_ngram_size": held_out.no_repeat_ngram,
        "min_new_tokens": held_out.min_tokens,
        "max_new_tokens": held_out.max_tokens,
    }


def _card(run: Path, restored: Restored, license_name: str) -> Card:
    before, after = _figures(run, 0), _figures(run, restored.step)
    figures = {name: (before[name], after[name]) for name in _TOLD if name in before and name in after}
    return Card(base=restored.base, steps=restored.step, figures=figures, license_name=license_name)


def _figures(run: Path, step: int) -> dict[str, float]:
    path = run / "evaluations" / f"held_out_step_{step:06d}.json"
    return json.loads(path.read_text(encoding="utf-8"))["metrics"] if path.is_file() else {}
