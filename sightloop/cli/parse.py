"""The words of a command become its options, or one sentence that says what is wrong with them."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any, TypeVar

import tyro

from sightloop.terminal import say

T = TypeVar("T")

_HELP = {"-h", "--help"}
_WIDE = "100000"
_VALUE = re.compile(r"Error parsing (\S+): (.*)")
_CHOICE = re.compile(r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*)\)\.")
_WITHOUT = re.compile(r"Missing value for argument '(.*)'\.")
_UNKNOWN = re.compile(r"Unrecognized options: (.*)")
_QUOTED = re.compile(r"""('.*?'|".*?")""")
_KIND = re.compile(r"INT|FLOAT|[^{},|\s\[\]]+(?=[},])")
_KINDS = {"INT": "a whole number", "FLOAT": "a number"}


def parsed(kind: type[T], *, args: Sequence[str], prog: str, **how: Any) -> T:
    """Options of a class from the words of a command; everything else goes to `tyro.cli`.

    Raises:
        ValueError: a word is unknown, missing, of the wrong kind or out of its range.
    """
    output = io.StringIO()
    try:
        with redirect_stderr(output), _whole_lines(args):
            options = tyro.cli(kind, args=args, prog=prog, **how)
    except SystemExit as ended:
        if not ended.code:
            raise
        raise ValueError(_sentence(output.getvalue(), args, prog)) from None
    if output.getvalue():
        say(output.getvalue().rstrip(), is_error=True)
    return options


@contextmanager
def _whole_lines(words: Sequence[str]) -> Iterator[None]:
    # Mistakes are told in a frame as wide as the terminal, where a line may break inside a word.
    before = os.environ.get("COLUMNS")
    if not _HELP & set(words):
        os.environ["COLUMNS"] = _WIDE
    try:
        yield
    finally:
        os.environ.pop("COLUMNS", None)
        if before is not None:
            os.environ["COLUMNS"] = before


def _sentence(frame: str, words: Sequence[str], prog: str) -> str:
    first, *others = _parts(frame)
    text = first[0]
    see = f"; {prog} --help tells what it takes"
    if found := _VALUE.match(text):
        option, said = _written(found.group(1), words), found.group(2)
        if not option.startswith("-"):
            return said
        value = _QUOTED.search(said)
        kinds: list[str] = _KIND.findall(others[0][1].partition(" ")[2]) if others else []
        if value is None or not kinds:
            return f"{option}: {said}{see}"
        return f"{option} is {value.group()}; use {_either(_KINDS.get(kind, kind) for kind in kinds)}"
    if found := _CHOICE.fullmatch(text):
        value, option, choices = found.groups()
        choices = re.findall(r"[^', ]+", choices)
        return f"{_written(option, words)} is {value!r}; use {_either(choices)}"
    if found := _WITHOUT.match(text):
        return _of_no_value(_written(found.group(1), words), words) + see
    if found := _UNKNOWN.fullmatch(text):
        return _of_unknown(found.group(1).split(", "), others) + see
    if text.startswith("Missing from"):
        unknown = [part[1:] for part in others if part[0].startswith("Unrecognized")]
        return "; ".join([*(_of_unknown(part, []) for part in unknown), _of_missing(first[1:])]) + see
    return " ".join(first) + see


def _either(choices: Iterable[str]) -> str:
    return " or ".join(sorted(choices, key=lambda choice: (choice == "None", choice)))


def _written(names: str, words: Sequence[str]) -> str:
    """Of the names of an option the one that was written."""
    given = {word.partition("=")[0] for word in words}
    return next((name for name in names.split("/") if name in given), names)


def _of_no_value(name: str, words: Sequence[str]) -> str:
    if names := re.findall(r"--[\w.-]+", name):
        return f"{_written('/'.join(names), words)} has no value"
    # An unknown option is not told where a word of its own was wanted.
    options = [word.partition("=")[0] for word in words if word.startswith("-")]
    return f"{name.upper()} is not given, or one of these is mistyped: {' '.join(options)}"


def _parts(frame: str) -> list[list[str]]:
    """The lines below the title, parted where they are ruled; stdout's encoding says how a frame is drawn."""
    parts: list[list[str]] = [[]]
    for line in frame.splitlines():
        text = line.strip("╭│╰ ")
        if text and not text.strip("─-╮╯ "):
            parts.append([])
        elif text:
            parts[-1].append(text.rstrip("─╮ "))
    if frame.startswith("╭"):
        parts[0] = parts[0][1:]
    else:
        del parts[0]
    return [part for part in parts if part]


def _of_unknown(unknown: list[str], others: list[list[str]]) -> str:
    options = [word for word in unknown if word.startswith("-")]
    close = [line.split()[0].rstrip(",") for part in others for line in part if line.startswith("--")]
    if options:
        hint = f" (perhaps {' or '.join(close)})" if close else ""
        return f"there is no option {' nor '.join(options)}{hint}"
    return f"there is no place for {' '.join(map(repr, unknown))}"


def _of_missing(lines: list[str]) -> str:
    """From pairs of lines: an option with its kind, and what it is."""
    missing: list[str] = []
    for line, meaning in zip(lines[::2], lines[1::2], strict=False):
        does = meaning.removesuffix("(required)").strip(" .")
        missing.append(f"{line} ({does})" if line.startswith("-") else does[:1].lower() + does[1:])
    return f"not given: {', '.join(missing)}"
