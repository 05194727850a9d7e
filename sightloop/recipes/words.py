"""Options that are taken out of a command's words before the rest is read. Light: commands import it."""

from __future__ import annotations

from collections.abc import Sequence


def taken(option: str, words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of an option, None if it is not there, and the words without both.

    >>> taken("--run", ["--run=a", "b"]), taken("--run", ["b", "--run", "a"]), taken("--run", ["b"])
    (('a', ['b']), ('a', ['b']), (None, ['b']))
    """
    given = list(words)
    for place, word in enumerate(given):
        name, equal, value = word.partition("=")
        # The command line takes underscores for hyphens.
        if name.replace("_", "-") == option:
            value = value if equal else "".join(given[place + 1 : place + 2])
            return value, given[:place] + given[place + (1 if equal else 2) :]
    return None, given


def taken_flag(flag: str, words: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether a flag is there, and the words without it."""
    rest = [word for word in words if word.replace("_", "-") != flag]
    return len(rest) < len(words), rest
