"""Options of the last release under the names that they have now."""

from __future__ import annotations

import sys
from collections.abc import Sequence

FORMER = {"--judge.custom": "--custom-rewards"}


def current_options(words: Sequence[str]) -> list[str]:
    """The words of a command with former options renamed; a line on stderr names each.

    >>> current_options(["unirl-grpo", "--steps", "2"])
    ['unirl-grpo', '--steps', '2']
    """
    renamed: list[str] = []
    for word in words:
        option, equal, value = word.partition("=")
        new = FORMER.get(option.replace("_", "-")) if option.startswith("--") else None
        if new is not None:
            print(f"sightloop: {option} is called {new} now", file=sys.stderr)
        renamed.append(word if new is None else f"{new}{equal}{value}")
    return renamed
