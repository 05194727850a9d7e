"""Trained captioners in and out: VLRM's published forms, and plain transformers folders.

VLRM's authors published 257 tensors (query tokens, Q-Former, language projection) in half precision, and a
full sharded model. Everything written here appears under its final name only when it is complete, and nothing
is loaded unless all of it fits.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Blip2Config, Blip2ForConditionalGeneration

from sightloop.models.atomic_files import atomic_write
from sightloop.models.captioners.blip2 import BLIP2, Blip2Captioner, Bridge
from sightloop.models.captioners.encoder_decoder import QUERY_WORDS, EncoderDecoderCaptioner
from sightloop.models.open import open_model, read_tensors
from sightloop.models.protocols import Card
from sightloop.models.transformers_internals import file_of
from sightloop.models.weight_files import refuse_problems
from sightloop.text_files import read_json

BRIDGE_PREFIXES = ("query_tokens", "qformer.", "language_projection.")
_SHARD = "2GB"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
_IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "chat_template.jinja")


# -- in


def load_vlrm(model: Blip2ForConditionalGeneration, path: Path) -> None:
    """Put published weights into a BLIP-2 model: the 257 tensors (.pt, .safetensors), or a full folder.

    Raises:
        ValueError: tensors are missing, unknown, of another shape or not finite, or a file cannot be read;
            nothing is loaded then.
    """
    wanted = Bridge(model).state_dict()
    given = _read_folder(path) if path.is_dir() else _read(path)
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} is unknown" for name in given if name not in wanted]
    for name in (name for name in wanted if name in given):
        if given[name].shape != wanted[name].shape:
            shapes = tuple(given[name].shape), tuple(wanted[name].shape)
            problems.append(f"{name} is {shapes[0]}, the model wants {shapes[1]}")
        elif not given[name].isfinite().all():
            problems.append(f"{name} is not finite")
    refuse_problems(f"{path} does not fit the model", problems)
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(given[name])


def load_published(
    folder: Path, base: Path | str = "", *, dtype: torch.dtype = torch.float32
) -> Blip2Captioner:
    """A full published VLRM folder; words and image preparation are those of `base` if it is given.

    The published configuration predates `image_token_index`, without which current transformers fails; it is
    filled in as current processors number that token.

    Raises:
        ValueError: it is not a whole BLIP-2 captioner, or no number is left for the image token.
    """
    found = open_model(folder, BLIP2, dtype=dtype, beside=base)
    if found.model.config.image_token_index is None:
        found.model.config.image_token_index = _image_token(found.model.config, found.words)
    return Blip2Captioner(found.model, found.words, found.images)


def _image_token(config: Blip2Config, tokenizer: Any) -> int:
    known = tokenizer.get_vocab().get("<image>")
    token = len(tokenizer) if known is None else known
    text: Any = config.text_config
    if token >= text.vocab_size:
        raise ValueError(
            f"the configuration has no image_token_index, and token {token} is beyond the vocabulary of "
            f"{text.vocab_size}; set image_token_index in config.json"
        )
    return token


def _read_folder(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        raise ValueError(f"{folder} holds no .safetensors and no .bin file")
    return {name: tensor for file in files for name, tensor in _read(file, BRIDGE_PREFIXES).items()}


def _read(file: Path, prefixes: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """The tensors of a file whose names start with one of the prefixes."""
    if not file.is_file():
        raise ValueError(f"{file} does not exist; give the published .pt file or the folder of its shards")
    return read_tensors(file, prefixes=prefixes)


# -- out


def export_tensors(
    captioner: Blip2Captioner | EncoderDecoderCaptioner, path: Path, *, dtype: torch.dtype = torch.float16
) -> None:
    """Write query tokens, Q-Former and projection under their published names; .pt or .safetensors.

    Raises:
        ValueError: another ending, or a weight too large for `dtype`.
    """
    if path.suffix not in {".pt", ".safetensors"}:
        raise ValueError(f"{path} must end in .pt or .safetensors")
    tensors = cast_to(captioner.trainable_module().state_dict(), dtype)
    with atomic_write(path) as partial:
        if path.suffix == ".pt":
            torch.save(tensors, partial)
        else:
            save_file(tensors, partial)


def export_folder(
    captioner: Blip2Captioner | EncoderDecoderCaptioner,
    output: Path,
    *,
    base: str,
    card: Card,
    dtype: torch.dtype = torch.float16,
    shard: str = _SHARD,
) -> None:
    """Write a folder that transformers' `from_pretrained` loads without sightloop.

    The processor's files are those of `base`, a folder or a name on the hub.

    Raises:
        ValueError: the output is in the way, or a weight is too large for `dtype`.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise ValueError(f"{output} is not empty; choose another folder")
    state = cast_to(captioner.model.state_dict(), dtype)
    problems = sorted(set(state) - plain_names(captioner.model))
    refuse_problems("the model has parts that transformers does not know", problems)
    with atomic_write(output) as partial:
        partial.mkdir(parents=True)
        captioner.model.save_pretrained(partial, state_dict=state, max_shard_size=shard)
        write_config(captioner, partial / "config.json", dtype)
        _write_processor(captioner, partial, base)
        (partial / "README.md").write_text(card_text(card, type(captioner.model).__name__), encoding="utf-8")


