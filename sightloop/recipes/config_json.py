"""Recipe configurations as JSON and back, also from run folders of earlier releases."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from sightloop.former_names import current_settings
from sightloop.models.families import FAMILIES, family_named
from sightloop.recipes.choices import refuse_idle, without_idle

Config = TypeVar("Config")


def config_to_json(config: Any) -> dict[str, Any]:
    """A configuration as plain data."""
    return dataclasses.asdict(config)


def config_from_json(kind: type[Config], data: dict[str, Any]) -> Config:
    """The configuration that `config_to_json` wrote.

    Raises:
        ValueError: a name the configuration does not have, or a value of another type.
    """
    if not isinstance(data, dict):
        raise ValueError(f"the settings are {data!r}; they must be an object of names and values")
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(typing.cast("type[Any]", kind))]
    for name in data:
        if name not in names:
            close = get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names)}"
            raise ValueError(f"{kind.__name__} has no setting {name!r}; {hint}")
    return kind(**{name: _value(hints[name], value, name) for name, value in data.items()})


def checked(config: Config, *, presets: Iterable[Config]) -> Config:
    """The configuration, once every value is of its type, every choice among the known ones, and no setting
    without effect that is not a preset's.

    The command line and files are checked as they are read; configurations made in Python are not.

    Raises:
        ValueError: a value of another type, a choice that does not exist, or a setting of no effect.
    """
    found: Any = config_from_json(type(config), config_to_json(config))
    refuse_idle(found, found.choices, starts=presets)
    return found


def config_of_run(kind: type[Config], saved: Mapping[str, Any]) -> Config:
    """The configuration in a run folder's config.json, as it was meant when it was written.

    Raises:
        ValueError: a name the configuration does not have, or a value of another type.
    """
    config, form = saved["config"], saved.get("format", 1)
    if form == 1:
        config = _from_format_1(config)
    if form > 2:
        return config_from_json(kind, config)
    config = current_settings(config)
    known: Any = kind
    return without_idle(config_from_json(kind, _from_format_2(config)), known.choices)


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


def _from_format_2(config: Mapping[str, Any]) -> dict[str, Any]:
    """Format 2 had UniRL's custom rewards in `judge`, and a critic's learning rate without a critic."""
    changed = dict(config)
    judge = dict(changed.get("judge", {}))
    if "custom" in judge:
        changed["custom_rewards"] = judge.pop("custom")
        changed["judge"] = judge
    if "quizzes" in changed and "schedule" in changed:
        schedule = dict(changed["schedule"])
        schedule.pop("critic_learning_rate", None)
        changed["schedule"] = schedule
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
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} is {value!r}; it must be a list")
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
