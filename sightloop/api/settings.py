"""Settings as keywords: the names of the command line, or those of the configuration's fields."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import tyro

from sightloop.data.given import given_images
from sightloop.data.rows import give_rows
from sightloop.former_names import current_setting
from sightloop.other_libraries import here_called, in_python
from sightloop.recipes.catalog import RECIPES
from sightloop.recipes.config_json import checked
from sightloop.recipes.presets import preset_of
from sightloop.rewards.user_functions import give_function

_OPTION = type(tyro.conf.arg())
_IMAGES = {"data.images": "images", "held_out.images": "held_out"}
"""Settings that name images, and what images of a program are called there."""
_ROWS = {"data.rows": "rows", "held_out.rows": "held_out"}
"""The same of rows."""


def recipe_of(config: Any) -> str:
    """The recipe that a configuration belongs to.

    Raises:
        ValueError: it is no recipe's configuration.
    """
    for name, recipe in RECIPES.items():
        if type(config) is recipe.config:
            return name
    kinds = ", ".join(recipe.config.__name__ for recipe in RECIPES.values())
    raise ValueError(f"{config!r} is no recipe; name one of {', '.join(RECIPES)}, or give one of {kinds}")


def configured(
    recipe: str | Any, *, preset: str = "", rewards: Any = None, settings: Mapping[str, Any] | None = None
) -> tuple[str, Any]:
    """The recipe and its configuration: a preset, or a configuration as it is, with settings changed.

    Raises:
        ValueError: an unknown recipe, preset or setting, or a value that it cannot have.
    """
    given = dict(settings or {})
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            close = get_close_matches(recipe, RECIPES, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(RECIPES)}"
            raise ValueError(f"there is no recipe {recipe!r}; {hint}")
        name, start = recipe, None
    else:
        if preset:
            raise ValueError(f"preset {preset!r} has no effect on a configuration that is given whole")
        name, start = recipe_of(recipe), recipe
    presets = RECIPES[name].presets
    places: dict[str, Any] = {}
    for key, value in given.items():
        place = _place(RECIPES[name].config, key, name, value)
        if place in places:
            raise ValueError(f"{key} is given twice, under two names; leave one out")
        places[place] = value
    if start is None:
        words = ["--preset", preset] if preset else []
        words += ["--model", str(places["policy"])] if places.get("policy") else []
        words += ["--world-model", str(places["world_model"])] if "world_model" in places else []
        start = presets[preset_of(presets, words)]
    nested: dict[str, Any] = {}
    for place, value in places.items():
        _put(nested, place, _plain(place, value, column=str(places.get("data.column", ""))))
    if rewards is not None:
        _put_rewards(nested, start, rewards)
    return name, checked(_changed(start, nested), presets=presets.values())


def give_again(
    config: Any, *, rewards: Any = None, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Give functions and images of a program to a run that knows them by name; the other settings.

    Raises:
        ValueError: there is no such setting.
    """
    left: dict[str, Any] = {}
    for key, value in (settings or {}).items():
        place = _place(type(config), key, recipe_of(config), value)
        name = _ROWS.get(place) or _IMAGES.get("held_out.images" if place == "held_out" else place, "")
        if not name or isinstance(value, str | Path | Mapping) or dataclasses.is_dataclass(value):
            left[key] = value
        elif place in _ROWS:
            give_rows(value, name=name)
        else:
            given_images(value, name=name, column=config.data.column if name == "images" else "")
    functions = rewards if isinstance(rewards, Mapping) else _named(rewards)
    for name, value in (functions or {}).items():
        function = value[0] if isinstance(value, tuple) else value
        if callable(function):
            give_function(name, function)
    return left


def options_of(config: type[Any]) -> dict[str, str]:
    """The settings of a configuration by what the command line calls them, underscores for hyphens.

    >>> from sightloop.recipes.vlrm.config import VlrmConfig
    >>> options_of(VlrmConfig)["steps"], options_of(VlrmConfig)["judge"], options_of(VlrmConfig)["model"]
    ('schedule.steps', 'judge.model', 'policy')
    """
    found: dict[str, str] = {}
    hints = typing.get_type_hints(config, include_extras=True)
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        kind = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
        spoken = _spoken(hint)
        name = next((each.name for each in spoken if each.name is not None), field.name)
        for alias in (alias for each in spoken for alias in each.aliases or ()):
            found[alias.lstrip("-").replace("-", "_")] = field.name
        if dataclasses.is_dataclass(kind):
            lead = f"{name}." if name else ""
            for option, place in options_of(cast("type[Any]", kind)).items():
                # Aliases stand alone on the command line.
                found[option if option in _aliases(kind) else f"{lead}{option}"] = f"{field.name}.{place}"
        else:
            found[name.replace("-", "_")] = field.name
    return found


