"""Settings that only one choice has a use for: given without it, they are refused.

A recipe lists them once (`CHOICES` beside its settings). Light to import: the command line reads it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """A choice, and the settings that are read only where it is made."""

    settings: tuple[str, ...]
    """Names with their groups, "critic.widths"; a group's name stands for all in it."""
    made: Callable[[Any], bool]
    """Whether a configuration makes it."""
    name: str
    """What the settings belong to, as an error says it."""


def refuse_idle(config: Any, choices: Iterable[Choice], *, starts: Iterable[Any] = ()) -> None:
    """Refuse settings that have no effect, unless they are the default's or those of a preset in `starts`.

    Raises:
        ValueError: such a setting, and the choice it belongs to.
    """
    usual = [type(config)(), *starts]
    for setting, choice in idle_settings(config, choices):
        value = value_of(config, setting)
        if all(value != value_of(start, setting) for start in usual):
            raise ValueError(
                f"{setting} is {value!r}, which has no effect here: it belongs to {choice.name}; leave it out"
            )


def without_idle(config: Config, choices: Iterable[Choice]) -> Config:
    """The same configuration with the defaults of all settings that have no effect."""
    default = type(config)()
    for setting, _ in idle_settings(config, choices):
        config = with_value(config, setting, value_of(default, setting))
    return config


def idle_settings(config: Any, choices: Iterable[Choice]) -> Iterator[tuple[str, Choice]]:
    """Every setting without an effect, and the choice that it would need."""
    leaves = list(leaves_of(config))
    for choice in choices:
        if choice.made(config):
            continue
        for named in choice.settings:
            for leaf in leaves:
                if leaf == named or leaf.startswith(f"{named}."):
                    yield leaf, choice


def leaves_of(config: Any, group: str = "") -> Iterator[str]:
    """The name of every setting, those of groups with the groups' names."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{group}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from leaves_of(value, f"{name}.")
        else:
            yield name


def value_of(config: Any, setting: str) -> Any:
    """The value of a setting.

    >>> from sightloop.recipes.vlrm.config import PAPER
    >>> value_of(PAPER, "critic.lora_rank")
    4
    """
    for name in setting.split("."):
        config = getattr(config, name)
    return config


def with_value(config: Config, setting: str, value: Any) -> Config:
    """The configuration with one setting replaced."""
    name, _, rest = setting.partition(".")
    if rest:
        value = with_value(getattr(config, name), rest, value)
    changes: dict[str, Any] = {name: value}
    return dataclasses.replace(config, **changes)  # pyright: ignore[reportArgumentType, reportUnknownVariableType, reportCallIssue]
