"""Whether files are still those that they were: names, sizes and a sample of their contents.

A model of many gigabytes costs milliseconds: of a file, 256 blocks of 4 KiB are read, evenly spread, its
first and last among them; a small file is read whole. Of a set of images, all names, the sizes of at most
10,000 and such samples of at most 256 count. What differs only between those blocks is not seen.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

_BLOCK, _BLOCKS = 1 << 12, 256
_MAX_SIZES, _MAX_CONTENTS = 10_000, 256
_OF_MODELS = (".json", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".txt", ".model", ".jinja", ".py")
"""What a model is read from; cards and pictures beside it may change."""
Item = TypeVar("Item")


def fingerprint_of_file(path: str | Path) -> str:
    """Of a file's size and a sample of its content."""
    return _hashed([_sample(str(path))])


def fingerprint_of_model(folder: Path) -> str:
    """Of the files that a model is read from, or of one file."""
    if folder.is_file():
        return fingerprint_of_file(folder)
    files = sorted(path for path in folder.rglob("*") if path.suffix in _OF_MODELS and path.is_file())
    return _hashed(
        part for path in files for part in (path.relative_to(folder).as_posix().encode(), _sample(str(path)))
    )


def fingerprint_of_module(name: str) -> str:
    """Of the source of a file or of a module by name, a package whole; "" if there is none."""
    if name.endswith(".py"):
        return fingerprint_of_file(name) if os.path.isfile(name) else ""
    # Where commands look for modules; importing it would run it.
    for place in (*sys.path, os.getcwd()):
        path = Path(place, *name.split("."))
        if (path / "__init__.py").is_file():
            return fingerprint_of_model(path)
        if (file := path.with_suffix(".py")).is_file():
            return fingerprint_of_file(file)
    return ""


def fingerprint_of_files(paths: Sequence[str]) -> str:
    """Of a set of images or shards: all names, many sizes, some contents; wherever they lie."""
    names = "\0".join(os.path.basename(path) for path in paths).encode(errors="surrogateescape")
    sizes = [str(_size(path)).encode() for path in _spread(paths, _MAX_SIZES)]
    return _hashed([names, *sizes, *map(_sample, _spread(paths, _MAX_CONTENTS))])


def _sample(path: str) -> bytes:
    try:
        size = os.stat(path).st_size
        if not os.path.isfile(path):
            # A pipe would be waited for.
            return b"no regular file"
        with open(path, "rb") as file:
            digest = hashlib.blake2b(str(size).encode())
            if size <= _BLOCK * _BLOCKS:
                digest.update(file.read(_BLOCK * _BLOCKS))
            else:
                for number in range(_BLOCKS):
                    file.seek((size - _BLOCK) * number // (_BLOCKS - 1))
                    digest.update(file.read(_BLOCK))
    except OSError:
        # Broken images are counted where they are read.
        return b"unreadable"
    return digest.digest()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _spread(items: Sequence[Item], most: int) -> list[Item]:
    step = max(1, -(-len(items) // most))
    return list(items[::step])


def _hashed(parts: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
