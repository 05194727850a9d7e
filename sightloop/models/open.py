"""The one place where models, their tokenizers and processors are opened, from folders or hub names.

transformers fills what a checkpoint lacks with random numbers, makes a tokenizer of two words where there are
no files of one, leaves layers out that a configuration does not count, and offers to run code that lies in a
model's folder. Here each of them is refused, and what goes wrong in the libraries below is one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from sightloop.models.downloads import read_saved, read_shapes, read_tensors, require_folder
from sightloop.models.kinds import MATCHER, is_blip2, is_captioner, is_matcher, refuse_as
from sightloop.models.transformers_internals import exact_in, is_language_model, videos_left_out

__all__ = ["MATCHER", "is_blip2", "is_captioner", "is_language_model", "is_matcher"]
__all__ += ["read_saved", "read_shapes", "read_tensors", "refuse_as"]

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
_FOR_PROCESSORS = ("torchvision", "num2words")
"""The extra `processors` of pyproject.toml."""
_FULL = 0.9
"""Embeddings are padded by some rows, never by a tenth."""


_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_TEXT_FILES = ("*.json", "*.txt", "*.jinja", "*.model")
_TENSOR_FILES = ("*.safetensors", "*.bin")


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
    with _in_one_sentence(name, "the model"):
        return Path(cast("str", snapshot_download(name, allow_patterns=wanted)))


def open_config(folder: str | Path) -> Any:
    """The configuration of a model folder or hub name.

    Raises:
        ValueError: there is none, or it cannot be reached; it is damaged, of no model that transformers
            knows, or of one with code of its own.
    """
    place = Path(folder)
    if place.is_dir() and not (place / "config.json").is_file():
        raise ValueError(f"{str(folder)!r} is not a model folder: it has no config.json")
    if place.is_dir():
        require_folder(place)
    with _in_one_sentence(folder, "the config.json"):
        told, _ = PreTrainedConfig.get_config_dict(folder)
        kind = told.get("model_type")
        if "auto_map" not in told and (not isinstance(kind, str) or kind not in CONFIG_MAPPING):
            raise _Told(
                f"{str(folder)!r} has a config.json without a model_type that transformers knows; name a "
                "model's folder"
            )
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def require_kind(folder: str | Path, wanted: str, fits: Callable[[Any], bool]) -> None:
    """Look at the configuration of a model before its weights.

    Raises:
        ValueError: it is something else, which is named, with the options that take it.
    """
    config = open_config(folder)
    if not fits(config):
        refuse_as(config, wanted, str(folder))


def open_weights(
    kind: Any,
    folder: str | Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    exact: tuple[str, ...] = (),
) -> Any:
    """A model of the class `kind`, of which every tensor came from the checkpoint; frozen.

    The parts `exact` are read in float32, whatever `dtype` is.

    Raises:
        ValueError: weights are missing, not finite, of other shapes or more layers than the configuration
            wants; the files are damaged; the model has code of its own.
    """
    reader = exact_in(exact)(type(kind.__name__, (kind,), {})) if exact else kind
    model, info = open_with_report(reader, folder, dtype=dtype)
    if exact:
        # The name of the reader would end up in the configuration of an export.
        model.__class__ = kind
    for name, held, wanted in sorted(info["mismatched_keys"], key=str):
        raise ValueError(
            f"{str(folder)!r} holds {name} with the shape {tuple(held)}, its config.json wants "
            f"{tuple(wanted)}; the two are not of one model"
        )
    _require_all(model, info, str(folder), _class_name(kind))
    model = model.to(device).eval().requires_grad_(False)
    require_finite(model, str(folder))
    return model


def open_with_report(
    kind: Any, folder: str | Path, *, dtype: torch.dtype, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """A model and what transformers tells about its loading; whoever calls this looks at what is missing.

    Raises:
        ValueError: the files are damaged, or the model has code of its own.
    """
    if Path(folder).is_dir():
        require_folder(Path(folder))
    with _in_one_sentence(folder, "the model"):
        # Mismatches are told by the caller, in one line.
        return kind.from_pretrained(
            folder,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            **options,
        )


def open_generation(folder: str | Path) -> GenerationConfig:
    """How a model of this folder is made to write.

    Raises:
        ValueError: generation_config.json is damaged.
    """
    with _in_one_sentence(folder, "the generation_config.json"):
        return GenerationConfig.from_pretrained(folder)


def filled(
    kind: Any,
    config: PreTrainedConfig,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    dtype: torch.dtype,
    **options: Any,
) -> Any:
    """A model of tensors that were compared with its configuration before; messages call it `source`."""
    # Built on no device and filled afterwards, it would lack tables that are not saved: transformers knows.
    model = kind.from_pretrained(None, config=config, state_dict=dict(tensors), dtype=dtype, **options)
    model.name_or_path = source
    return model.eval()


def _require_all(model: Any, info: Mapping[str, Any], source: str, class_name: str) -> None:
    # Older checkpoints lack tables of whole numbers, which are made anew.
    known = {name for name, value in model.state_dict().items() if value.is_floating_point()}
    missing = sorted(known.intersection(info["missing_keys"]))
    more = sorted(info["unexpected_keys"])
    if missing:
        inside = next((name.removesuffix(missing[0]) for name in more if name.endswith(missing[0])), "")
        prefix = f"its names begin with {inside!r}, which is another model around it; " if inside else ""
        raise ValueError(
            f"{source!r} lacks {len(missing)} of {len(known)} weights ({_first(missing)}): they would be "
            f"random; {prefix}download it again, or name a checkpoint of the class {class_name}"
        )
    layers = {re.sub(r"\d+", "#", name) for name in known}
    left_out = [name for name in more if re.search(r"\d", name) and re.sub(r"\d+", "#", name) in layers]
    if left_out:
        raise ValueError(
            f"{source!r} holds {len(left_out)} weights of layers that its config.json does not count "
            f"({_first(left_out)}); the two are not of one model"
        )


def require_finite(model: torch.nn.Module, source: str) -> None:
    """Refuse weights that are not numbers.

    Raises:
        ValueError: some are infinite or not a number; they are named.
    """
    ends = {
        name: torch.stack(value.detach().aminmax())
        for name, value in model.named_parameters()
        if value.is_floating_point() and value.itemsize > 1 and value.numel()
    }
    if not ends:
        return
    # One answer for all: each would be a wait for the device.
    finite = torch.stack([each.isfinite().all() for each in ends.values()]).tolist()
    wrong = [name for name, good in zip(ends, finite, strict=True) if not good]
    if wrong:
        raise ValueError(
            f"{len(wrong)} weights of {source!r} are not finite ({_first(wrong)}); download it again, or go "
            "back to an earlier checkpoint"
        )


def _first(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


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
    words = open_tokenizer(AutoTokenizer, folder)
    require_fitting(words, rows=rows, ends=ends, source=str(folder))
    return words


def open_tokenizer(kind: Any, folder: str | Path, **options: Any) -> PreTrainedTokenizerBase:
    """A tokenizer of this class, compared with no model.

    Raises:
        ValueError: its files are damaged, or it has code of its own.
    """
    if Path(folder).is_dir():
        require_folder(Path(folder))
    # The class itself reads tokenizer.json and takes no such option.
    own = {} if kind is PreTrainedTokenizerFast else {"trust_remote_code": False}
    with _in_one_sentence(folder, "the tokenizer"):
        return cast("PreTrainedTokenizerBase", kind.from_pretrained(folder, **own, **options))


def open_images(kind: Any, folder: str | Path) -> Any:
    """The image processor of a folder, of this class.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    with _in_one_sentence(folder, "the image processor"):
        return kind.from_pretrained(folder)


