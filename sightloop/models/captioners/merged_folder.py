"""A captioner with its trained adapters in its weights, as a plain folder that transformers loads."""

from __future__ import annotations

import shutil
from pathlib import Path

from sightloop.models.atomic_files import atomic_write
from sightloop.models.captioners.adapted import AdaptedCaptioner
from sightloop.models.captioners.vlrm_checkpoint import cast_to, plain_names, write_config
from sightloop.models.merging import merge_adapters
from sightloop.models.open import local_folder
from sightloop.models.protocols import Export
from sightloop.models.weight_files import refuse_filled, refuse_problems

_BESIDE = (".json", ".txt", ".jinja", ".model")
"""What tokenizers and processors are read from."""
_OF_WEIGHTS = ("config.json", "generation_config.json")
_SHARD = "2GB"


def export_merged(captioner: AdaptedCaptioner, output: Path, wanted: Export, *, base: str) -> None:
    """Merge the adapters into the captioner's weights, and write all of it; texts are prepared as by `base`.

    Raises:
        ValueError: the output is in the way, or a weight is too large for the precision.
    """
    refuse_filled(output)
    merge_adapters(captioner.adapters, captioner.trunk)
    state = cast_to(captioner.model.state_dict(), wanted.dtype)
    problems = sorted(set(state) - plain_names(captioner.model))
    refuse_problems("the model has parts that transformers does not know", problems)
    with atomic_write(output) as partial:
        partial.mkdir(parents=True)
        captioner.model.save_pretrained(partial, state_dict=state, max_shard_size=_SHARD)
        write_config(captioner, partial / "config.json", wanted.dtype)
        _copy_texts(local_folder(base, weights=False), partial)
        (partial / "README.md").write_text(_card_text(captioner, wanted), encoding="utf-8")


def _copy_texts(base: Path, folder: Path) -> None:
    for file in sorted(base.rglob("*")):
        name = file.relative_to(base)
        about_weights = file.name.endswith(".index.json") or str(name) in _OF_WEIGHTS
        hidden = any(part.startswith(".") for part in name.parts)
        if file.is_file() and file.suffix in _BESIDE and not about_weights and not hidden:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / name)


def _card_text(captioner: AdaptedCaptioner, wanted: Export) -> str:
    run = wanted.card
    # The same lines as for adapters, which are in the weights here.
    lines = [
        "model = plain" if "PeftModel.from_pretrained" in line else line
        for line in captioner.usage("FOLDER", wanted.prompt, wanted.decoding)
        if line != "from peft import PeftModel"
    ]
    card = [
        *run.head("library_name: transformers", "pipeline_tag: image-to-text"),
        "tags: [image-captioning, reinforcement-learning, vlrm, sightloop]",
        "---",
        "",
        "# A captioner trained by what a judge sees",
        "",
        f"{run.linked_base} after {run.steps} steps of training with sightloop on the judgment of a frozen",
        "image-text matcher and text rules, without reference captions",
        "(VLRM, [arXiv 2404.01911](https://arxiv.org/abs/2404.01911)). Low-rank adapters of its language",
        "model were trained, and are merged into the weights.",
        "",
        *run.table("held-out figure"),
        "```python",
        *lines,
        "```",
        "",
        f"`image` is a square RGB image of {captioner.image_size} pixels, as in training. Captions may",
        "name things that are not there; check before relying on them. The base model's license applies too.",
    ]
    return "\n".join(card) + "\n"
