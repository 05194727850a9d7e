"""The one reader of text files: what cannot be read is one sentence with the file, the line and the cause."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 30
"""The largest text file that is read."""
_MAX_DIGITS = 40
"""No number of a file is longer; Python computes with any, and floats end at 309 digits."""
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_KINDS = {dict: "an object", list: "a list"}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a file that is not blank."""

    place: str
    """File and number, for messages."""
    text: str
    is_last: bool
    """Nothing but blank lines comes behind it."""
    is_ended: bool
    """A new line comes behind it: it was written whole."""


def read_whole(file: str | Path, *, fix: str = "") -> bytes:
    """What a regular file holds, never a pipe or a device; `fix` says what to do about a bad one.

    Raises:
        ValueError: it is missing, too large or no regular file; the file is named.
    """
    then = f"; {fix}" if fix else ""
    try:
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise ValueError(f"{file} cannot be read: it is {what}; name a file")
        if status.st_size > MAX_BYTES:
            raise ValueError(f"{file} cannot be read: it has {status.st_size} bytes of at most {MAX_BYTES}")
        with open(file, "rb") as opened:
            return opened.read(MAX_BYTES)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        why = "it does not exist" if missing else error.strerror or str(error)
        raise ValueError(f"{file} cannot be read: {why}{then}") from error
    except ValueError as error:
        if "null" in str(error):
            raise ValueError(f"{str(file)!r} is no name of a file: {error}") from error
        raise


def read_text_file(file: str | Path, *, fix: str = "") -> str:
    """The text of a regular file in UTF-8, without a byte order mark; `fix` says what to do about a bad one.

    Raises:
        ValueError: as `read_whole`, or it is not UTF-8; the line is named.
    """
    data = read_whole(file, fix=fix)
    wrong = data.find(0)
    if wrong < 0:
        try:
            return data.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            wrong = error.start
    line = data.count(b"\n", 0, wrong) + 1
    raise ValueError(
        f"{file} cannot be read: line {line} is not UTF-8 text (byte {data[wrong]:#04x}); "
        f"{fix or 'save it as UTF-8'}"
    )


def read_lines(file: str | Path, *, fix: str = "") -> list[Line]:
    """The lines of a text file, without blank ones.

    Raises:
        ValueError: as `read_text_file`.
    """
    # Not `splitlines`, which also splits at separators that JSON allows inside a text.
    texts = read_text_file(file, fix=fix).split("\n")
    numbered = [(number, text) for number, text in enumerate(texts, 1) if text.strip()]
    return [
        Line(
            place=f"{file} line {number}",
            text=text,
            is_last=number == numbered[-1][0],
            is_ended=number < len(texts),
        )
        for number, text in numbered
    ]


def read_json(file: str | Path, kind: type | None = dict, *, fix: str = "") -> Any:
    """What a JSON file holds: an object, or another `kind`; None = anything.

    Raises:
        ValueError: as `read_text_file`, or it is not JSON, or of another kind.
    """
    return parse_json(read_text_file(file, fix=fix), str(file), kind, fix=fix)


def read_json_lines(file: str | Path, *, fix: str = "") -> list[tuple[str, dict[str, Any]]]:
    """The objects of a file with one a line, each with its place, for messages.

    Raises:
        ValueError: as `read_text_file`, or a line is no JSON object.
    """
    return [
        (line.place, parse_json(line.text, line.place, fix=fix or "write one JSON object a line"))
        for line in read_lines(file, fix=fix)
    ]


def parse_json(text: str, place: str, kind: type | None = dict, *, fix: str = "") -> Any:
    """The JSON value of a text from `place`.

    Raises:
        ValueError: it is not JSON, or of another kind than wanted; or it holds what no one can compute
            with: numbers of hundreds of digits, halves of characters.
    """
    then = f"; {fix}" if fix else ""
    try:
        found = json.loads(text, parse_int=_whole_number)
    except RecursionError:
        raise ValueError(f"{place} is not JSON that can be read: it is nested too deeply{then}") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        raise ValueError(f"{place} is not JSON: {error.msg} at {line}column {error.colno}{then}") from error
    except ValueError as error:
        raise ValueError(f"{place} is not JSON that can be read: {error}{then}") from error
    if _HALF.search(text):
        try:
            # Bytes of names of files that are not UTF-8 are kept in such halves; a pair of them is never one.
            json.dumps(found, ensure_ascii=False).encode(errors="surrogateescape")
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise ValueError(f"{place} holds half a character ({half!a}){then}") from error
    if kind is not None and not isinstance(found, kind):
        raise ValueError(f"{place} holds {_called(found)}, not {_KINDS[kind]}{then}")
    return found


@contextmanager
def form_of(place: str, fix: str = "") -> Iterator[None]:
    """Around what takes the content of a file apart: a wrong form is one sentence with the place.

    Raises:
        ValueError: something is missing, or of another type.
    """
    then = f"; {fix}" if fix else ""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{place} has no {error.args[0]!r}{then}") from error
    except (TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{place} is of another form ({why}){then}") from error
    except ValueError as error:
        if str(error).startswith(place):
            raise
        raise ValueError(f"{place}: {error}{then}") from error


def _whole_number(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _called(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return f"{type(value).__name__} {str(value)[:40]!r}"
