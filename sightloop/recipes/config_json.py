"""Recipe configurations as JSON and back, also from run folders of earlier releases."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from sightloop.models.families import FAMILIES
from sightloop.recipes.presets import family_named

Config = TypeVar("Config")


def config_to_json(config: Any) -> dict[str, Any]:
    """A configuration as plain data."""
    return dataclasses.asdict(config)


def config_from_json(kind: type[Config], data: dict[str, Any]) -> Config:
    """The configuration that `config_to_json` wrote.

    Raises:
        ValueError: a name the configuration does not have, or a value of another type.
    """
    hints = typing.get_type_hints(kind)
    for name in data:
        if name not in hints:
            close = get_close_matches(name, hints, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(hints)}"
            raise ValueError(f"{kind.__name__} has no setting {name!r}; {hint}")
    return kind(**{name: _value(hints[name], value, name) for name, value in data.items()})


def checked(config: Config) -> Config:
    """The configuration, once every value is of its type and every choice among the known ones.

    The command line and files are checked as they are read; configurations made in Python are not.

    Raises:
        ValueError: a value of another type, or a choice that does not exist.
    """
    return config_from_json(type(config), config_to_json(config))


def config_of_run(kind: type[Config], saved: Mapping[str, Any]) -> Config:
    """The configuration in a run folder's config.json, as it was meant when it was written.

    Raises:
        ValueError: a name the configuration does not have, or a value of another type.
    """
    config = saved["config"]
    if saved.get("format", 1) == 1:
        config = _from_format_1(config)
    return config_from_json(kind, config)


def _from_format_1(config: Mapping[str, Any]) -> dict[str, Any]:
    """Format 1 called the greedy baseline "scst", and ended a Show-o's relaxed drawings with one round."""
    changed = dict(config)
    if changed.get("algorithm") == "scst":
        changed["algorithm"] = "greedy-baseline"
    if "relaxation" in changed:
        relaxation = dict(changed["relaxation"])
        last = relaxation.pop("round", -1)
        row = family_named(changed.get("policy"), changed.get("world_model"))
        if row is not FAMILIES["janus"]:
            relaxation |= {"codes": "one-round", "round": last}
        changed["relaxation"] = relaxation
    return changed


def _value(kind: Any, value: Any, name: str) -> Any:
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return config_from_json(typing.cast("type[Any]", kind), value)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        return _value(next(option for option in options if option is not type(None)), value, name)
    if origin is tuple:
        return tuple(_value(options[0], item, name) for item in value)
    if origin is typing.Literal:
        if value not in options:
            raise ValueError(f"{name} is {value!r}; there are: {', '.join(map(str, options))}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name} is {value!r}; it must be {kind.__name__}")
    return value
