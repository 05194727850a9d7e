"""Completion in a shell: `completion bash` prints a script, which asks `completion words` at each TAB."""

from __future__ import annotations

import io
import os
import re
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import tyro

from sightloop.cli.demo import DEMOS
from sightloop.cli.evaluate import EVALUATIONS
from sightloop.cli.parse import parsed
from sightloop.recipes.catalog import RECIPES
from sightloop.terminal import say

_BASH = r"""_sightloop() {
    local IFS=$'\n'
    COMPREPLY=($(sightloop completion words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _sightloop sightloop"""
SCRIPTS = {
    "bash": _BASH,
    "zsh": f"autoload -U +X bashcompinit && bashcompinit\n{_BASH}",
    "fish": "complete -c sightloop -a "
    "'(sightloop completion words (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'",
}
"""What each shell reads from its own start file."""
_KINDS: dict[str, tuple[str, ...]] = {
    "train": tuple(RECIPES),
    "evaluate": tuple(EVALUATIONS),
    "demo": tuple(DEMOS),
    "convert": ("show-o", "magvit2", "janus"),
    "completion": tuple(SCRIPTS),
}
_OPTION = re.compile(r"(--[a-z][\w.-]*)(?: \{([^}]+)\})?")


@dataclass(frozen=True, kw_only=True)
class CompletionOptions:
    """Print what makes a shell complete commands and options: `source <(sightloop completion bash)`."""

    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]
    """Whose script; put it into the file that the shell reads when it starts."""


def completion_command(words: list[str]) -> None:
    """Print a shell's script, or after `words` what can come next."""
    if words[:1] == ["words"]:
        return say("\n".join(next_words(words[1:] or [""])))
    say(SCRIPTS[parsed(CompletionOptions, args=words, prog="sightloop completion").shell])


def next_words(typed: list[str]) -> list[str]:
    """What the last word can become: a command, what it is about, an option, or a choice of the one before.

    >>> next_words(["tr"]), next_words(["train", "unirl-g"])
    (['train'], ['unirl-grpo'])
    """
    *before, last = typed
    if not before:
        found = [*import_module("sightloop.cli.app").COMMANDS, "--version", "--help"]
    elif len(before) == 1 and before[0] in _KINDS and not last.startswith("-"):
        found = list(_KINDS[before[0]])
    else:
        options = _options(before)
        found = list(options.get(before[-1], ())) or (list(options) if last.startswith("-") else [])
    return [word for word in found if word.startswith(last)]


def _options(before: list[str]) -> dict[str, tuple[str, ...]]:
    """The options of a command with their choices, read off its help."""
    command, *rest = before
    known = import_module("sightloop.cli.app").COMMANDS
    if command not in known or command == "completion":
        return {}
    kind = [word for word in rest[:1] if word in _KINDS.get(command, ())]
    # Help is cut to the width of the screen.
    os.environ["COLUMNS"] = "400"
    printed = io.StringIO()
    with suppress(SystemExit, ValueError), redirect_stdout(printed), redirect_stderr(printed):
        known[command][0]([*kind, "--help"])
    choices: dict[str, tuple[str, ...]] = {}
    for option, listed in _OPTION.findall(printed.getvalue()):
        # Later it may stand in a sentence about another.
        choices.setdefault(option, tuple(filter(None, re.split(r"[,|]", listed))))
    return choices
