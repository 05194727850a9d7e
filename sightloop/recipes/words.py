"""Options that are taken out of a command's words before the rest is read. Light: commands import it."""

from __future__ import annotations

from collections.abc import Sequence


def taken(option: str, words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of an option, None if it is not there, and the words without both; of several, the last.

    >>> taken("--run", ["--run=a", "b"]), taken("--run", ["b", "--run", "a"]), taken("--run", ["b"])
    (('a', ['b']), ('a', ['b']), (None, ['b']))
    """
    found: str | None = None
    left, rest = list(words), list[str]()
    while left:
        word = left.pop(0)
        name, equal, value = word.partition("=")
        # The command line takes underscores for hyphens.
        if name.replace("_", "-") != option:
            rest.append(word)
        else:
            found = value if equal else "".join(left[:1])
            del left[: 0 if equal else 1]
    return found, rest


def taken_flag(flag: str, words: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether a flag is there, and the words without it."""
    rest = [word for word in words if word.replace("_", "-") != flag]
    return len(rest) < len(words), rest
