"""Models that a user names: found, or one sentence that tells why not."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedConfig

from sightloop.models.open import OwnCodeError, open_config


def model_config(name: str) -> PreTrainedConfig:
    """The configuration of a model folder or hub name.

    Raises:
        ValueError: there is no such model, it cannot be reached, or it has code of its own.
    """
    folder = Path(name)
    if (folder / "metrics.jsonl").is_file():
        raise ValueError(f"{name!r} is a run; write its model with `sightloop export` and name that folder")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ValueError(f"{name!r} is not a model folder: it has no config.json")
    try:
        return open_config(name)
    except OSError as error:
        if folder.is_dir():
            raise ValueError(f"{name!r} is not a model folder: its config.json cannot be read") from error
        raise ValueError(
            f"{name!r} is neither a folder nor a model that the hub hands out just now; check the spelling, "
            "or download the model and name its folder"
        ) from error
    except OwnCodeError:
        raise
    except ValueError as error:
        raise ValueError(
            f"{name!r} has a config.json without a model_type that transformers knows; name a model's folder"
        ) from error