def plain_names(model: Any) -> set[str]:
    """The names of the tensors that transformers' own class has."""
    with torch.device("meta"):
        return set(type(model)(model.config).state_dict())


def cast_to(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The same tensors in `dtype`; tensors that share memory still do.

    Raises:
        ValueError: a weight is too large for it.
    """
    made: dict[tuple[int, torch.Size], Tensor] = {}
    for tensor in tensors.values():
        key = (tensor.data_ptr(), tensor.shape)
        if key not in made:
            made[key] = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
    cast = {name: made[tensor.data_ptr(), tensor.shape] for name, tensor in tensors.items()}
    spoiled = [name for name, tensor in cast.items() if not tensor.isfinite().all()]
    refuse_problems(f"not finite in {dtype}; choose another dtype", spoiled)
    return cast


def write_config(captioner: Any, file: Path, dtype: torch.dtype) -> None:
    """Correct a config.json that was just written: the precision of the weights, and the image token."""

    def corrected(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        # transformers states the precision of the first weight in memory, which is a trained one.
        return {k: str(dtype).split(".")[1] if k == "dtype" else corrected(v) for k, v in value.items()}

    config = corrected(read_json(file))
    if isinstance(captioner, Blip2Captioner) and config.get("image_token_index") is None:
        config["image_token_index"] = _image_token(captioner.model.config, captioner.tokenizer)
    _write_json(file, config)


def _write_processor(captioner: Blip2Captioner | EncoderDecoderCaptioner, folder: Path, base: str) -> None:
    found = {name: file_of(base, name) for name in (*_TOKENIZER_FILES, *_IMAGE_PROCESSOR_FILES)}
    for name, source in found.items():
        if source is not None:
            shutil.copyfile(source, folder / name)
    if all(found[name] is None for name in _TOKENIZER_FILES):
        captioner.tokenizer.save_pretrained(folder)
    if all(found[name] is None for name in _IMAGE_PROCESSOR_FILES):
        captioner.image_processor.save_pretrained(folder)
    if isinstance(captioner, EncoderDecoderCaptioner) and captioner.query_words is not None:
        captioner.query_words.save_pretrained(folder / QUERY_WORDS)
    file = folder / "processor_config.json"
    settings = read_json(file) if file.exists() else {}
    if settings.get("num_query_tokens") is None:
        # Older folders lack it, and their processor then leaves the image out of the prompt.
        number = captioner.model.config.num_query_tokens
        name = type(captioner.model).__name__.replace("ForConditionalGeneration", "Processor")
        _write_json(file, settings | {"num_query_tokens": number, "processor_class": name})


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _title(class_name: str) -> str:
    return "An InstructBLIP" if class_name.startswith("InstructBlip") else "A BLIP-2"


def card_text(card: Card, class_name: str = "Blip2ForConditionalGeneration") -> str:
    """The model card as Markdown with the hub's header."""
    # The Q-Former of InstructBLIP reads the prompt.
    asked = ', text=""' if class_name.startswith("InstructBlip") else ""
    head = card.head("library_name: transformers", "pipeline_tag: image-to-text", "language: en")
    lines = [
        *head,
        "tags: [image-captioning, reinforcement-learning, vlrm, sightloop]",
        "---",
        "",
        f"# {_title(class_name)} captioner trained by what a judge sees",
        "",
        f"{card.linked_base} after {card.steps} steps of VLRM ([arXiv 2404.01911](https://arxiv.org/abs/2404.01911))",
        "with sightloop: query tokens, Q-Former and language projection were trained on the judgment of a",
        "frozen image-text matcher, a language model and text rules, without reference captions. Vision",
        "tower and language model are those of the base.",
        "",
        *card.table("held-out figure"),
        "```python",
        f"from transformers import AutoProcessor, {class_name}",
        "",
        f'model = {class_name}.from_pretrained("FOLDER")',
        'processor = AutoProcessor.from_pretrained("FOLDER")',
        f'inputs = processor(images=image{asked}, return_tensors="pt").to(model.dtype)',
        "ids = model.generate(",
        "    **inputs, num_beams=5, no_repeat_ngram_size=2, min_new_tokens=4, max_new_tokens=60",
        ")",
        "print(processor.batch_decode(ids, skip_special_tokens=True)[0].strip())",
        "```",
        "",
        "The decoding is the paper's. Captions are longer than the base model's and may name things that are",
        "not there; check before relying on them. The license of the base model applies as well.",
    ]
    return "\n".join(lines) + "\n"
