"""What the command `export` does: a run's model for those who do not have sightloop, as its family writes
it."""

from __future__ import annotations

from sightloop.text_files import form_of, read_json

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from sightloop.models.atomic_files import atomic_write
from sightloop.models.families import CaptionerFamily, GeneratorFamily
from sightloop.models.precision import DTYPES
from sightloop.models.protocols import Card, Export, Usage
from sightloop.models.weight_files import refuse_filled
from sightloop.recipes.unirl.config import GrpoConfig
from sightloop.recipes.inputs import settings_of_run
from sightloop.runs.restore import Restored, family_of, restore, start_folder

_CAPTIONS = {name: name for name in ("recall@1", "recall@5", "mrr", "precision", "told", "length")}
_BOTH_SIDES = {
    "drawn": "drawn right",
    "answered": "answered right about its own drawings",
    "answered_if_drawn": "the same, of those drawn right",
    "answered_fixed": "answered right about images not its own",
    "imbalance": "right on one side only",
}
"""Metrics of a model card by what it calls them."""


def export_run(
    run: Path,
    output: Path,
    *,
    form: Literal["folder", "tensors"],
    step: str,
    dtype: Literal["float16", "bfloat16", "float32"],
    license_name: str,
) -> None:
    """Write a run's model with a model card: BLIP-2 as a plain folder or as VLRM's 257 tensors, any other
    captioner as adapters for peft, an image generator as a folder of its family.

    Raises:
        ValueError: no such run or checkpoint, a form that the model does not have, an output that is in the
            way, or a weight that is too large for `dtype`.
    """
    recipe, config = settings_of_run(run)
    row = family_of(config)
    if isinstance(row, GeneratorFamily):
        if form == "tensors":
            raise ValueError(f"{run} is a run of {recipe}; VLRM's tensors are BLIP-2's, use --form folder")
        return _export_generator(
            run, row, output, step=step, dtype=DTYPES[dtype], license_name=license_name
        )
    assert isinstance(row, CaptionerFamily)
    if row.export is None:
        raise ValueError(_cannot(run, row.title, "export"))
    restored = restore(run, step, device=torch.device("cpu"))
    wanted = Export(
        run=run,
        form=form,
        dtype=DTYPES[dtype],
        card=_card(run, restored, "held_out", _CAPTIONS, license_name),
        prompt=restored.config.draw.prompt,
        decoding=_decoding(restored),
    )
    row.export(restored.policy, output, wanted)


def _export_generator(
    run: Path, row: GeneratorFamily, output: Path, *, step: str, dtype: torch.dtype, license_name: str
) -> None:
    if row.write is None:
        raise ValueError(_cannot(run, row.title, "write"))
    refuse_filled(output)
    restored = restore(run, step, device=torch.device("cpu"), dtype="float32")
    card = _card(run, restored, "joint", _BOTH_SIDES, license_name)
    method = "GRPO" if isinstance(restored.config, GrpoConfig) else "supervised training"
    with atomic_write(output) as partial:
        usage = row.write(restored.policy, partial, dtype=dtype, start=start_folder(restored.config))
        text = _card_text(card, family=row.title, method=method, usage=usage)
        (partial / "README.md").write_text(text, encoding="utf-8")


def _cannot(run: Path, title: str, function: str) -> str:
    return (
        f"{run}: models of the family {title} cannot be exported; give its row of models/families.py a "
        f"function `{function}`"
    )


def _decoding(restored: Restored) -> dict[str, int]:
    held_out = restored.config.held_out
    return {
        "num_beams": held_out.beams,
        "no_repeat_ngram_size": held_out.no_repeat_ngram,
        "min_new_tokens": held_out.min_tokens,
        "max_new_tokens": held_out.max_tokens,
    }


def _card(
    run: Path, restored: Restored, evaluation: str, called: Mapping[str, str], license_name: str
) -> Card:
    before, after = (_metrics(run, evaluation, step) for step in (0, restored.step))
    return Card(
        base=restored.base,
        steps=restored.step,
        metrics={
            title: (before[name], after[name])
            for name, title in called.items()
            if name in before and name in after
        },
        license_name=license_name,
    )


def _metrics(run: Path, evaluation: str, step: int) -> Mapping[str, float]:
    path = run / "evaluations" / f"{evaluation}_step_{step:06d}.json"
    if not path.is_file():
        return {}
    with form_of(str(path)):
        return read_json(path)["metrics"]


def _card_text(card: Card, *, family: str, method: str, usage: Usage) -> str:
    """The model card of an image generator as Markdown with the hub's header."""
    head = ["---", f"library_name: {usage.library}", "pipeline_tag: any-to-any", "language: en"]
    head += [f"license: {card.license_name}"] if card.license_name else []
    rows = [f"| {name} | {before:.3f} | {after:.3f} |" for name, (before, after) in card.metrics.items()]
    table = ["| share of the evaluation | before | after |", "|---|--:|--:|", *rows, ""] if rows else []
    name = Path(card.base).name if Path(card.base).exists() else card.base
    lines = [
        *head,
        "tags: [text-to-image, visual-question-answering, reinforcement-learning, unirl, sightloop]",
        "---",
        "",
        f"# A {family} that was trained on what it saw in its own drawings",
        "",
        f"`{name}` after {card.steps} steps of UniRL ([arXiv 2505.23380](https://arxiv.org/abs/2505.23380))",
        f"by {method} with sightloop: the model draws a prompt, is asked about the drawing, and learns",
        "from its answers. There were no images to learn from. Adapters, if any were trained, are merged",
        "into the weights; what codes and decodes images is that of the base.",
        "",
        *table,
        *usage.lines,
        "",
        "A model that grades itself may come to flatter itself: compare the rows about its own drawings and",
        "about other images. The license of the base model applies as well.",
    ]
    return "\n".join(lines) + "\n"
