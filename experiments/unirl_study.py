"""The study of UniRL on the embedded world: every row from saved runs over three seeds.

`python -m experiments.unirl_study` trains what is missing below `runs/study-unirl` and prints the
tables as Markdown. A run that was cut off goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from sightloop.quizzes.grammar import CATEGORIES
from sightloop.recipes.catalog import RECIPES
from sightloop.recipes.config_json import config_to_json
from sightloop.recipes.unirl.config import (
    GRPO_SHAPES,
    GRPO_SHAPES_JANUS,
    SFT_SHAPES,
    SFT_SHAPES_JANUS,
    GrpoConfig,
    LikelihoodSettings,
    ObjectiveSettings,
    QuizRewards,
    RelaxationSettings,
    SftConfig,
)
from sightloop.training.loop import train
from sightloop.training.run_files import Run

SEEDS = (0, 1, 2)
FIGURES = {
    "drawn": "drawn right",
    "answered_fixed": "answers about other images",
    "answered": "answers about own drawings",
    "imbalance": "right on one side alone",
    "answered_if_drawn": "answered right where drawn right",
    "drawn_if_answered": "drawn right where answered right",
}
"""What the table holds, and what it calls it."""
FIRST_RATE = {"show-o": 1e-3, "janus": 2e-4}
"""Learning rates of the supervised rows that are not end to end, and of the first end-to-end row."""
ABLATION_STEPS = 50
"""Of every row but GRPO on both sides, which runs as long as its preset."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row."""

    says: str
    config: GrpoConfig | SftConfig

    @property
    def recipe(self) -> str:
        """Which recipe trains it."""
        return "unirl-grpo" if isinstance(self.config, GrpoConfig) else "unirl-sft"


def _sides(config: GrpoConfig, *, drawing: float = 1.0, answering: float = 1.0) -> GrpoConfig:
    return replace(config, objectives=replace(config.objectives, drawing=drawing, answering=answering))


def _graded_by(config: GrpoConfig, answerer: Any) -> GrpoConfig:
    alone = _sides(config, answering=0.0)
    return replace(alone, answer=replace(config.answer, answerer=answerer))


def _exact(config: GrpoConfig) -> GrpoConfig:
    return replace(_sides(config, answering=0.0), rewards=QuizRewards(points=0.0, detector=1.0))


