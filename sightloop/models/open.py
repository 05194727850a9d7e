"""The one function that opens models, with their tokenizers and processors, from folders or hub names.

transformers fills what a checkpoint lacks with random numbers, makes a tokenizer of two words where there are
no files of one, leaves layers out that a configuration does not count, and offers to run code that lies in a
model's folder. Here each of them is refused, and what goes wrong in the libraries below is one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from sightloop.models.downloads import (
    SentenceError,
    in_one_sentence,
    local_folder,
    read_saved,
    read_shapes,
    read_tensors,
    require_folder,
)
from sightloop.models.kinds import (
    KNOWN,
    MATCHER,
    is_blip2,
    is_captioner,
    is_classifier,
    is_matcher,
    kind_named,
    refuse_as,
    require_token_ids,
)
from sightloop.models.transformers_internals import exact_in, is_language_model, videos_left_out
from sightloop.process.long_work import at_work

__all__ = ["MATCHER", "is_blip2", "is_captioner", "is_classifier", "is_language_model", "is_matcher"]
__all__ += ["in_one_sentence", "local_folder", "read_saved", "read_shapes", "read_tensors", "refuse_as"]

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
_FULL = 0.9
"""Embeddings are padded by some rows, never by a tenth."""


@dataclass(frozen=True, kw_only=True)
class ModelRole:
    """What a model is opened as."""

    what: str
    """What messages call it."""
    fits: Callable[[Any], bool]
    """Whether a configuration is of one."""
    model: Any
    """Its class, of transformers or over one."""
    exact: tuple[str, ...] = ()
    """Parts that are read in float32, whatever the rest is read in."""
    text: Callable[[Any], Any] | None = None
    """The part of its configuration that a tokenizer must fit; None = it reads no text."""
    images: Any = None
    """The class of its image processor, where one is opened by itself."""
    has_processor: bool = False
    """Whether the folder says itself what prepares images, and texts if it reads any."""


LANGUAGE_MODEL = ModelRole(
    what="a language model",
    fits=is_language_model,
    model=AutoModelForCausalLM,
    text=lambda config: config.get_text_config(),
)


IMAGE_TO_TEXT = ModelRole(
    what="a captioner that reads images and writes text",
    fits=is_captioner,
    model=AutoModelForImageTextToText,
    text=lambda config: config.get_text_config(),
    has_processor=True,
)


@dataclass(frozen=True, kw_only=True)
class OpenedModel:
    """A whole model, frozen, with what prepares its inputs."""

    kind: str
    """transformers' name of its architecture."""
    name: str
    """The folder's or hub's; a path on this computer means nothing to others."""
    model: Any
    words: Any = None
    images: Any = None
    processor: Any = None


def open_model(
    folder: str | Path,
    *wanted: ModelRole,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    beside: str | Path = "",
) -> OpenedModel:
    """The model in a folder or of a hub name, as the first of `wanted` that fits it; frozen.

    `beside` is another folder for words and images.

    Raises:
        ValueError: it is something else, which is named with the options that take it; weights are missing,
            not finite, of other shapes or of more layers than the configuration wants; the tokenizer is
            another model's; files are damaged; the model has code of its own.
    """
    config, source = open_config(folder), beside or folder
    row = next((each for each in wanted if each.fits(config)), None)
    if row is None:
        refuse_as(config, " or ".join(dict.fromkeys(each.what for each in wanted)), str(folder))
    processor = open_processor(source, config) if row.has_processor else None
    if processor is not None and row.text is not None and not isinstance(processor, ProcessorMixin):
        raise ValueError(f"{str(folder)!r} has no processor for images and text (processor_config.json)")
    with at_work(f"loading {folder}"):
        model = _open_weights(row, folder, dtype, device)
    words = None if processor is None or row.text is None else cast("Any", processor).tokenizer
    if row.text is not None:
        text, generation = row.text(model.config), model.generation_config if model.can_generate() else None
        words = _open_words(source) if words is None else words
        require_fitting(words, [text, generation], rows=text.vocab_size, source=str(source))
        if words.eos_token is not None and (words.pad_token_id or 0) >= text.vocab_size:
            # Added by someone without a row for it; padding is masked, so that any token will do.
            words.pad_token = words.eos_token
    return OpenedModel(
        kind=config.model_type,
        name=Path(folder).name if Path(folder).is_dir() else str(folder),
        model=model,
        words=words,
        images=None if row.images is None else open_images(row.images, source),
        processor=processor,
    )


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
    with in_one_sentence(folder, "the config.json"):
        found, _ = PreTrainedConfig.get_config_dict(folder)
        kind = found.get("model_type")
        if "auto_map" not in found and (not isinstance(kind, str) or kind not in CONFIG_MAPPING):
            own = next((found[key] for key in ("family", "_class_name") if str(found.get(key)) in KNOWN), "")
            if own:
                what, takes = KNOWN[own]
                raise SentenceError(f"{str(folder)!r} is {what}, none of transformers' models; {takes}")
            raise SentenceError(
                f"{str(folder)!r} has a config.json without a model_type that transformers knows; name a "
                "model's folder"
            )
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def _open_weights(row: ModelRole, folder: str | Path, dtype: torch.dtype, device: torch.device | str) -> Any:
    kind = row.model
    # Of a class of other modules, transformers does not bring older names of weights up to date.
    own = {"__module__": kind.__module__}
    reader = exact_in(row.exact)(type(kind.__name__, (kind,), own)) if row.exact else kind
    with in_one_sentence(folder, "the model"):
        # Sizes that differ are told below, in one line.
        model, info = reader.from_pretrained(
            folder,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )
    if row.exact:
        # The name of the reader would end up in the configuration of an export.
        model.__class__ = kind
    for name, held, wanted in sorted(info["mismatched_keys"], key=str):
        raise ValueError(
            f"{str(folder)!r} holds {name} with the shape {tuple(held)}, its config.json wants "
            f"{tuple(wanted)}; the two are not of one model"
        )
    _require_all(model, info, str(folder), _class_name(type(model)))
    model = model.to(device).eval().requires_grad_(False)
    require_finite(model, str(folder))
    return model