def _aliases(kind: Any) -> set[str]:
    spoken = [
        each for hint in typing.get_type_hints(kind, include_extras=True).values() for each in _spoken(hint)
    ]
    return {alias.lstrip("-").replace("-", "_") for each in spoken for alias in each.aliases or ()}


def _spoken(hint: Any) -> list[Any]:
    """What the command line calls a field of this type, where it calls it something else."""
    extras = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
    return [each for each in extras if isinstance(each, _OPTION)]


def _place(config: type[Any], key: str, recipe: str, value: Any = None) -> str:
    """Where a keyword belongs: `steps`, `held_out__clip`, "held_out.clip", or a whole group."""
    wanted = current_setting(key.replace("__", ".").replace("-", "_"))
    options = options_of(config)
    leaves = set(options.values())
    groups = {leaf.rpartition(".")[0] for leaf in leaves} - {""}
    is_group = isinstance(value, Mapping) or dataclasses.is_dataclass(value)
    if wanted == "held_out" and "held_out.rows" in leaves and not is_group:
        return "held_out.rows"
    # Some groups have the name of an option: `judge` is a model or its settings.
    if wanted in groups and (is_group or wanted not in options):
        return wanted
    if wanted in leaves and wanted not in options:
        return wanted
    if wanted in options:
        return options[wanted]
    if answer := here_called(wanted, recipe):
        raise ValueError(f"there is no setting {key!r}; {in_python(answer)}")
    close = get_close_matches(wanted, [*options, *groups], n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"{config.__name__} lists them"
    raise ValueError(f"{recipe} has no setting {key!r}; {hint}")


def _plain(place: str, value: Any, *, column: str) -> Any:
    """A value as a configuration holds it."""
    if place in _IMAGES:
        return given_images(value, name=_IMAGES[place], column=column if place == "data.images" else "")
    if place in _ROWS:
        return give_rows(value, name=_ROWS[place])
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if place == "held_out" and not isinstance(value, Mapping):
        return {"images": given_images(value, name="held_out")}
    if isinstance(value, Mapping):
        return {
            name: _plain(f"{place}.{name}", each, column=column)
            for name, each in cast("Mapping[str, Any]", value).items()
        }
    return tuple(cast("list[Any]", value)) if isinstance(value, list) else value


def _put(nested: dict[str, Any], place: str, value: Any) -> None:
    *groups, last = place.split(".")
    for group in groups:
        nested = nested.setdefault(group, {})
    if isinstance(value, Mapping) and isinstance(nested.get(last), dict):
        nested[last] |= value
    else:
        nested[last] = value


def _changed(config: Any, changes: Mapping[str, Any]) -> Any:
    """All changes of a group at once: what fits together is looked at when it is whole."""
    known = [field.name for field in dataclasses.fields(config)]
    for name in changes:
        if name not in known:
            raise ValueError(f"{type(config).__name__} has no setting {name!r}; it has {', '.join(known)}")
    made = {
        name: _changed(getattr(config, name), value) if isinstance(value, Mapping) else value
        for name, value in changes.items()
    }
    return dataclasses.replace(config, **made)


def _put_rewards(nested: dict[str, Any], start: Any, rewards: Any) -> None:
    """Rewards by name are all that there are: of the recipe's own, those not named weigh nothing."""
    weighed = start.rewards if "rewards" in {field.name for field in dataclasses.fields(start)} else None
    own = {field.name for field in dataclasses.fields(weighed)} if weighed is not None else set[str]()
    if weighed is not None and type(rewards) is type(weighed):
        nested["rewards"] = rewards
        return
    weights, custom = dict.fromkeys(own, 0.0), []
    for name, value in (rewards if isinstance(rewards, Mapping) else _named(rewards)).items():
        function, weight = value if isinstance(value, tuple) else (value, 1.0)
        if not callable(function):
            weight = function
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ValueError(
                f"the reward {name!r} is {value!r}; give a weight, a function, or (function, weight)"
            )
        if callable(function):
            custom.append(f"{give_function(name, function)}={weight}")
        elif name in own:
            weights[name] = float(weight)
        else:
            custom.append(f"{name}={weight}")
    if own:
        nested["rewards"] = weights
    nested["custom_rewards"] = (*nested.get("custom_rewards", ()), *custom)


def _named(rewards: Any) -> dict[str, Callable[..., Any]]:
    """Functions under their own names, as TRL takes a list of them."""
    if rewards is None:
        return {}
    listed = [rewards] if callable(rewards) else rewards
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not all(map(callable, listed)):
        raise ValueError(
            f"rewards is {rewards!r}; give names with weights or functions, as in "
            '{"short": function, "clip:FOLDER": 0.5}, or a list of functions'
        )
    found: dict[str, Callable[..., Any]] = {}
    for number, function in enumerate(listed, 1):
        own = function.__name__ if inspect.isroutine(function) else type(function).__name__
        found[own if own.isidentifier() and own not in found else f"reward_{number}"] = function
    return found