def _group(config: GrpoConfig, size: int) -> GrpoConfig:
    return replace(config, group=size, batch=config.batch * config.group // size)


def _scored(config: GrpoConfig, **settings: Any) -> GrpoConfig:
    return replace(config, likelihood=replace(config.likelihood, **settings))


def _at(config: SftConfig, learning_rate: float) -> SftConfig:
    return replace(config, schedule=replace(config.schedule, learning_rate=learning_rate))


def _relaxed(config: SftConfig, codes: Any, **settings: Any) -> SftConfig:
    return replace(config, relaxation=RelaxationSettings(codes=codes, **settings))


def _apart(config: SftConfig, filtered: Any) -> SftConfig:
    return replace(
        _at(config, FIRST_RATE[config.world_model]),
        end_to_end=False,
        filter=filtered,
        objectives=ObjectiveSettings(
            drawing=1.0, answering=1.0, per_turn_every=config.objectives.per_turn_every
        ),
        likelihood=LikelihoodSettings(
            unmasking="remasked" if config.world_model == "show-o" else "trajectory"
        ),
    )


def _last_round(config: SftConfig) -> SftConfig:
    return _relaxed(config, "one-round", round=-1) if config.world_model == "show-o" else config


def _rows(grpo: GrpoConfig, sft: SftConfig) -> dict[str, Variant]:
    return {
        "sft_all": Variant(says="SFT, not end to end, all drawings", config=_apart(sft, "none")),
        "sft_correct": Variant(
            says="SFT, not end to end, drawings answered right", config=_apart(sft, "answer_correct")
        ),
        "sft_end_to_end": Variant(
            says="SFT, end to end through the last round, all drawings, rate 1e-3"
            if sft.world_model == "show-o"
            else "SFT, end to end, all drawings (the paper's)",
            config=_at(_last_round(sft), FIRST_RATE[sft.world_model]),
        ),
        "drawing": Variant(says="GRPO, drawing side alone", config=_sides(grpo, answering=0.0)),
        "answering": Variant(says="GRPO, answering side alone", config=_sides(grpo, drawing=0.0)),
        "both": Variant(says="GRPO, both sides", config=grpo),
        "frozen": Variant(
            says="GRPO, drawing side, graded by the frozen start", config=_graded_by(grpo, "frozen")
        ),
        "exact": Variant(says="GRPO, drawing side, exact checker as reward (control)", config=_exact(grpo)),
    }


SHOW_O = _rows(GRPO_SHAPES, SFT_SHAPES) | {
    "sft_last": Variant(
        says="SFT, end to end through the last round, all drawings", config=_last_round(SFT_SHAPES)
    ),
    "sft_middle": Variant(
        says="SFT, end to end through the middle round, all drawings (the preset)", config=SFT_SHAPES
    ),
    "sft_some": Variant(
        says="SFT, end to end through 4 rounds of the finished drawing",
        config=_relaxed(SFT_SHAPES, "some-rounds", number=4),
    ),
    "sft_all_codes": Variant(
        says="SFT, end to end through all codes of the finished drawing", config=_relaxed(SFT_SHAPES, "all")
    ),
    "sft_middle_kl": Variant(
        says="SFT, end to end through the middle round, divergence weighed 0.2",
        config=replace(SFT_SHAPES, kl_weight=0.2),
    ),
    "group_3": Variant(says="GRPO, groups of 3", config=_group(GRPO_SHAPES, 3)),
    "group_24": Variant(says="GRPO, groups of 24", config=_group(GRPO_SHAPES, 24)),
    "both_short": Variant(says="GRPO, both sides, 50 steps in all", config=GRPO_SHAPES),
    "all_rounds": Variant(
        says="GRPO, all rounds scored", config=_scored(GRPO_SHAPES, unmasking="trajectory")
    ),
    "fresh_masks": Variant(
        says="GRPO, codes hidden anew at one ratio (the paper's)",
        config=_scored(GRPO_SHAPES, unmasking="remasked", number=1, guided=False),
    ),
    "codes": Variant(
        says="GRPO, asked about the codes it drew",
        config=replace(GRPO_SHAPES, answer=replace(GRPO_SHAPES.answer, input="codes")),
    ),
}
JANUS = _rows(GRPO_SHAPES_JANUS, SFT_SHAPES_JANUS) | {
    "conditional": Variant(
        says="GRPO, scored without guidance", config=_scored(GRPO_SHAPES_JANUS, guided=False)
    ),
}
TABLES = {"show-o": SHOW_O, "janus": JANUS}


def run_variant(variant: Variant, folder: Path, *, steps: int, seed: int) -> None:
    """Train one row with one seed, unless it is finished."""
    schedule = replace(
        variant.config.schedule, seed=seed, steps=steps, save_every=25, eval_every=25, sample_every=50
    )
    config = replace(variant.config, schedule=schedule)
    saved = config_to_json(config)
    if (folder / "config.json").exists():
        run = Run.resume(folder, config=saved, schedule=config.schedule)
    else:
        run = Run.create(folder, recipe=variant.recipe, config=saved, schedule=config.schedule)
    if (folder / "checkpoints" / f"step_{steps:06d}").exists():
        return
    try:
        train(import_module(RECIPES[variant.recipe].builder).build(config, folder), run)
    finally:
        run.close()


def figures_at(folder: Path, step: int) -> dict[str, float]:
    """All figures of a run's evaluation at a step."""
    file = folder / "evaluations" / f"joint_step_{step:06d}.json"
    return json.loads(file.read_text(encoding="utf-8"))["metrics"]


def table(rows: dict[str, list[dict[str, float]]], figures: dict[str, str]) -> str:
    """Mean and standard deviation over seeds of figures by the names that they are given, as Markdown."""
    lines = ["| | " + " | ".join(figures.values()) + " |", "|---|" + "--:|" * len(figures)]
    for name, runs in rows.items():
        cells: list[str] = []
        for figure in figures:
            values = [run[figure] for run in runs if figure in run]
            spread = f" ± {_short(stdev(values))}" if len(values) > 1 else ""
            cells.append(f"{_short(mean(values))}{spread}" if values else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _short(value: float) -> str:
    """Three digits, without the zero before the point."""
    return f"{value:.3f}".removeprefix("0")


def finished(folder: Path, variants: dict[str, Variant], step: int) -> dict[str, list[dict[str, float]]]:
    """The start, and every row with the figures of its runs at a step."""
    before = [path.parent.parent for path in sorted(folder.glob("*/evaluations/joint_step_000000.json"))]
    rows = {"start": [figures_at(before[0], 0)]} if before else {}
    for name, variant in variants.items():
        runs = [
            figures_at(run, step)
            for run in sorted(folder.glob(f"{name}-[0-9]*"))
            if (run / "evaluations" / f"joint_step_{step:06d}.json").exists()
        ]
        if runs:
            seeds = "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"
            rows[f"{variant.says} ({seeds})"] = runs
    return rows


def main() -> None:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/study-unirl"))
    parser.add_argument("--world-model", choices=list(TABLES), nargs="*", default=list(TABLES))
    parser.add_argument("--only", nargs="*", default=None, help="rows, by the names in this file")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only print what is finished")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = {name: TABLES[name] for name in options.world_model}
    known = {row for rows in chosen.values() for row in rows}
    if wrong := sorted(set(options.only or ()) - known):
        parser.error(f"no row {wrong[0]!r}; there are: {', '.join(sorted(known))}")
    for seed in options.seeds if not options.table else []:
        for model, variants in chosen.items():
            for name, variant in variants.items():
                if options.only is None or name in options.only:
                    folder = options.runs / model / f"{name}-{seed}"
                    steps = variant.config.schedule.steps if name == "both" else ABLATION_STEPS
                    run_variant(variant, folder, steps=steps, seed=seed)
                    print(f"finished {folder}", flush=True)
    for model, variants in chosen.items():
        for step in (variants["both"].config.schedule.steps, ABLATION_STEPS):
            print_tables(f"{model}, {step} steps", finished(options.runs / model, variants, step))


def print_tables(title: str, rows: dict[str, list[dict[str, float]]]) -> None:
    """Shares of both sides, and those of each category."""
    print(f"\n{title}\n\n{table(rows, FIGURES)}" if rows else f"\n{title}: nothing finished")
    for objective in ("drawn", "answered_fixed") if rows else ():
        by_category = {f"{objective}_{name}": name.replace("_", " ") for name in CATEGORIES}
        print(f"\n{FIGURES[objective]}, by category\n\n{table(rows, by_category)}")


if __name__ == "__main__":
    main()
