"""Reward models from folders or hub names, refused where their weights are not all there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

_NAMED = 3


def load_whole(kind: Any, folder: str | Path, *, dtype: torch.dtype, device: torch.device | str) -> Any:
    """A model of the class `kind`, of which every tensor came from the checkpoint.

    Raises:
        ValueError: weights are missing, which transformers would fill with random numbers, or of other shapes
            than the configuration wants.
    """
    # Mismatches are told here, in one line.
    model, info = kind.from_pretrained(
        folder, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
    )
    for name, held, wanted in sorted(info["mismatched_keys"], key=str):
        raise ValueError(
            f"{str(folder)!r} holds {name} with the shape {tuple(held)}, its config.json wants "
            f"{tuple(wanted)}; the two are not of one model"
        )
    known = dict(model.named_parameters())
    missing = sorted(set(info["missing_keys"]) & known.keys())
    if missing:
        shown = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        raise ValueError(
            f"{str(folder)!r} lacks {len(missing)} of {len(known)} weights ({shown}): they would be random; "
            f"download it again, or name a checkpoint of the class {kind.__name__}"
        )
    return model.to(device).eval().requires_grad_(False)
