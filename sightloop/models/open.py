"""Models and their tokenizers from folders or hub names, refused where they are not whole.

transformers fills what a checkpoint lacks with random numbers, and makes a tokenizer of two words where there
are no files of one; both run, and their figures mean nothing.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

_NAMED = 3
_VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "tekken.json",
)
_READING = (SafetensorError, RuntimeError, EOFError, OSError, UnicodeDecodeError)
_FULL = 0.9
"""Embeddings are padded by some rows, never by a tenth."""


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of one that torch wrote, on the CPU.

    Raises:
        ValueError: the file cannot be read, or holds something else.
    """
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        # Only the zip form of torch can be mapped; pages are then read when a tensor is used.
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        # torch's own text advises to run what stands in the file.
        raise ValueError(
            f"{file} cannot be read: it holds something else than tensors; download it again"
        ) from error
    except _READING as error:
        raise ValueError(f"{file} cannot be read ({error}); download it again") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"{file} does not hold a dictionary of tensors")
    return loaded


class OwnCodeError(ValueError):
    """A model folder wants to run code of its own."""


def open_config(folder: str | Path) -> PreTrainedConfig:
    """The configuration of a model folder or hub name.

    Raises:
        ValueError: the model has code of its own, or no model_type that transformers knows.
        OSError: there is none, or it cannot be reached.
    """
    with _own_code_refused(folder):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def open_processor(folder: str | Path) -> Any:
    """The processor of a model folder or hub name, of whatever class it names.

    Raises:
        ValueError: the processor has code of its own.
    """
    with _own_code_refused(folder):
        return AutoProcessor.from_pretrained(folder, trust_remote_code=False)


@contextmanager
def _own_code_refused(folder: str | Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise OwnCodeError(
            f"{str(folder)!r} wants to run code of its own, which is never done; name a checkpoint of a "
            "model that transformers itself has"
        ) from error


def open_weights(
    kind: Any, folder: str | Path, *, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Any:
    """A model of the class `kind`, of which every tensor came from the checkpoint; frozen.

    Raises:
        ValueError: weights are missing, which transformers would fill with random numbers, or of other shapes
            than the configuration wants; the model has code of its own.
    """
    with _own_code_refused(folder):
        # Mismatches are told here, in one line.
        model, info = kind.from_pretrained(
            folder,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )
    for name, held, wanted in sorted(info["mismatched_keys"], key=str):
        raise ValueError(
            f"{str(folder)!r} holds {name} with the shape {tuple(held)}, its config.json wants "
            f"{tuple(wanted)}; the two are not of one model"
        )
    # Older checkpoints lack tables of whole numbers, which are made anew.
    known = {name for name, value in model.state_dict().items() if value.is_floating_point()}
    missing = sorted(known.intersection(info["missing_keys"]))
    if missing:
        shown = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        raise ValueError(
            f"{str(folder)!r} lacks {len(missing)} of {len(known)} weights ({shown}): they would be random; "
            f"download it again, or name a checkpoint of the class {_class_name(kind)}"
        )
    return model.to(device).eval().requires_grad_(False)


def open_words(
    folder: str | Path, *, rows: int, ends: Iterable[int | list[int] | None] = ()
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model whose embedding has so many rows and whose configuration names these end ids.

    Raises:
        ValueError: there is none, it is another model's, or it has code of its own.
    """
    place = Path(folder)
    if place.is_dir() and not any((place / name).is_file() for name in _VOCABULARY_FILES):
        raise ValueError(
            f"{str(folder)!r} holds no tokenizer; copy the files of its model's page there "
            f"({', '.join(_VOCABULARY_FILES[:3])} or another)"
        )
    with _own_code_refused(folder):
        words = cast(
            "PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        )
    require_fitting(words, rows=rows, ends=ends, source=str(folder))
    return words


def require_fitting(words: Any, *, rows: int, ends: Iterable[int | list[int] | None], source: str) -> None:
    """Refuse a tokenizer that is not the model's.

    Raises:
        ValueError: it makes ids that the embedding has no row for, or it is much smaller than the embedding
            and ends its texts with another token than the configuration.
    """
    known = words.get_vocab()
    beyond = {token: id for token, id in known.items() if id >= rows and token != words.pad_token}
    if beyond:
        token = min(beyond, key=lambda token: beyond[token])
        raise ValueError(
            f"the tokenizer of {source!r} has the token {token!r} with the number {beyond[token]}, the "
            f"model's embedding has {rows} rows; the two are not of one model"
        )
    wanted = {id for given in ends for id in (given if isinstance(given, list) else [given])} - {None}
    if len(known) < _FULL * rows and not wanted & {words.eos_token_id, words.sep_token_id}:
        raise ValueError(
            f"the tokenizer of {source!r} has {len(known)} tokens, the model's embedding {rows} rows, and "
            "their end tokens differ; the two are not of one model"
        )


def ends_of(*configs: Any) -> list[int | list[int] | None]:
    """End ids that configurations name."""
    return [config.to_dict().get("eos_token_id") for config in configs]


def _class_name(kind: Any) -> str:
    # Some are ours, over one of transformers.
    return next(each.__name__ for each in kind.__mro__ if each.__module__.startswith("transformers."))
