"""What the command `export` does with a run whose model draws and answers: a whole folder of its family."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sightloop.models.weight_files import read_json, refuse_filled
from sightloop.models.captioners.vlrm_checkpoint import Card
from sightloop.models.weight_files import refuse_problems
from sightloop.models.atomic_files import atomic_write
from sightloop.models.janus.policy import Janus
from sightloop.models.janus.checkpoint import write_janus
from sightloop.models.merging import merge_adapters
from sightloop.models.prompt_strings import QUESTION_PLACE
from sightloop.models.show_o.policy import ShowO
from sightloop.models.show_o.checkpoint import ShowOSizes, ShowOWeights, write_show_o
from sightloop.models.show_o.layout import SPECIAL_TOKENS, SYSTEM_PROMPT
from sightloop.runs.export import export_run
from sightloop.models.precision import DTYPES
from sightloop.runs.restore import recipe_and_config
from sightloop.runs.restore_image import restore_image_policy
from sightloop.recipes.image_policies import world_folder
from sightloop.recipes.unirl.config import GrpoConfig, UniConfig

_TOLD = {
    "drawn": "drawn right",
    "answered": "answered right about its own drawings",
    "answered_if_drawn": "the same, of those drawn right",
    "answered_fixed": "answered right about pictures not its own",
    "imbalance": "right on one side only",
}


@dataclass(frozen=True, kw_only=True)
class ImageCard:
    """What the model card of a model that draws and answers says."""

    told: Card
    family: str
    method: str
    reads_tower: bool


def export_any_run(
    run: Path,
    output: Path,
    *,
    form: Literal["folder", "tensors"],
    step: str,
    dtype: Literal["float16", "bfloat16", "float32"],
    license_name: str,
) -> None:
    """Write a run's model, of whatever kind it is.

    Raises:
        ValueError: as for `export_run` and `export_image_run`.
    """
    recipe, config = recipe_and_config(run)
    if not isinstance(config, UniConfig):
        return export_run(run, output, form=form, step=step, dtype=dtype, license_name=license_name)
    if form == "tensors":
        raise ValueError(f"{run} is a run of {recipe}; VLRM's tensors are BLIP-2's, use --form folder")
    export_image_run(run, output, step=step, dtype=DTYPES[dtype], license_name=license_name)


def export_image_run(run: Path, output: Path, *, step: str, dtype: torch.dtype, license_name: str) -> None:
    """Write a run's model as a folder of its family, adapters merged, with a model card.

    Show-o is written as `load_show_o` and `sightloop draw` read it, its language model as transformers'
    `PhiForCausalLM`; Janus as transformers' `JanusForConditionalGeneration` and `AutoProcessor` read it.

    Raises:
        ValueError: no such run or checkpoint, an output that is in the way, or a weight that is too large for
            `dtype`.
    """
    refuse_filled(output)
    restored = restore_image_policy(run, step, device=torch.device("cpu"))
    policy, config = restored.policy, restored.config
    if policy.adapters is not None:
        trunk = policy.model.model if isinstance(policy, ShowO) else policy.model.model.language_model
        merge_adapters(policy.adapters, trunk)
    model: Any = policy.model
    model.to(dtype)
    told = Card(
        base=restored.start,
        steps=restored.step,
        figures=_figures(run, restored.step),
        license_name=license_name,
    )
    card = ImageCard(
        told=told,
        family="Show-o" if isinstance(policy, ShowO) else "Janus",
        method="GRPO" if isinstance(config, GrpoConfig) else "supervised training",
        reads_tower=isinstance(policy, ShowO) and policy.vision is not None,
    )
    with atomic_write(output) as partial:
        _write(policy, config, partial, dtype)
        (partial / "README.md").write_text(card_text(card), encoding="utf-8")


def _write(policy: ShowO | Janus, config: UniConfig, folder: Path, dtype: torch.dtype) -> None:
    if isinstance(policy, Janus):
        _refuse_spoiled(policy.model, dtype)
        return write_janus(policy.model, folder, tokenizer=policy.words, strings=policy.prompts.strings)
    projector = None if policy.vision is None else policy.vision.projector.to(dtype)
    weights = ShowOWeights(model=policy.model, projector=projector, sizes=_sizes(policy, config))
    _refuse_spoiled(policy.model, dtype)
    write_show_o(
        weights, folder, tokenizer=policy.tokenizer, magvit=policy.magvit, strings=_own_strings(policy)
    )


def _own_strings(policy: ShowO) -> dict[str, str]:
    """What the policy reads around questions, where it is not the authors'."""
    own = (
        {}
        if policy.settings.question_template is None
        else {"question_template": policy.asking.shown(QUESTION_PLACE)}
    )
    if policy.vision is not None and policy.vision.system_prompt != SYSTEM_PROMPT:
        own["system_prompt"] = policy.vision.system_prompt
    return own


