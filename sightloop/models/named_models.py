"""Models that a user names: found, or one sentence that tells why not."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedConfig

from sightloop.models.open import open_config


def model_config(name: str) -> PreTrainedConfig:
    """The configuration of a model folder or hub name.

    Raises:
        ValueError: there is no such model, it is a run, it cannot be reached, or it has code of its own.
    """
    if (Path(name) / "metrics.jsonl").is_file():
        raise ValueError(f"{name!r} is a run; write its model with `sightloop export` and name that folder")
    return open_config(name)