def open_processor(folder: str | Path, config: Any) -> Any:
    """The processor of a model with this configuration, of whatever class it names.

    Where the libraries for videos are missing, it is opened without that part.

    Raises:
        ValueError: there is none, it is damaged, needs a library that is missing, or has code of its own.
    """
    with _in_one_sentence(folder, "the processor"):
        processor = _processor(folder)
    held = vars(processor)
    if "patch_size" in held and held["patch_size"] is None and "vision_config" in config.to_dict():
        # Older folders leave to the model how many places an image takes.
        told = config.to_dict()
        processor.patch_size = told["vision_config"].get("patch_size")
        processor.vision_feature_select_strategy = told.get("vision_feature_select_strategy", "default")
        if "clip" in told["vision_config"].get("model_type", ""):
            processor.num_additional_image_tokens = 1
    return processor


def _processor(folder: str | Path) -> Any:
    try:
        return AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except ImportError:
        with videos_left_out():
            return AutoProcessor.from_pretrained(folder, trust_remote_code=False)


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
    if wanted and len(known) < _FULL * rows and not wanted & {words.eos_token_id, words.sep_token_id}:
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


class _Told(ValueError):  # noqa: N818
    """A sentence already."""


@contextmanager
def _in_one_sentence(folder: str | Path, part: str) -> Iterator[None]:
    """The boundary: what goes wrong in the libraries below names the model and the part.

    They raise whatever they like for a damaged folder (`Exception` itself, IndexError, TypeError, errors of
    their own), so all of it is caught, here and nowhere else.
    """
    try:
        yield
    except (_Told, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise _sentence(error, str(folder), part) from error


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
            f"spelling, or fetch it where there is a connection (`hf download {source}`) and set "
            "HF_HUB_OFFLINE=1"
        )
    return ValueError(
        f"{part} of {source!r} cannot be opened ({line}); compare its files with those of the model's page, "
        "or download it again"
    )
