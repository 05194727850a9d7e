"""What the command `export` does: a run's model for those who do not have sightloop, as its family writes
it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from sightloop.evaluation.intervals import paired_difference
from sightloop.models.atomic_files import atomic_write
from sightloop.models.families import CaptionerFamily, GeneratorFamily
from sightloop.models.precision import DTYPES
from sightloop.models.protocols import Card, Export, Usage
from sightloop.models.weight_files import refuse_filled
from sightloop.recipes.captioner_runs import as_captions
from sightloop.recipes.inputs import settings_of_run
from sightloop.recipes.unirl.config import GrpoConfig
from sightloop.runs.restore import Restored, family_of, restore, start_folder
from sightloop.text_files import form_of, read_json, read_whole

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_CACHED = re.compile(r"/models--([^/]+?)--([^/]+)/snapshots/")
_TOLERANCE = 1e-3
"""An interval belongs to a figure only if its values average to it."""
_CAPTIONS = {name: name for name in ("recall@1", "recall@5", "mrr", "reward", "precision", "told", "length")}
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
    form: Literal["folder", "merged", "tensors"],
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
        return _export_generator(run, row, output, step=step, dtype=DTYPES[dtype], license_name=license_name)
    assert isinstance(row, CaptionerFamily)
    if row.export is None:
        raise ValueError(_cannot(run, row.title, "export"))
    restored = restore(run, step, device=torch.device("cpu"))
    wanted = Export(
        run=run,
        form=form,
        dtype=DTYPES[dtype],
        card=_card(run, restored, "held_out", _CAPTIONS, license_name),
        prompt=as_captions(restored.config).draw.prompt,
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
    held_out = as_captions(restored.config).held_out
    return {
        "num_beams": held_out.beams,
        "no_repeat_ngram_size": held_out.no_repeat_ngram,
        "min_new_tokens": held_out.min_tokens,
        "max_new_tokens": held_out.max_tokens,
    }


def _card(
    run: Path, restored: Restored, evaluation: str, called: Mapping[str, str], license_name: str
) -> Card:
    before, after = (_evaluation(run, evaluation, step) for step in (0, restored.step))
    metric_names = {
        title: name
        for name, title in called.items()
        if name in before["metrics"] and name in after["metrics"]
    }
    intervals = {title: _interval(before, after, name) for title, name in metric_names.items()}
    return Card(
        base=restored.base,
        hub_name=_hub_name(restored.base),
        steps=restored.step,
        metrics={
            title: (before["metrics"][name], after["metrics"][name]) for title, name in metric_names.items()
        },
        intervals={title: ends for title, ends in intervals.items() if ends is not None},
        protocol=str(after["protocol"].get("hash", "")),
        license_name=license_name or _license_of(restored.base),
    )


def _evaluation(run: Path, evaluation: str, step: int) -> Mapping[str, Any]:
    """What an evaluation of the run found at a step; nothing where there is none."""
    path = run / "evaluations" / f"{evaluation}_step_{step:06d}.json"
    found: dict[str, Any] = {"metrics": {}, "per_sample": {}, "samples": [], "protocol": {}}
    if not path.is_file():
        return found
    with form_of(str(path)):
        return found | {name: value for name, value in read_json(path).items() if name in found and value}


def _interval(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """The ends of the paired 95% interval of a change; None where the figure is no mean over the samples."""
    old, new = (np.array(each["per_sample"].get(name, []), dtype=float) for each in (before, after))
    if len(old) != len(new) or len(old) < 2 or not np.isfinite([*old, *new]).all():
        return None
    means = (before["metrics"][name], after["metrics"][name])
    if max(abs(old.mean() - means[0]), abs(new.mean() - means[1])) > _TOLERANCE:
        return None
    sources = [sample.get("source", "") for sample in before["samples"]]
    found = paired_difference(old, new, groups=sources if len(sources) == len(old) else None)
    return found.low, found.high


def _hub_name(base: str) -> str:
    """The hub's name of the model in a folder, by the folder or the cache that it is in; "" if unknown."""
    folder = Path(base)
    if not folder.exists():
        return ""
    if cached := _CACHED.search(os.path.realpath(folder)):
        return f"{cached[1]}/{cached[2]}"
    file = folder / "config.json"
    name = read_json(file).get("_name_or_path") if file.is_file() else None
    is_name = isinstance(name, str) and _HUB_NAME.fullmatch(name) and not Path(name).exists()
    return str(name) if is_name else ""


def _license_of(base: str) -> str:
    """The license in the header of a folder's model card; "" if it has none."""
    file = Path(base) / "README.md"
    text = read_whole(file).decode(errors="replace") if file.is_file() else ""
    header = text.split("---")[1:2]
    found = re.search(r"^license: *([\w.-]+) *$", "".join(header), re.MULTILINE)
    return found[1] if found else ""


def _card_text(card: Card, *, family: str, method: str, usage: Usage) -> str:
    """The model card of an image generator as Markdown with the hub's header."""
    head = card.head(f"library_name: {usage.library}", "pipeline_tag: any-to-any", "language: en")
    lines = [
        *head,
        "tags: [text-to-image, visual-question-answering, reinforcement-learning, unirl, sightloop]",
        "---",
        "",
        f"# A {family} that was trained on what it saw in its own drawings",
        "",
        f"{card.linked_base} after {card.steps} steps of UniRL ([arXiv 2505.23380](https://arxiv.org/abs/2505.23380))",
        f"by {method} with sightloop: the model draws a prompt, is asked about the drawing, and learns",
        "from its answers. There were no images to learn from. Adapters, if any were trained, are merged",
        "into the weights; what codes and decodes images is that of the base.",
        "",
        *card.table("share of the evaluation"),
        *usage.lines,
        "",
        "A model that grades itself may come to flatter itself: compare the rows about its own drawings and",
        "about other images. The license of the base model applies as well.",
    ]
    return "\n".join(lines) + "\n"
