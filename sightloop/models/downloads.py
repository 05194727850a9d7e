"""Files of checkpoints as a download left them: read, or named with what is wrong.

A pointer that stands for a file, a page that says "not found", half a file: each is one sentence, without the
advice of the library below, which for a foreign pickle is to run it. What a hub hands out is fetched here.
"""

from __future__ import annotations

import ctypes
import json
import pickle
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from mmap import PAGESIZE
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sightloop.process.long_work import at_work
from sightloop.text_files import MAX_BYTES, read_json

_DONT_NEED = 4
_INDEX = ".index.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What transformers looks for, in this order; beside each, an index of shards."""
_POINTER = b"version https://git-lfs"
_READING = (SafetensorError, RuntimeError, EOFError, OSError, UnicodeDecodeError)
_AGAIN = "download it again"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_TEXT_FILES = ("*.json", "*.txt", "*.jinja", "*.model")
_TEXT_SUFFIXES = {name.removeprefix("*") for name in _TEXT_FILES}
_MAX_HEAD = 100_000_000
"""Bytes of the head of a .safetensors file; the library below takes no longer one."""
_TENSOR_FILES = ("*.safetensors", "*.bin")
_GIGABYTES = {
    "Salesforce/blip2-opt-2.7b": 15.0,
    "Salesforce/blip2-itm-vit-g": 4.7,
    "laion/CLIP-ViT-g-14-laion2B-s12B-b42K": 5.5,
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": 10.2,
    "openai/clip-vit-large-patch14": 1.7,
    "sashakunitsyn/vlrm-blip2-opt-2.7b": 7.5,
}
"""Weights of the checkpoints that presets and guides name."""
_FOR_PROCESSORS = ("torchvision", "num2words")
"""The extra `processors` of pyproject.toml."""


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


