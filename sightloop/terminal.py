"""The only place that prints: what others wrote cannot move the cursor or add lines to a table.

Names of files, captions, answers and messages of other programs hold whatever their authors liked.
"""

from __future__ import annotations

import shutil
import sys
import threading
import unicodedata
from contextlib import suppress

_JOINERS = "\u200c\u200d"
"""Invisible, and part of how Persian, Hindi and emoji are written."""
_PASSING: list[str] = []
"""The line that stands on the terminal for the moment."""
_PRINTING = threading.Lock()


def one_line(text: object) -> str:
    r"""A name or text in which nothing is left that a terminal would obey: such characters as in a literal.

    >>> one_line("\x1b[2Ja\nb"), one_line("日本\u3000語")
    ('\\x1b[2Ja\\nb', '日本\u3000語')
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(each if _is_harmless(each) else ascii(each)[1:-1] for each in text)


def printable(text: object) -> str:
    """The same of a text that may have several lines."""
    return "\n".join(map(_with_tabs, str(text).split("\n")))


def say(text: object = "", *, is_error: bool = False) -> None:
    """Print a text, which may have several lines, where the user reads: results, or errors and progress."""
    stream = sys.stderr if is_error else sys.stdout
    # Letters that the terminal has no code for are spelled too.
    encoding = stream.encoding or "utf-8"
    with _PRINTING:
        _wipe()
        print(printable(text).encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def in_place(text: str) -> None:
    """A line on the terminal that goes when anything else is printed; "" takes it away."""
    with suppress(OSError, ValueError), _PRINTING:
        _wipe()
        if text:
            _PASSING.append(one_line(text)[: shutil.get_terminal_size().columns - 1])
            print(_PASSING[0], end="", file=sys.stderr, flush=True)


def _wipe() -> None:
    if _PASSING:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        _PASSING.clear()


def _with_tabs(line: str) -> str:
    return "\t".join(map(one_line, line.split("\t")))


def _is_harmless(each: str) -> bool:
    return each.isprintable() or each in _JOINERS or unicodedata.category(each) == "Zs"
