"""Damage done to bytes, texts, JSON, files and command lines; the same for the same seed."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

ODD_PATHS = ("../../x", "/etc/passwd", "/dev/zero")
"""A refusal may name what an input names."""
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2, 3.5, 10**9, 10**30, 10**400, float("nan"), float("inf"), -1e308),
    *ODD_PATHS,
    *("", "\x1b[2J\n", "\ud800", "é" * 5000, "a\0b", "</s>", "{% for %}"),
    *([], {}, [[]], {"a": {}}, [None], ["a", 1]),
)
ODD_WORDS = (
    *("nan", "inf", "-1", "0", "1e400", "9" * 40, "0x10", "1_0", "٣", "", "--", "-", "\x1b[2J", "a\nb"),
    *("../..", "/dev/zero", "/dev/null", "/proc/self/mem", "True", "None", "[]", "{}", "é" * 300, "x" * 5000),
    *(
        "*",
        "\0",
        "caf\udce9",
        "=",
        "{0..9}",
        "{9..0}",
        "{}",
        "~",
        "~nobody",
        "http://x/y.tar",
        "a:b=c",
        ":",
        "@f",
    ),
)
_ODD_BYTES = (
    *(b"\0", b"\xff", b"\n", b"\r", b'"', b"{", b"[" * 2000, b"\xed\xa0\x80", b"\xef\xbb\xbf", b"9" * 500),
    *(b"\x1b[2J", b"NaN", b"null", b"../", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff\xff\xff\xff\xff"),
)


def damaged_bytes(data: bytes, chance: random.Random) -> bytes:
    """Noisy, cut, doubled, emptied, or with something odd inside; up to three times."""
    for _ in range(chance.randint(1, 3)):
        # A share, so that the place hardly moves with a length that differs between two runs.
        at = int(chance.random() ** chance.choice((1, 6)) * len(data))
        end = min(len(data), at + chance.choice((1, 4, 64, 1024)))
        noise, odd = chance.randbytes(1024), chance.choice(_ODD_BYTES)
        ways: tuple[bytes, ...] = (
            data[:at] + noise[: end - at] + data[end:],
            data[:at],
            data[:at] + data[end:],
            data[:end] + data[at:],
            data[:at] + bytes(end - at) + data[end:],
            data[:at] + odd + data[at:],
            data[:at] + odd + data[at + len(odd) :],
        )
        data = chance.choice(ways)
    return data


def damaged_json(text: str, chance: random.Random) -> bytes:
    """One value of one document replaced, taken out or called differently; other text as bytes."""
    lines = text.split("\n")
    whole = _parsed(text)
    place = None if whole is not None else chance.randrange(len(lines))
    content = whole if place is None else _parsed(lines[place])
    if content is None or chance.random() < 0.2:
        return damaged_bytes(text.encode(), chance)
    for _ in range(chance.randint(1, 2)):
        content = _changed(content, chance)
    changed = json.dumps(content)
    if place is None:
        return changed.encode()
    return "\n".join([*lines[:place], changed, *lines[place + 1 :]]).encode()


def damaged_tensors(data: bytes, chance: random.Random) -> bytes:
    """The header of a safetensors file said otherwise, or any of its bytes."""
    size = int.from_bytes(data[:8], "little")
    header = _parsed(data[8 : 8 + size].decode(errors="replace"))
    if header is None or chance.random() < 0.3:
        return damaged_bytes(data, chance)
    text = json.dumps(_changed(header, chance)).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def damaged_words(words: list[str], options: list[str], chance: random.Random) -> list[str]:
    """One or two words replaced, doubled, taken out or misspelled, or an option with an odd value added."""
    words = list(words)
    for _ in range(chance.randint(1, 2)):
        odd = chance.choice(ODD_WORDS)
        if options and chance.random() < 0.6:
            words += [chance.choice(options), odd]
            continue
        if words:
            at = chance.randrange(len(words))
            ways: tuple[list[str], ...] = ([odd], [words[at], odd], [], [words[at][:-1]], [words[at]] * 2)
            words[at : at + 1] = chance.choice(ways)
    return words


def damage_file(file: Path, chance: random.Random) -> str:
    """Change what a file holds, in the manner of its kind; returns what was done."""
    whole = file.read_bytes()
    if file.suffix == ".safetensors":
        file.write_bytes(damaged_tensors(whole, chance))
    elif file.suffix in {".json", ".jsonl"} and chance.random() < 0.85:
        file.write_bytes(damaged_json(whole.decode(), chance))
    else:
        file.write_bytes(damaged_bytes(whole, chance))
    return "damaged"


def replace_file(file: Path, chance: random.Random) -> str:
    """Take a file away, or put something else in its place or beside it; returns what was done."""
    # What is beside comes first: it needs the file.
    name = chance.choice(("copied", "renamed", "swapped", *_INSTEAD))
    others = sorted(each for each in file.parent.iterdir() if each.is_file() and each != file)
    if name == "copied":
        odd = chance.choice(
            ("step_000009", "step_backup", ".partial", "x.json", "caf\udce9.png", "a\nb.jsonl")
        )
        (file.parent / odd).write_bytes(file.read_bytes())
    elif name == "renamed":
        file.rename(file.parent / f"{file.name}{chance.choice(('x', '.json', '.png', '.partial'))}")
    elif name == "swapped" and others:
        file.write_bytes(chance.choice(others).read_bytes())
    else:
        file.unlink()
        _INSTEAD.get(name, _INSTEAD["missing"])(file)
    return name


_INSTEAD: dict[str, Callable[[Path], Any]] = {
    "missing": lambda file: None,
    "empty": lambda file: file.touch(),
    "a folder": lambda file: file.mkdir(),
    "a pipe": os.mkfifo,
    "endless": lambda file: file.symlink_to("/dev/zero"),
    "a link to itself": lambda file: file.symlink_to(file.name),
    "a link to nowhere": lambda file: file.symlink_to("../../nowhere"),
    "a hole": lambda file: (file.touch(), os.truncate(file, 40 << 30)),
}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _changed(node: Any, chance: random.Random) -> Any:
    if not isinstance(node, dict | list) or not node or chance.random() < 0.15:
        return chance.choice(ODD_VALUES)
    places = list(node) if isinstance(node, dict) else list(range(len(node)))
    place = chance.choice(places)
    fate = chance.random()
    items = [(key, node[key]) for key in places if key != place or fate >= 0.1]
    if fate >= 0.2:
        items = [(key, _changed(value, chance) if key == place else value) for key, value in items]
    elif fate >= 0.1:
        items = [(f"{key}x" if key == place else key, value) for key, value in items]
    return dict(items) if isinstance(node, dict) else [value for _, value in items]
