"""Which preset a command starts from; reads names and small files, loads no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sightloop.models.families import GeneratorFamily, family_named
from sightloop.recipes.words import taken


def preset_of(presets: Mapping[str, Any], words: Sequence[str]) -> str:
    """The preset that is named, else the first that fits: of the embedded world without `--model`, of its
    family where the policy or the world's model has one.

    Raises:
        ValueError: no such preset.
    """
    chosen, _ = taken("--preset", words)
    if chosen is not None:
        if chosen not in presets:
            raise ValueError(f"preset {chosen!r} does not exist; there are: {', '.join(presets)}")
        return chosen
    policy, _ = taken("--model", words)
    fitting = [name for name in presets if name.startswith("shapes") != bool(policy)]
    row = family_named(policy, taken("--world-model", words)[0])
    ending = row.preset if isinstance(row, GeneratorFamily) else ""
    own = [name for name in fitting if ending and name.endswith(f"-{ending}")]
    return own[0] if own else fitting[0]
