"""Captions measured under three ways of decoding, and the tables of `vlrm_study` from what was kept.

Every row, the untrained captioner's included, is decoded greedily, with five beams, and with the paper's
beams and rules (its table 2), on the same images, which no run was trained or evaluated on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from sightloop.evaluators.held_out_captions import held_out_of
from sightloop.evaluators.settings import HeldOutSettings
from sightloop.models.protocols import Captioner
from sightloop.world.bundled import WEIGHTS
from sightloop.world.image_folder import write_images

NUM_IMAGES, IMAGES_SEED = 1000, 4711
DECODINGS = {
    "greedy": HeldOutSettings(beams=1, no_repeat_ngram=0, min_tokens=1, max_tokens=36),
    "5 beams": HeldOutSettings(beams=5, no_repeat_ngram=0, min_tokens=1, max_tokens=36),
    "paper": HeldOutSettings(beams=5, no_repeat_ngram=2, min_tokens=4, max_tokens=36),
}
TITLES = {"greedy": "greedy", "5 beams": "5 beams", "paper": "the paper's decoding"}
FIGURES = {
    "recall@1": "R@1",
    "told_pooled": "true facts told",
    "precision": "precision",
    "hallucinates": "captions with a false fact",
    "grammatical": "grammatical",
    "length": "words",
    "bad_phrases": "with a bad phrase",
}
_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365)
"""Student's t for 2, 3, ... seeds."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a captioner achieved under each way of decoding."""

    row: str
    seed: int | None
    """None = the untrained captioner."""
    steps: int
    figures: dict[str, dict[str, float]]
    config: Any = None


def measure(policy: Captioner, folder: Path) -> dict[str, dict[str, float]]:
    """The figures of a captioner on the common images, which are drawn in `folder` if they are missing."""
    images = write_images(folder / "common", number=NUM_IMAGES, seed=IMAGES_SEED)
    found: dict[str, dict[str, float]] = {}
    for name, decoding in DECODINGS.items():
        settings = replace(decoding, images=str(images), clip=str(WEIGHTS / "clip"))
        held_out = held_out_of(settings, prompt="", captioner=policy, device=torch.device("cpu"))
        assert held_out is not None
        metrics = held_out(policy).metrics
        found[name] = {figure: round(metrics[figure], 5) for figure in FIGURES}
    return found


def keep(file: Path, measured: Measured) -> None:
    """Add one run to those that are kept, in place of an earlier one of its row and seed."""
    others = [one for one in kept(file) if (one.row, one.seed) != (measured.row, measured.seed)]
    lines = [json.dumps(vars(one), sort_keys=True) for one in [*others, measured]]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def kept(file: Path) -> list[Measured]:
    """All runs that were kept."""
    if not file.exists():
        return []
    return [Measured(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def table(rows: dict[str, list[Measured]]) -> str:
    """Mean and standard deviation over seeds under each way of decoding, as Markdown."""
    lines = ["| decoding | | " + " | ".join(FIGURES.values()) + " |", "|---|---|" + "--:|" * len(FIGURES)]
    for decoding, title in TITLES.items():
        for name, runs in rows.items():
            cells = [_cell([run.figures[decoding][figure] for run in runs], figure) for figure in FIGURES]
            lines.append(f"| {title} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gains(before: Measured, after: list[Measured]) -> str:
    """What training adds at equal decoding, with an interval over seeds and images, as Markdown."""
    lines = ["| decoding | R@1 before | after | gain |", "|---|--:|--:|--:|"]
    for decoding, title in TITLES.items():
        start = before.figures[decoding]["recall@1"]
        ends = [run.figures[decoding]["recall@1"] for run in after]
        half = _half_width(start, ends)
        gain = mean(ends) - start
        lines.append(
            f"| {title} | {short(start)} | {_cell(ends, 'recall@1')} "
            f"| {gain:+.3f} [{gain - half:+.3f}, {gain + half:+.3f}] |"
        )
    return "\n".join(lines)


def summary(before: Measured, after: list[Measured]) -> str:
    """R@1 under each way of decoding and the truth of greedy captions, as Markdown."""
    chosen = [(decoding, "recall@1") for decoding in TITLES]
    chosen += [
        ("greedy", figure) for figure in FIGURES if figure not in ("recall@1", "length", "bad_phrases")
    ]
    lines = ["| | before | after |", "|---|--:|--:|"]
    for decoding, figure in chosen:
        start, end = (
            _cell([run.figures[decoding][figure] for run in runs], figure) for runs in ([before], after)
        )
        lines.append(f"| {FIGURES[figure]}, {TITLES[decoding]} | {start} | {end} |")
    return "\n".join(lines)


def _half_width(start: float, ends: list[float]) -> float:
    """Half of the 95% interval: Student's t over seeds, and the noise of both shares of 1,000 images."""
    end = mean(ends)
    images = 1.96**2 * (start * (1 - start) + end * (1 - end)) / NUM_IMAGES
    seeds = _T_95[len(ends) - 2] ** 2 * stdev(ends) ** 2 / len(ends) if len(ends) > 1 else 0.0
    return sqrt(images + seeds)


def _cell(values: Iterable[float], figure: str) -> str:
    values = list(values)
    digits = 1 if figure == "length" else 3
    spread = f" ± {short(stdev(values), digits)}" if len(values) > 1 else ""
    return f"{short(mean(values), digits)}{spread}"


def short(value: float, digits: int = 3) -> str:
    """Without the zero before the point."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("0") if digits == 3 else text
