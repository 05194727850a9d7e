"""Names of the last release as they are now: of options, settings, choices and metrics."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sightloop.terminal import say

SETTINGS = {
    "answer.grader": "answer.answerer",
    "answer.sees": "answer.input",
    "both_sides.colours": "joint.colors",
    "both_sides.file": "joint.quiz_file",
    "clip": "gradient_clip",
    "clip_at": "gradient_clip_at",
    "data.max_broken_share": "data.max_broken_fraction",
    "draw.batch": "draw_batch",
    "draw.max_new_tokens": "draw.max_tokens",
    "joint.file": "joint.quiz_file",
    "judge.colours": "judge.colors",
    "judge.custom": "custom_rewards",
    "judge.less_prior": "judge.subtract_blind_baseline",
    "judge.share_tower": "judge.reuse_tower",
    "law": "score_under",
    "likelihood.orders": "likelihood.unmasking",
    "method": "algorithm",
    "prompts": "batch",
    "rewards.denials": "rewards.negative_questions",
    "rewards.naming": "rewards.object_identification",
    "schedule.clip": "schedule.gradient_clip",
    "schedule.clip_at": "schedule.gradient_clip_at",
    "share": "average_over",
    "sides.compare_every": "objectives.per_turn_every",
    "skip_silent": "drop_zero_variance_groups",
}
"""Settings of recipes by their place."""
GROUPS = {"both_sides": "joint", "sides": "objectives"}
"""Groups of settings."""
VALUES = {
    ("advantages", "centred"): "centered",
    ("answer.input", "drawn"): "codes",
    ("answer.input", "picture"): "reencoded",
    ("likelihood.unmasking", "drawn"): "trajectory",
    ("likelihood.unmasking", "fresh-masks"): "remasked",
    ("likelihood.unmasking", "some-rounds"): "subsampled",
    ("score_under", "drawing"): "sampling",
    ("score_under", "own"): "model",
}
"""Choices by the setting as it is called now."""
OPTIONS = {
    "": {"--policy": "--model"},
    "doctor": {"--json": "--output", "--draw.steps": "--draw.rounds"},
    "draw": {"--number": "--per-prompt", "--steps": "--rounds"},
    "evaluate": {
        "--batch": "--detect-batch",
        "--colours": "--colors",
        "--file": "--quiz-file",
        "--judge": "--matching",
        "--pictures": "--image-dir",
        "--prompts": "--prompt-file",
        "--questions": "--question-file",
        "--steps": "--rounds",
    },
    "train": {"--draw.steps": "--draw.rounds"},
}
"""Options of commands, beside those that are settings; "" = every command."""
COMMANDS = {"both-sides": "joint"}
"""Kinds of evaluation."""
_METRICS = (
    (re.compile(r"^both_sides\b"), "joint"),
    (re.compile(r"^filter/kept$"), "filter/accepted"),
    (re.compile(r"^groups/silent$"), "groups/zero_variance"),
    (re.compile(r"^reward/denials$"), "reward/negative_questions"),
    (re.compile(r"^reward/naming$"), "reward/object_identification"),
    (re.compile(r"^reward/picture$"), "reward/image"),
    (re.compile(r"colour"), "color"),
)


@functools.cache
def current_metric(name: str) -> str:
    """What a metric or an evaluation of a run is called now.

    >>> current_metric("both_sides/drawn"), current_metric("held_out/recall@1")
    ('joint/drawn', 'held_out/recall@1')
    """
    for former, now in _METRICS:
        name = former.sub(now, name)
    return name


def current_setting(place: str) -> str:
    """The place of a setting now.

    >>> current_setting("sides.compare_every"), current_setting("sides.drawing"), current_setting("batch")
    ('objectives.per_turn_every', 'objectives.drawing', 'batch')
    """
    if place in SETTINGS:
        return SETTINGS[place]
    group, dot, rest = place.partition(".")
    return GROUPS.get(group, group) + dot + rest


def current_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A saved configuration under the names of today.

    >>> current_settings({"law": "own", "sides": {"compare_every": 3}})
    {'score_under': 'model', 'objectives': {'per_turn_every': 3}}
    """
    flat: dict[str, Any] = {}

    def walk(node: Mapping[str, Any], at: str) -> None:
        for name, value in node.items():
            if isinstance(value, Mapping):
                walk(value, f"{at}{name}.")
            else:
                now = current_setting(at + name)
                flat[now] = VALUES.get((now, value), value) if isinstance(value, str) else value
                if now == "schedule.best_metric":
                    flat[now] = current_metric(value)

    walk(config, "")
    settings: dict[str, Any] = {}
    for place, value in flat.items():
        *groups, name = place.split(".")
        node = settings
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = value
    return settings


def current_options(command: str, words: Sequence[str]) -> list[str]:
    """The words of a command with former options renamed; a line on stderr names each.

    >>> current_options("train", ["vlrm", "--steps", "2"])
    ['vlrm', '--steps', '2']
    """
    renamed: list[str] = []
    setting = ""
    for place, word in enumerate(words):
        if command == "evaluate" and place == 0 and word in COMMANDS:
            say(f"sightloop: {word} is called {COMMANDS[word]} now", is_error=True)
            renamed.append(COMMANDS[word])
            continue
        option, equal, value = word.partition("=")
        now = _option(command, option) if option.startswith("--") else option
        if now != option:
            say(f"sightloop: {option} is called {now} now", is_error=True)
        if option.startswith("--"):
            setting = now[2:].replace("-", "_")
            value = VALUES.get((setting, value), value)
        else:
            now = VALUES.get((setting, word), word) if not equal else now
        renamed.append(f"{now}{equal}{value}")
    return renamed


def _option(command: str, option: str) -> str:
    own = OPTIONS[""] | OPTIONS.get(command, {})
    spelled = option.replace("_", "-")
    if spelled in own:
        return own[spelled]
    if command not in {"train", "doctor"}:
        return option
    now = current_setting(spelled[2:].replace("-", "_"))
    return "--" + now.replace("_", "-") if now != spelled[2:].replace("-", "_") else option