def read_tensors(file: Path, *, prefixes: tuple[str, ...] = ("",), fix: str = _AGAIN) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of one that torch wrote, on the CPU, whose names start so.

    Raises:
        ValueError: the file cannot be read, or holds something else.
    """
    if file.suffix == ".safetensors":
        require_file(file, fix)
        try:
            with safe_open(file, framework="pt") as tensors:
                names = [name for name in tensors.keys() if name.startswith(prefixes)]  # noqa: SIM118
                return {name: tensors.get_tensor(name) for name in names}
        except _READING as error:
            raise ValueError(f"{file} cannot be read ({_first_line(error)}); {fix}") from error
    loaded = read_saved(file, mapped=True, fix=fix)
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"{file} does not hold a dictionary of tensors")
    return {name: value for name, value in loaded.items() if name.startswith(prefixes)}


def let_go(tensor: Tensor) -> None:
    """Forget the pages in memory of a tensor that was read from a mapped file and not changed since.

    They are read again when they are needed; what lies in no file keeps its memory.
    """
    first, size = tensor.data_ptr(), tensor.nbytes
    start, end = -(-first // PAGESIZE) * PAGESIZE, (first + size) // PAGESIZE * PAGESIZE
    advise = _advise()
    if advise is None or tensor.device.type != "cpu" or start >= end:
        return
    with open("/proc/self/maps", encoding="utf-8") as maps:
        lines = maps.readlines()
    for line in lines:
        where, _, _, _, inode, *_ = line.split()
        low, high = (int(number, 16) for number in where.split("-"))
        if low <= start and end <= high and inode != "0":
            advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONT_NEED)


@cache
def _advise() -> Any:
    return ctypes.CDLL(None).madvise if sys.platform.startswith("linux") else None


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
        ValueError: one is empty, cut, a pointer, no regular file, or not what its name says; it is named.
    """
    for file in sorted(folder.iterdir()):
        # Libraries that read these wait for a pipe, and read a device, without end.
        if not (file.is_file() or file.is_dir()):
            raise ValueError(f"{file} cannot be read: it is no regular file; {_AGAIN}")
        if file.suffix in _TEXT_SUFFIXES and file.stat().st_size > MAX_BYTES:
            raise ValueError(f"{file} cannot be read: it is far larger than any such file; {_AGAIN}")
        if file.suffix == ".json":
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
    files = [index.parent / name for name in sorted(set(weight_map(index).values()))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ValueError(f"{index} names shards that are missing: {', '.join(missing[:3])}; download them")
    return files


def weight_map(index: Path) -> dict[str, str]:
    """The shard of each tensor, as an index says it.

    Raises:
        ValueError: it says nothing, or names files outside its folder.
    """
    mapped = read_json(index, fix=_AGAIN).get("weight_map")
    if not isinstance(mapped, dict) or not mapped or not all(isinstance(n, str) for n in mapped.values()):
        raise ValueError(f"{index} has no weight_map; {_AGAIN}")
    if outside := [name for name in mapped.values() if Path(name).name != name]:
        raise ValueError(f"{index} names {outside[0]!r}, which is no file beside it; {_AGAIN}")
    return mapped


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
        head = opened.read(length) if length <= min(size - 8, _MAX_HEAD) else b""
    try:
        header = json.loads(head)
        ends = [place["data_offsets"][1] for name, place in header.items() if name != "__metadata__"]
        whole = 8 + length + max(ends, default=0)
    except (ValueError, RecursionError, AttributeError, TypeError, LookupError) as error:
        raise ValueError(f"{file} cannot be read: it is cut, or no .safetensors file; {_AGAIN}") from error
    if size < whole:
        raise ValueError(f"{file} cannot be read: it has {size} bytes of {whole}; {_AGAIN}")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class OwnCodeError(ValueError):
    """A model folder wants to run code of its own."""


def local_folder(name: str | Path, *, weights: bool = True) -> Path:
    """The folder of a model whose files are read one by one: itself, or a hub name's, fetched if it must.

    What is neither comes back as it is, for whoever says what is wanted there. Without `weights` only what
    tokenizers and configurations need is fetched.

    Raises:
        ValueError: the hub does not hand the model out.
    """
    text = str(name)
    if Path(text).exists() or not _HUB_NAME.fullmatch(text):
        return Path(text)
    return _fetched(text, weights)


@cache
def _fetched(name: str, weights: bool) -> Path:
    wanted = [*_TEXT_FILES, *(_TENSOR_FILES if weights else ())]
    with in_one_sentence(name, "the model"), at_work(f"fetching {name}"):
        return Path(cast("str", snapshot_download(name, allow_patterns=wanted)))


class SentenceError(ValueError):
    """A sentence already."""


def fetched_file(name: str, file: str) -> Path:
    """One file of a repository of the hub, with its model card beside it.

    Raises:
        ValueError: the hub does not hand it out.
    """
    with in_one_sentence(name, file):
        place = Path(hf_hub_download(name, file))
        with suppress(EntryNotFoundError):
            hf_hub_download(name, "README.md")
        return place


@contextmanager
def in_one_sentence(folder: str | Path, part: str) -> Iterator[None]:
    """The boundary: what goes wrong in the libraries below names the model and the part.

    They raise whatever they like for a damaged folder (`Exception` itself, IndexError, TypeError, errors of
    their own), so all of it is caught, here and nowhere else.
    """
    try:
        yield
    except (SentenceError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise _sentence(error, str(folder), part) from error


def _size(name: str) -> str:
    return f", {_GIGABYTES[name]:.1f} GB of weights" if name in _GIGABYTES else ""


def _sentence(error: Exception, source: str, part: str) -> ValueError:
    text = str(error).strip() or type(error).__name__
    line = f"{type(error).__name__}: {' '.join(text.split())[:300]}"
    if "trust_remote_code" in text:
        return OwnCodeError(
            f"{source!r} wants to run code of its own, which is never done; name a checkpoint of a "
            "model that transformers itself has"
        )
    if isinstance(error, ImportError):
        known = any(name in text.lower() for name in _FOR_PROCESSORS)
        way = 'install it with `pip install "sightloop[processors]"`' if known else "install it"
        return ValueError(f"{part} of {source!r} needs a library that is missing here ({line}); {way}")
    if "gated repo" in text:
        return ValueError(
            f"{source!r} is handed out to whom its authors let in: accept its terms on its page, then log in "
            "with `hf auth login`"
        )
    if not Path(source).is_dir():
        return ValueError(
            f"{source!r} is neither a folder nor a model that the hub hands out just now; check the "
            f"spelling, or fetch it where there is a connection (`hf download {source}`{_size(source)}) and "
            "set HF_HUB_OFFLINE=1"
        )
    return ValueError(
        f"{part} of {source!r} cannot be opened ({line}); compare its files with those of the model's page, "
        "or download it again"
    )
