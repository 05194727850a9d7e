"""The files that a run is made of: which settings name them, where they were, and where they are now.

Names stay in config.json as they were given. Beside it, identity.json has the folder that relative ones were
relative to, the whole path of each, and its fingerprint. Light: the command line imports it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightloop.data.settings import IN_PYTHON
from sightloop.late import late
from sightloop.recipes.catalog import read_run_config
from sightloop.recipes.choices import idle_settings, leaves_of, value_of, with_value
from sightloop.recipes.words import taken, taken_flag
from sightloop.storage.files import object_or_empty

_is_served = late("sightloop.rewards.custom:is_served")
IDENTITY = "identity.json"
RELOCATE, ALLOW_CHANGED = "--relocate", "--allow-changed-inputs"
_POLICY = ("policy", "model.magvit", "model.tokenizer", "model.tower")
MODELS = (
    *_POLICY,
    *("judge.model", "judge.reference_model", "judge.retrieval_clip", "held_out.clip"),
    *("judge.text_model", "judge.detector", "judge.colors", "joint.detector", "joint.colors"),
)
"""Settings that name a model: a folder, a file or a name of the hub."""
IMAGES = ("data.images", "held_out.images")
_FILES = (
    "data.rows",
    "held_out.rows",
    "data.image_root",
    "held_out.image_root",
    "judge.phrases",
    "quizzes.file",
    "quizzes.excluded",
)
_FILES += ("joint.quiz_file", "joint.fixed")
_REWARDS = "custom_rewards"
_PARTS = re.compile(r"([:=+])")
_GLOB = re.compile(r"[*?\[{]")


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the command line says about the inputs of runs that it names."""

    relocated: tuple[tuple[str, str], ...] = ()
    allow_changed: bool = False


_NOTHING = Given()
_GIVEN: ContextVar[Given] = ContextVar("given", default=_NOTHING)


def about_inputs() -> Given:
    """What the command says about inputs of runs."""
    return _GIVEN.get()


@contextmanager
def inputs_given(words: list[str]) -> Iterator[list[str]]:
    """Take the options about inputs of runs out of a command's words, and let them count inside.

    Raises:
        ValueError: a move that does not say from where to where.
    """
    moves: list[tuple[str, str]] = []
    allow_changed, left = taken_flag(ALLOW_CHANGED, words)
    move, left = taken(RELOCATE, left)
    while move is not None:
        old, _, new = move.partition("=")
        if not old or not new:
            raise ValueError(f"{RELOCATE} is {old!r}; say from where to where: {RELOCATE} /old=/new")
        moves.append((whole_path(old), whole_path(new)))
        move, left = taken(RELOCATE, left)
    token = _GIVEN.set(Given(relocated=tuple(moves), allow_changed=allow_changed))
    try:
        yield left
    finally:
        _GIVEN.reset(token)


def settings_of_run(run: Path) -> tuple[str, Any]:
    """Recipe and settings of a run, or of its config.json, with names that lead to its files from here.

    Raises:
        ValueError: the folder is no run, or its recipe or a setting of it is not known here.
    """
    path = run if run.is_file() else run / "config.json"
    if not path.is_file():
        raise ValueError(f"{run} is not a run folder: it has no config.json")
    recipe, config = read_run_config(path)
    return recipe, _located(config, object_or_empty(path.with_name(IDENTITY)))


def inputs_of(config: Any) -> dict[str, str]:
    """What the configuration names, by setting; settings without an effect are left out."""
    idle = {setting for setting, _ in idle_settings(config, config.choices)}
    used = set(leaves_of(config)) - idle
    settings = [setting for setting in (*MODELS, *IMAGES, *_FILES) if setting in used]
    named = {setting: str(value_of(config, setting)) for setting in settings}
    for number, reward in enumerate(config.custom_rewards):
        if not _is_served(reward):
            named[f"{_REWARDS} {number + 1}"] = reward
    return {setting: name for setting, name in named.items() if name}


def paths_of(inputs: Mapping[str, str]) -> dict[str, str]:
    """The same with whole paths, of those that name some; others are the hub's, or functions."""
    found = {setting: with_paths(setting, name, whole_path) for setting, name in inputs.items()}
    return {setting: name for setting, name in found.items() if parts_of(setting, name)}


def parts_of(setting: str, name: str) -> list[str]:
    """The whole paths in a name.

    >>> parts_of("custom_rewards 1", "/mine.py:short=0.1"), parts_of("policy", "Salesforce/blip2-opt-2.7b")
    (['/mine.py'], [])
    """
    parts = _PARTS.split(name) if setting.startswith(_REWARDS) else [name]
    return [part for part in parts if os.path.isabs(part)]


def is_of_policy(setting: str) -> bool:
    """Whether the policy itself is made of it."""
    return setting in _POLICY


def fixed_part(path: str) -> str:
    """A path up to its first folder with a pattern in it.

    >>> fixed_part("/data/cats/*.jpg"), fixed_part("/data/cats")
    ('/data/cats', '/data/cats')
    """
    pattern = _GLOB.search(path)
    return os.path.dirname(path[: pattern.start()] + "x") if pattern else path


def moved(path: str) -> str:
    """Where a path leads after the moves that the command names."""
    for old, new in about_inputs().relocated:
        if path == old or path.startswith(old.rstrip("/") + "/"):
            return new.rstrip("/") + path[len(old.rstrip("/")) :]
    return path


def _located(config: Any, identity: Mapping[str, Any]) -> Any:
    paths = identity.get("paths")
    known: Mapping[str, Any] = paths if isinstance(paths, dict) else {}
    rewards = list(config.custom_rewards)
    for setting, name in inputs_of(config).items():
        here, path = with_paths(setting, name, whole_path), known.get(setting)
        now = with_paths(setting, path if isinstance(path, str) else here, moved)
        if now == here:
            # As it was given: sources are named by it.
            continue
        if setting.startswith(_REWARDS):
            rewards[int(setting.split()[1]) - 1] = now
        else:
            config = with_value(config, setting, now)
    return with_value(config, _REWARDS, tuple(rewards))


def with_paths(setting: str, name: str, change: Callable[[str], str]) -> str:
    """A name with its paths changed; rewards hold them between other words."""
    if name.startswith(IN_PYTHON):
        return name
    if setting in IMAGES or setting in _FILES:
        return change(name)
    if setting in MODELS:
        return change(name) if _leads_somewhere(name) else name
    return "".join(change(part) if _leads_somewhere(part) else part for part in _PARTS.split(name))


def _leads_somewhere(name: str) -> bool:
    return os.path.isabs(name) or (bool(name.strip()) and os.path.exists(os.path.expanduser(name)))


def whole_path(path: str) -> str:
    """A path from the root on."""
    return os.path.abspath(os.path.expanduser(path))
