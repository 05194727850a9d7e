"""A captioner's trained adapters as a folder that peft loads without sightloop, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sightloop.models.atomic_files import atomic_write
from sightloop.models.captioners.adapted import AdaptedCaptioner
from sightloop.models.lora import is_transposed
from sightloop.models.open import read_tensors
from sightloop.models.protocols import Card, sees_whole
from sightloop.models.weight_files import refuse_problems
from sightloop.text_files import form_of, read_json

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NOT_PLAIN = ("use_rslora", "use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save")


@dataclass(frozen=True, kw_only=True)
class AdapterCard:
    """What the model card of adapters says."""

    run: Card
    prompt: str
    """What captions were drawn for in training."""
    decoding: Mapping[str, int]
    """Options of `generate` that the run was evaluated with."""


def export_adapter(
    captioner: AdaptedCaptioner, output: Path, *, base: str, card: AdapterCard | None = None
) -> None:
    """Write the adapters over `base` (folder or hub name) for `peft.PeftModel.from_pretrained`.

    Raises:
        ValueError: the output is in the way.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise ValueError(f"{output} is not empty; choose another folder")
    adapters = captioner.adapters
    rank = len(next(iter(adapters.down.values())))
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": adapters.scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(_paths(captioner).values()),
        # peft's word for layers of this kind, which GPT-2 has.
        "fan_in_fan_out": _has_transposed(captioner),
        "inference_mode": True,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _named(captioner).items()}
    with atomic_write(output) as partial:
        partial.mkdir(parents=True)
        (partial / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(tensors, partial / _WEIGHTS, metadata={"format": "pt"})
        if card is not None:
            (partial / "README.md").write_text(_card_text(captioner, base, card), encoding="utf-8")


def load_adapter(captioner: AdaptedCaptioner, folder: Path) -> None:
    """Put adapters from a peft folder into a captioner of the same rank, scale and layers.

    Raises:
        ValueError: the adapters do not fit; nothing is loaded then.
    """
    if not (folder / _CONFIG).is_file() or not (folder / _WEIGHTS).is_file():
        raise ValueError(f"{folder} is not an adapter folder; it needs {_CONFIG} and {_WEIGHTS}")
    config: dict[str, Any] = read_json(folder / _CONFIG)
    wanted, given = _named(captioner), read_tensors(folder / _WEIGHTS)
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} is unknown" for name in given if name not in wanted]
    problems += [f"{name} is not finite" for name, value in given.items() if not value.isfinite().all()]
    problems += [
        f"{name} is {tuple(given[name].shape)}, the captioner wants {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    with form_of(str(folder / _CONFIG)):
        scale = float(config["lora_alpha"]) / int(config["r"])
    if scale != captioner.adapters.scale:
        problems.append(f"alpha / rank is {scale:g}, the captioner has {captioner.adapters.scale:g}")
    # They change the numbers without changing a name.
    problems += [f"{name} is on" for name in _not_plain(config, captioner)]
    refuse_problems(f"{folder} does not fit the captioner", problems)
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(given[name])


@torch.no_grad()
def merge_folder(captioner: AdaptedCaptioner, folder: Path) -> None:
    """Add the adapters of a peft folder to the weights that they adapt.

    Raises:
        ValueError: they are no plain low-rank adapters, or of another model; nothing is changed then.
    """
    config, given = read_json(folder / _CONFIG), read_tensors(folder / _WEIGHTS)
    layers = {f"{_PREFIX}{path}": part for path, part in captioner.model.named_modules()}
    ends = (".lora_A.weight", ".lora_B.weight")
    names = {name.removesuffix(end) for name in given for end in ends if name.endswith(end)}
    problems = [f"{name} is no low-rank adapter" for name in given if not name.endswith(ends)]
    problems += [f"{name} is unknown" for name in sorted(names - layers.keys())]
    problems += [f"{name} is not finite" for name, value in given.items() if not value.isfinite().all()]
    problems += [f"{name} is on" for name in _not_plain(config, captioner)]
    for name in sorted(names & layers.keys()):
        down, up = (given.get(f"{name}{end}") for end in ends)
        shape = None if down is None or up is None else (up.shape[0], down.shape[1])
        weight = layers[name].get_parameter("weight")
        wanted = tuple((weight.T if is_transposed(layers[name]) else weight).shape)
        problems += [f"{name} changes {shape}, the model has {wanted}"] if shape != wanted else []
    refuse_problems(f"{folder} does not fit {captioner.model.name_or_path!r}", problems)
    with form_of(str(folder / "adapter_config.json")):
        scale = config["lora_alpha"] / config["r"]
    for name in names:
        weight = layers[name].get_parameter("weight")
        down, up = (given[f"{name}{end}"].to(weight.device).double() for end in ends)
        # What is lost is one rounding to the weights' own precision.
        change = scale * up @ down
        weight.copy_(weight.double() + (change.T if is_transposed(layers[name]) else change))


def _has_transposed(captioner: AdaptedCaptioner) -> bool:
    return any(map(is_transposed, captioner.trunk_linears().values()))


def _not_plain(config: Mapping[str, Any], captioner: AdaptedCaptioner) -> list[str]:
    """Settings of peft that change the numbers."""
    known = {"fan_in_fan_out"} if _has_transposed(captioner) else set[str]()
    return [name for name in _NOT_PLAIN if config.get(name) and name not in known]


def _paths(captioner: AdaptedCaptioner) -> dict[str, str]:
    """Where each adapted layer lies in the whole model."""
    linears = captioner.trunk_linears()
    names = {id(linears[key.replace("/", ".")]): key for key in captioner.adapters.down}
    return {names[id(part)]: path for path, part in captioner.model.named_modules() if id(part) in names}


def _named(captioner: AdaptedCaptioner) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for key, path in _paths(captioner).items():
        named[f"{_PREFIX}{path}.lora_A.weight"] = captioner.adapters.down[key]
        named[f"{_PREFIX}{path}.lora_B.weight"] = captioner.adapters.up[key]
    return named


def _card_text(captioner: AdaptedCaptioner, base: str, card: AdapterCard) -> str:
    run = card.run
    size = captioner.image_size
    seen = "an RGB image" if sees_whole(captioner) else f"a square RGB image of {size} pixels"
    head = run.head("library_name: peft", "pipeline_tag: image-text-to-text")
    lines = [
        *head,
        "tags: [image-captioning, reinforcement-learning, lora, vlrm, sightloop]",
        "---",
        "",
        "# Adapters of a captioner trained by what a judge sees",
        "",
        f"Low-rank adapters for {run.linked_base} after {run.steps} steps of training with sightloop on",
        "the judgment of a frozen image-text matcher and text rules, without reference captions",
        "(VLRM, [arXiv 2404.01911](https://arxiv.org/abs/2404.01911)).",
        "",
        *run.table("held-out figure"),
        "```python",
        *captioner.usage(run.published_base or base, card.prompt, card.decoding),
        "```",
        "",
        f"`image` is {seen}, as in training. Captions may",
        "name things that are not there; check before relying on them. The base model's license applies too.",
    ]
    return "\n".join(lines) + "\n"
