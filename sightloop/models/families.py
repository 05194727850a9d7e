"""Which model family a folder holds, and in whose form, as its config.json tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sightloop.models.weight_files import read_json

Family = Literal["show-o", "janus", "magvit2"]
Form = Literal["sightloop", "official", "transformers"]
_KNOWN: dict[tuple[str, str], tuple[Family, Form]] = {
    ("family", "show-o"): ("show-o", "sightloop"),
    ("family", "magvit2"): ("magvit2", "sightloop"),
    ("_class_name", "Showo"): ("show-o", "official"),
    ("_class_name", "MAGVITv2"): ("magvit2", "official"),
    ("model_type", "multi_modality"): ("janus", "official"),
    ("model_type", "janus"): ("janus", "transformers"),
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """A family and the form its folder has."""

    family: Family
    form: Form


def found_in(folder: Path) -> Found:
    """What a folder holds.

    Raises:
        ValueError: no such folder, no config.json, or a family that is not known here; it is named.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the folder of a Show-o or Janus checkpoint")
    config = read_json(folder / "config.json")
    for key in ("family", "_class_name", "model_type"):
        known = _KNOWN.get((key, str(config.get(key))))
        if known is not None:
            return Found(family=known[0], form=known[1])
    raise ValueError(f"{folder} holds {_named(config)}; known are Show-o, MAGVIT-v2 and Janus")


def require(folder: Path, family: Family) -> Form:
    """The form of a folder that must hold this family.

    Raises:
        ValueError: it holds another one; both are named.
    """
    found = found_in(folder)
    if found.family != family:
        raise ValueError(f"{folder} holds {found.family}, not {family}")
    return found.form


def _named(config: Mapping[str, Any]) -> str:
    for key in ("family", "_class_name", "model_type"):
        if isinstance(config.get(key), str):
            return f"a model of {key} {config[key]!r}"
    return "a config.json that names no family, _class_name or model_type"
