"""Files of one JSON object a line that a run appends to; a checkpoint knows the lines that belong to it.

Lost, cut and damaged lines are left out and named.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any
from zlib import crc32

from sightloop.text_files import read_whole

Valid = Callable[[dict[str, Any]], bool]


@dataclass(frozen=True, kw_only=True)
class Lines:
    """The lines of a file that can be used."""

    texts: list[str]
    problems: list[str]
    """Each names the file and its lines."""

    @property
    def records(self) -> list[dict[str, Any]]:
        """The same as objects."""
        return [json.loads(text) for text in self.texts]


def line_checksums(path: Path) -> list[int]:
    """One number for each whole line."""
    return [crc32(line) for line in _whole_lines(path)]


def lines_of_checkpoint(path: Path, checksums: Sequence[int]) -> Lines:
    """The lines that were there when a checkpoint noted these checksums; what came later is left out."""
    lines = _whole_lines(path)
    found = [crc32(line) for line in lines]
    if found[: len(checksums)] == list(checksums):
        return Lines(texts=[line.decode() for line in lines[: len(checksums)]], problems=[])
    if not path.exists():
        return Lines(texts=[], problems=[f"{path} is missing, and so are {_named(0, len(checksums))} of it"])
    texts: list[str] = []
    problems: list[str] = []
    matcher = SequenceMatcher(None, checksums, found, autojunk=False)
    for kind, first, end, at, until in matcher.get_opcodes():
        if kind == "equal":
            texts += [line.decode() for line in lines[at:until]]
        elif kind == "replace" and until - at >= end - first:
            problems.append(f"{path}: {_named(first, end)} is not what was written")
        elif first < end:
            problems.append(f"{path}: {_named(first, end)} is lost, or cut")
        elif first < len(checksums):
            problems.append(f"{path}: {_named(at, until)} was not written by the run")
    return Lines(texts=texts, problems=[_plural(problem) for problem in problems])


def lines_until(path: Path, step: int, valid: Valid) -> Lines:
    """The valid lines of steps up to `step`, for want of checksums."""
    texts: list[str] = []
    problems: list[str] = []
    for number, line in enumerate(_whole_lines(path), 1):
        try:
            record = json.loads(line)
            good = isinstance(record, dict) and isinstance(record["step"], int) and valid(record)
        except (ValueError, LookupError, RecursionError):
            good, record = False, {}
        if not good:
            problems.append(f"{path}: line {number} cannot be read as a record of a run")
        elif record["step"] <= step:
            texts.append(line.decode())
    return Lines(texts=texts, problems=problems)


def missing_steps(steps: Iterator[int], last: int) -> str:
    """The steps from 1 to `last` that are not among `steps`, in words; "" if there are none.

    >>> missing_steps(iter([1, 2, 6]), 8)
    '3-5, 7-8'
    """
    there = {0, *steps, last + 1}
    runs: list[str] = []
    known = sorted(step for step in there if 0 <= step <= last + 1)
    for before, after in itertools.pairwise(known):
        if after - before > 1:
            runs.append(f"{before + 1}-{after - 1}" if after - before > 2 else f"{before + 1}")
    return ", ".join(runs)


def _whole_lines(path: Path) -> list[bytes]:
    # A killed process can leave half a last line.
    return read_whole(path).split(b"\n")[:-1] if path.exists() else []


def _named(first: int, end: int) -> str:
    return f"line {end}" if end - first == 1 else f"lines {first + 1}-{end}"


def _plural(problem: str) -> str:
    return problem.replace(" is ", " are ").replace(" was ", " were ") if ": lines " in problem else problem
