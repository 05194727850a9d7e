"""Files of checkpoints as a download left them: read, or named with what is wrong.

A pointer that stands for a file, a page that says "not found", half a file: each is one sentence, without the
advice of the library below, which for a foreign pickle is to run it.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sightloop.text_files import read_json

_INDEX = ".index.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What transformers looks for, in this order; beside each, an index of shards."""
_POINTER = b"version https://git-lfs"
_READING = (SafetensorError, RuntimeError, EOFError, OSError, UnicodeDecodeError)
_AGAIN = "download it again"


def read_saved(file: Path, *, mapped: bool = False, device: str = "cpu", fix: str = _AGAIN) -> Any:
    """What torch wrote into a file: tensors and plain values, never code.

    `mapped` reads the pages of a tensor when it is used; `fix` says what to do about a damaged file.

    Raises:
        ValueError: the file cannot be read, or holds something else.
    """
    require_file(file, fix)
    try:
        # Only the zip form of torch can be mapped.
        mmap = mapped and zipfile.is_zipfile(file)
        return torch.load(file, map_location=device, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        # torch's own text advises to run what stands in the file.
        raise ValueError(f"{file} cannot be read: it holds something else than tensors; {fix}") from error
    except _READING as error:
        raise ValueError(f"{file} cannot be read ({_first_line(error)}); {fix}") from error


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of one that torch wrote, on the CPU.

    Raises:
        ValueError: the file cannot be read, or holds something else.
    """
    if file.suffix == ".safetensors":
        require_file(file)
        try:
            with safe_open(file, framework="pt") as tensors:
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        except _READING as error:
            raise ValueError(f"{file} cannot be read ({_first_line(error)}); {_AGAIN}") from error
    loaded = read_saved(file, mapped=True)
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"{file} does not hold a dictionary of tensors")
    return loaded


def read_shapes(file: Path) -> dict[str, Tensor]:
    """The tensors of such a file without their values, on the meta device.

    Raises:
        ValueError: the file cannot be read.
    """
    if file.suffix != ".safetensors":
        return read_saved(file, mapped=True, device="meta")
    require_weights([file])
    with safe_open(file, framework="pt") as tensors:
        shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def require_folder(folder: Path) -> None:
    """Look at the files of a model's folder before any of them is read.

    Raises:
        ValueError: one is empty, cut, a pointer, or not what its name says; it is named.
    """
    for file in sorted(folder.glob("*.json")):
        require_file(file)
        read_json(file, fix=_AGAIN)
    for name in _WEIGHTS:
        index = folder / f"{name}{_INDEX}"
        if (folder / name).is_file():
            return require_weights([folder / name])
        if index.is_file():
            return require_weights(shards_of(index))


def require_weights(files: Iterable[Path]) -> None:
    """Look at weight files without reading their tensors.

    Raises:
        ValueError: as `require_folder`.
    """
    for file in files:
        require_file(file)
        if file.suffix == ".safetensors":
            _require_length(file)
        else:
            # The form of torch tells only by being read; pages stay on the disk.
            read_tensors(file)


def shards_of(index: Path) -> list[Path]:
    """The files that an index of shards names.

    Raises:
        ValueError: it names none, or some that are missing.
    """
    mapped = read_json(index, fix=_AGAIN).get("weight_map")
    if not isinstance(mapped, dict) or not mapped or not all(isinstance(n, str) for n in mapped.values()):
        raise ValueError(f"{index} has no weight_map; {_AGAIN}")
    files = [index.parent / name for name in sorted(set(mapped.values()))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ValueError(f"{index} names shards that are missing: {', '.join(missing[:3])}; download them")
    return files


def require_file(file: Path, fix: str = _AGAIN) -> None:
    """Refuse what is only the remains of a file.

    Raises:
        ValueError: it is empty, or a pointer of Git LFS.
    """
    if not file.is_file():
        return
    with file.open("rb") as opened:
        head = opened.read(len(_POINTER))
    if not head:
        raise ValueError(f"{file} cannot be read: it is empty; {fix}")
    if head == _POINTER:
        raise ValueError(
            f"{file} cannot be read: it is a pointer of Git LFS, not the file itself; run `git lfs pull` in "
            f"its folder, or {fix}"
        )


def _require_length(file: Path) -> None:
    """The head of a .safetensors file says how long the file is."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        head = opened.read(length) if length <= size - 8 else b""
    try:
        told = json.loads(head)
        ends = [place["data_offsets"][1] for name, place in told.items() if name != "__metadata__"]
        whole = 8 + length + max(ends, default=0)
    except (ValueError, RecursionError, AttributeError, TypeError, LookupError) as error:
        raise ValueError(f"{file} cannot be read: it is cut, or no .safetensors file; {_AGAIN}") from error
    if size < whole:
        raise ValueError(f"{file} cannot be read: it has {size} bytes of {whole}; {_AGAIN}")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
