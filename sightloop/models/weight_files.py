"""Tensors of checkpoints on disk: one file or shards with an index, .safetensors or .bin, in and out.

Whatever cannot be read, or does not fit, is one error that names it; nothing is loaded in part.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sightloop.models.downloads import let_go, weight_map
from sightloop.models.open import local_folder, read_tensors
from sightloop.models.open import open_tokenizer as open_class

WEIGHT_FILES = (
    "model.safetensors",
    "pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
)
"""Names that transformers and diffusers give to weights, in the order they are looked for."""
_INDEX = ".index.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json")
_SHARD_BYTES = 5_000_000_000


# -- in


def weight_files(source: Path) -> list[Path]:
    """The files that together hold the weights of a folder, or the given file itself.

    Raises:
        ValueError: nothing there, or an index that names files that are missing.
    """
    if source.is_file():
        return [source]
    source = local_folder(source)
    if not source.is_dir():
        raise ValueError(f"{source} does not exist; give a checkpoint's folder or its weight file")
    for name in WEIGHT_FILES:
        if (source / name).is_file():
            return [source / name]
        index = source / f"{name}{_INDEX}"
        if index.is_file():
            files = [source / shard for shard in sorted(set(weight_map(index).values()))]
            refuse_problems(
                f"{index} names shards that are missing", [f.name for f in files if not f.is_file()]
            )
            return files
    raise ValueError(
        f"{source} holds no weights; looked for {', '.join(WEIGHT_FILES)} and an index of their shards"
    )


def read_weights(source: Path) -> dict[str, Tensor]:
    """Every tensor of a weight file, or of a folder with one or with shards, on the CPU.

    Raises:
        ValueError: no weights, a shard or tensor of the index is missing, or a file cannot be read.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(source):
        tensors |= read_tensors(file)
    if source.is_dir():
        for index in (source / f"{name}{_INDEX}" for name in WEIGHT_FILES):
            if index.is_file() and set(weight_map(index).values()) <= {f.name for f in weight_files(source)}:
                missing = [f"{name} is missing" for name in weight_map(index) if name not in tensors]
                refuse_problems(f"the shards of {index} are not whole", missing)
    return tensors


def tokenizer_file(
    folder: Path, *, hint: str = "a folder with one", **options: Any
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder; `options` go to transformers.

    Raises:
        ValueError: there is none; `hint` says which folder would have it.
    """
    folder = local_folder(folder, weights=False)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ValueError(f"{folder} holds no tokenizer; name {hint} with --tokenizer")
    # tokenizer.json is the whole tokenizer. A class named beside it may be another program's, and add tokens.
    reader = PreTrainedTokenizerFast if (folder / _TOKENIZER_FILES[0]).is_file() else AutoTokenizer
    return open_class(reader, folder, **options)


def misfits(given: Mapping[str, Tensor], wanted: Mapping[str, Sequence[int]]) -> list[str]:
    """A sentence for each tensor that is missing, unknown or of another shape."""
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} is unknown" for name in given if name not in wanted]
    problems += [
        f"{name} is {tuple(given[name].shape)}, the model wants {tuple(wanted[name])}"
        for name in wanted
        if name in given and tuple(given[name].shape) != tuple(wanted[name])
    ]
    return problems


def in_precision(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Sequence[int]], dtype: torch.dtype, *, what: str
) -> dict[str, Tensor]:
    """The tensors of files in a precision, each read, looked at and forgotten before the next: what is in
    memory at once is the result and one tensor.

    Raises:
        ValueError: one is missing, unknown, of another shape or not finite; `what` says of what.
    """
    refuse_problems(what, misfits(tensors, wanted))
    made: dict[str, Tensor] = {}
    problems: list[str] = []
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            problems.append(f"{name} is not finite")
        made[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        if made[name] is not tensor:
            let_go(tensor)
    refuse_problems(what, problems)
    return made


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy the tensors into the module.

    Raises:
        ValueError: not exactly the module's tensors, by name and shape; nothing is loaded then.
    """
    state = module.state_dict()
    problems = misfits(tensors, {k: v.shape for k, v in state.items()})
    problems += [
        f"{name} is not finite"
        for name in state
        if name in tensors and not bool(tensors[name].isfinite().all())
    ]
    refuse_problems(f"{source} does not fit the model", problems)
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(tensors[name])


# -- out


def refuse_filled(output: Path) -> None:
    """Refuse an output that is in the way.

    Raises:
        ValueError: it is a file, or a folder that is not empty.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise ValueError(f"{output} is not empty; choose another folder")


def refuse_not_finite(model: nn.Module, dtype: torch.dtype) -> None:
    """Refuse to write a model that another number format has spoiled.

    Raises:
        ValueError: weights are too large for it; they are named.
    """
    spoiled = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    refuse_problems(f"not finite in {dtype}; choose another dtype", spoiled)


def write_weights(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    name: str = "model.safetensors",
    shard_bytes: int = _SHARD_BYTES,
) -> None:
    """Write tensors as one file, or as shards with an index where they are larger than one may be."""
    shards = _shards(tensors.items(), shard_bytes)
    if len(shards) == 1:
        _save(shards[0], folder / name)
        return
    stem, ending = name.rsplit(".", 1)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.{ending}"
        _save(shard, folder / file)
        weight_map |= dict.fromkeys(shard, file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    write_json(folder / f"{name}{_INDEX}", {"metadata": {"total_size": size}, "weight_map": weight_map})


def _shards(tensors: Iterable[tuple[str, Tensor]], limit: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    room = limit
    for name, tensor in tensors:
        if shards[-1] and tensor.nbytes > room:
            shards.append({})
            room = limit
        shards[-1][name] = tensor
        room -= tensor.nbytes
    return shards


def _save(tensors: Mapping[str, Tensor], file: Path) -> None:
    # Views and shared memory are not allowed in a file of its own.
    plain = {name: tensor.detach().to("cpu").clone().contiguous() for name, tensor in tensors.items()}
    if file.suffix == ".safetensors":
        save_file(plain, file, metadata={"format": "pt"})
    else:
        torch.save(plain, file)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write an object as indented JSON."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


_NAMED_PROBLEMS = 3


def refuse_problems(what: str, problems: Sequence[str]) -> None:
    """Raise a ValueError that names the first problems, if there are any."""
    if problems:
        hidden = len(problems) - _NAMED_PROBLEMS
        more = f", and {hidden} more" if hidden > 0 else ""
        raise ValueError(f"{what}: {'; '.join(problems[:_NAMED_PROBLEMS])}{more}")
