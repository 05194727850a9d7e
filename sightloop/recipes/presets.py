"""Which preset a command starts from; reads names and small files, loads no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_JANUS = ("janus", "multi_modality")


def preset_of(presets: Mapping[str, Any], words: Sequence[str]) -> str:
    """The preset that is named, else the first that fits: of the embedded world without `--policy`, of Janus
    where the policy or the world's model is one.

    Raises:
        ValueError: no such preset.
    """
    chosen = _option(words, "--preset")
    if chosen is not None:
        if chosen not in presets:
            raise ValueError(f"preset {chosen!r} does not exist; there are: {', '.join(presets)}")
        return chosen
    policy = _option(words, "--policy")
    fitting = [name for name in presets if name.startswith("shapes") != bool(policy)]
    wanted = is_janus(Path(policy)) if policy else _option(words, "--world-model") == "janus"
    janus = [name for name in fitting if name.endswith("-janus")]
    return janus[0] if wanted and janus else fitting[0]


def _option(words: Sequence[str], name: str) -> str | None:
    for index, given in enumerate(words):
        flag, equal, value = given.partition("=")
        # The command line takes underscores for hyphens.
        word = f"{flag.replace('_', '-')}{equal}{value}" if flag.startswith("--") else given
        if word == name or word.startswith(f"{name}="):
            return word.partition("=")[2] or (words[index + 1] if index + 1 < len(words) else "")
    return None


def is_janus(folder: Path) -> bool:
    """Whether a model folder says that it holds a Janus."""
    file = folder / "config.json"
    if not file.is_file():
        return False
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("model_type") in _JANUS
    except (ValueError, AttributeError):
        # Whoever loads the folder says what is wrong with it.
        return False