def _sizes(policy: ShowO, config: UniConfig) -> ShowOSizes:
    start = Path(config.policy) if config.policy else world_folder(config.world_model)
    told = read_json(start / "config.json")
    origin = told.get("language_model") or told.get("llm_model_path") or ShowOSizes.language_model
    return ShowOSizes(
        num_image_tokens=policy.num_image_tokens,
        num_text=len(policy.tokenizer) - len(SPECIAL_TOKENS),
        num_codes=policy.magvit.num_codes,
        max_text_tokens=policy.settings.max_text_tokens,
        language_model=origin,
    )


def _refuse_spoiled(model: nn.Module, dtype: torch.dtype) -> None:
    spoiled = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    refuse_problems(f"not finite in {dtype}; choose another dtype", spoiled)


def _figures(run: Path, step: int) -> dict[str, tuple[float, float]]:
    before, after = _metrics(run, 0), _metrics(run, step)
    return {
        told: (before[name], after[name]) for name, told in _TOLD.items() if name in before and name in after
    }


def _metrics(run: Path, step: int) -> Mapping[str, float]:
    path = run / "evaluations" / f"both_sides_step_{step:06d}.json"
    return json.loads(path.read_text(encoding="utf-8"))["metrics"] if path.is_file() else {}


def card_text(card: ImageCard) -> str:
    """The model card as Markdown with the hub's header."""
    told = card.told
    is_janus = card.family == "Janus"
    head = ["---", f"library_name: {'transformers' if is_janus else 'sightloop'}"]
    head += ["pipeline_tag: any-to-any", "language: en"]
    head += [f"license: {told.license_name}"] if told.license_name else []
    rows = [f"| {name} | {before:.3f} | {after:.3f} |" for name, (before, after) in told.figures.items()]
    table = ["| share of the evaluation | before | after |", "|---|--:|--:|", *rows, ""] if rows else []
    name = Path(told.base).name if Path(told.base).exists() else told.base
    lines = [
        *head,
        "tags: [text-to-image, visual-question-answering, reinforcement-learning, unirl, sightloop]",
        "---",
        "",
        f"# A {card.family} that was trained on what it saw in its own drawings",
        "",
        f"`{name}` after {told.steps} steps of UniRL ([arXiv 2505.23380](https://arxiv.org/abs/2505.23380))",
        f"by {card.method} with sightloop: the model draws a prompt, is asked about the drawing, and learns",
        "from its answers. There were no pictures to learn from. Adapters, if any were trained, are merged",
        "into the weights; what codes and decodes pictures is that of the base.",
        "",
        *table,
        *(_JANUS_USE if is_janus else _SHOW_O_USE),
        *(_TOWER_NOTE if card.reads_tower else []),
        "",
        "A model that grades itself may come to flatter itself: compare the rows about its own drawings and",
        "about other pictures. The licence of the base model applies as well.",
    ]
    return "\n".join(lines) + "\n"


_JANUS_USE = [
    "```python",
    "from transformers import AutoProcessor, JanusForConditionalGeneration",
    "",
    'model = JanusForConditionalGeneration.from_pretrained("FOLDER")',
    'processor = AutoProcessor.from_pretrained("FOLDER")',
    'told = [{"role": "user", "content": [{"type": "text", "text": "a photo of a dog"}]}]',
    "prompt = processor.apply_chat_template(told, add_generation_prompt=True)",
    'inputs = processor(text=prompt, generation_mode="image", return_tensors="pt")',
    'codes = model.generate(**inputs, generation_mode="image", do_sample=True)',
    "picture = model.decode_image_tokens(codes)",
    "```",
]
_SHOW_O_USE = [
    "```sh",
    'sightloop draw "a photo of a dog" --model FOLDER',
    'sightloop ask drawings/0001.png "What is in the picture?" --model FOLDER',
    "```",
    "",
    "`sightloop convert show-o FOLDER OUTPUT --to official` writes the form that the authors' code reads.",
    "The language model alone (`FOLDER/language_model`) is transformers' `PhiForCausalLM`.",
]
_TOWER_NOTE = ["", "It reads features of a CLIP tower, which is not in this folder: name it with `--tower`."]