def kind_of(folder: str | Path) -> tuple[str, str]:
    """What a folder or hub name holds by transformers' names, and which options take it.

    Raises:
        ValueError: as `open_config`.
    """
    return kind_named(open_config(folder))


def open_generation(folder: str | Path) -> GenerationConfig:
    """How a model of this folder is made to write.

    Raises:
        ValueError: generation_config.json is damaged.
    """
    with in_one_sentence(folder, "the generation_config.json"):
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


def _open_words(folder: str | Path) -> PreTrainedTokenizerBase:
    place = Path(folder)
    if place.is_dir() and not any((place / name).is_file() for name in _VOCABULARY_FILES):
        raise ValueError(
            f"{str(folder)!r} holds no tokenizer; copy the files of its model's page there "
            f"({', '.join(_VOCABULARY_FILES[:3])} or another)"
        )
    return open_tokenizer(AutoTokenizer, folder)


def open_tokenizer(kind: Any, folder: str | Path, **options: Any) -> PreTrainedTokenizerBase:
    """A tokenizer of this class, compared with no model.

    Raises:
        ValueError: its files are damaged, or it has code of its own.
    """
    if Path(folder).is_dir():
        require_folder(Path(folder))
    # The class itself reads tokenizer.json and takes no such option.
    own = {} if kind is PreTrainedTokenizerFast else {"trust_remote_code": False}
    with in_one_sentence(folder, "the tokenizer"):
        words = cast("PreTrainedTokenizerBase", kind.from_pretrained(folder, **own, **options))
        # Some settings are first looked at when it reads.
        words("a")
        return words


def open_images(kind: Any, folder: str | Path) -> Any:
    """The image processor of a folder, of this class.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    with in_one_sentence(folder, "the image processor"):
        return kind.from_pretrained(folder)


def open_processor(folder: str | Path, config: Any) -> Any:
    """The processor of a model with this configuration, of whatever class it names.

    Where the libraries for videos are missing, it is opened without that part.

    Raises:
        ValueError: there is none, it is damaged, needs a library that is missing, or has code of its own.
    """
    with in_one_sentence(folder, "the processor"):
        processor = _processor(folder)
    held = vars(processor)
    if "patch_size" in held and held["patch_size"] is None and "vision_config" in config.to_dict():
        # Older folders leave to the model how many places an image takes.
        fields = config.to_dict()
        processor.patch_size = fields["vision_config"].get("patch_size")
        processor.vision_feature_select_strategy = fields.get("vision_feature_select_strategy", "default")
        if "clip" in fields["vision_config"].get("model_type", ""):
            processor.num_additional_image_tokens = 1
    return processor


def _processor(folder: str | Path) -> Any:
    try:
        return AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except ImportError:
        with videos_left_out():
            return AutoProcessor.from_pretrained(folder, trust_remote_code=False)


def require_fitting(words: Any, configs: Iterable[Any], *, rows: int, source: str) -> None:
    """Refuse a tokenizer that is not the model's; `configs` name the model's end tokens, None names none.

    Raises:
        ValueError: it makes ids that the embedding has no row for, or it is much smaller than the embedding
            and ends its texts with another token than the configuration.
    """
    for config in configs:
        require_token_ids({} if config is None else config.to_dict(), source)
    known = words.get_vocab()
    beyond = {token: id for token, id in known.items() if id >= rows and token != words.pad_token}
    if beyond:
        token = min(beyond, key=lambda token: beyond[token])
        raise ValueError(
            f"the tokenizer of {source!r} has the token {token!r} with the number {beyond[token]}, the "
            f"model's embedding has {rows} rows; the two are not of one model"
        )
    ends = [config.to_dict().get("eos_token_id") for config in configs if config is not None]
    wanted = {id for given in ends for id in (given if isinstance(given, list) else [given])} - {None}
    if wanted and len(known) < _FULL * rows and not wanted & {words.eos_token_id, words.sep_token_id}:
        raise ValueError(
            f"the tokenizer of {source!r} has {len(known)} tokens, the model's embedding {rows} rows, and "
            "their end tokens differ; the two are not of one model"
        )


def _class_name(kind: Any) -> str:
    # Some are ours, over one of transformers.
    return next(each.__name__ for each in kind.__mro__ if each.__module__.startswith("transformers."))
