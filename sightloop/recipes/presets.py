"""Which preset a command starts from; reads names and small files, loads no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sightloop.models.families import FAMILIES, Family, GeneratorFamily, known_as


def preset_of(presets: Mapping[str, Any], words: Sequence[str]) -> str:
    """The preset that is named, else the first that fits: of the embedded world without `--model`, of its
    family where the policy or the world's model has one.

    Raises:
        ValueError: no such preset.
    """
    chosen = _option(words, "--preset")
    if chosen is not None:
        if chosen not in presets:
            raise ValueError(f"preset {chosen!r} does not exist; there are: {', '.join(presets)}")
        return chosen
    policy = _option(words, "--model")
    fitting = [name for name in presets if name.startswith("shapes") != bool(policy)]
    row = family_named(policy, _option(words, "--world-model"))
    ending = row.preset if isinstance(row, GeneratorFamily) else ""
    own = [name for name in fitting if ending and name.endswith(f"-{ending}")]
    return own[0] if own else fitting[0]


def _option(words: Sequence[str], name: str) -> str | None:
    for index, given in enumerate(words):
        flag, equal, value = given.partition("=")
        # The command line takes underscores for hyphens.
        word = f"{flag.replace('_', '-')}{equal}{value}" if flag.startswith("--") else given
        if word == name or word.startswith(f"{name}="):
            return word.partition("=")[2] or (words[index + 1] if index + 1 < len(words) else "")
    return None


def family_named(policy: str | None, world_model: str | None) -> Family | None:
    """The row of a policy's folder, or without a policy that of the world's model; None if unknown."""
    if not policy:
        return FAMILIES.get(world_model or "")
    found = known_as(Path(policy))
    return None if found is None else found.row
