"""The study of VLRM on the embedded world: every row from saved runs over three seeds.

`python -m experiments.vlrm_study` trains what is missing below `runs/study` and prints the tables as
Markdown.
A run that was cut off goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from experiments.world.captioner_stage import train_talkative
from experiments.world.fitting import make_world
from sightloop.recipes.config_json import config_to_json
from sightloop.recipes.vlrm import build as vlrm
from sightloop.recipes.vlrm.config import SHAPES, SHAPES_RS, VlrmConfig
from sightloop.rewards.combine import combine
from sightloop.training.experiment import Experiment
from sightloop.training.loop import train
from sightloop.training.run_files import Run
from sightloop.types import Outcome, Reward, on_last_token
from sightloop.world.bundled import WEIGHTS
from sightloop.world.image_folder import truth_of
from sightloop.world.models import save_model

SEEDS = (0, 1, 2)
MAIN_STEPS, ABLATION_STEPS = 120, 60
FIGURES = ("recall@1", "precision", "told_pooled", "grammatical", "length", "bad_phrases")
TRUE_FACT, FALSE_FACT = 0.25, -2.5


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row: what changes against the paper's algorithm."""

    says: str
    config: VlrmConfig
    exact: bool = False
    """Reward the exact facts of the scene instead of the judge's logit."""
    talkative: bool = False
    """Start from the captioner that begins with an empty prefix now and then."""


def _weights(**changes: float) -> VlrmConfig:
    return replace(SHAPES, rewards=replace(SHAPES.rewards, **changes))


def _judged_by(name: str, config: VlrmConfig = SHAPES) -> VlrmConfig:
    return replace(config, judge=replace(config.judge, model=str(WEIGHTS / name)))


VARIANTS = {
    "paper": Variant(says="the paper's algorithm", config=SHAPES),
    "exact": Variant(says="exact facts as the reward (positive control)", config=SHAPES, exact=True),
    "no_reference": Variant(says="no reference term", config=_weights(reference=0.0)),
    "retrieval": Variant(says="VLRM-RS: retrieval term, no reference", config=SHAPES_RS),
    "log_p": Variant(says="log p instead of p", config=replace(SHAPES, objective="log_probability")),
    "linear": Variant(
        says="linear value head", config=replace(SHAPES, critic=replace(SHAPES.critic, widths=()))
    ),
    "group": Variant(
        says="4 captions an image, group mean as baseline, no critic",
        config=replace(SHAPES, algorithm="group", batch=64, draw=replace(SHAPES.draw, per_image=4)),
    ),
    "greedy_baseline": Variant(
        says="the greedy caption's reward as baseline (p, standardized), no critic",
        config=replace(SHAPES, algorithm="greedy-baseline"),
    ),
    # "scst-*" are runs of the first release, which are now called "greedy_baseline".
    "scst_published": Variant(
        says="SCST (log p, plain advantage), no critic", config=replace(SHAPES, algorithm="scst")
    ),
    "forgiving": Variant(says="a forgiving judge", config=_judged_by("judge_forgiving")),
    "hackable": Variant(
        says="a talkative captioner, a judge that likes empty prefixes, no reference term",
        config=_judged_by("judge_hackable", _weights(reference=0.0)),
        talkative=True,
    ),
    "hackable_free": Variant(
        says="the same, without the phrase penalty",
        config=_judged_by("judge_hackable", _weights(reference=0.0, bad_phrases=0.0)),
        talkative=True,
    ),
}


def run_variant(variant: Variant, folder: Path, *, steps: int, seed: int) -> None:
    """Train one row with one seed, unless it is finished."""
    every = steps // 6
    schedule = replace(
        variant.config.schedule,
        steps=steps,
        seed=seed,
        save_every=every,
        eval_every=every,
        sample_every=steps,
    )
    policy = str(talkative_captioner(folder.parent.parent)) if variant.talkative else ""
    config = replace(variant.config, schedule=schedule, policy=policy)
    if (folder / "config.json").exists():
        run = Run.resume(folder, config=config_to_json(config), schedule=schedule)
    else:
        run = Run.create(folder, recipe="vlrm", config=config_to_json(config), schedule=schedule)
    if (folder / "checkpoints" / f"step_{steps:06d}").exists():
        return
    experiment = vlrm.build(config, folder)
    train(with_exact_facts(experiment, config, folder) if variant.exact else experiment, run)
    run.close()


def talkative_captioner(folder: Path) -> Path:
    """The folder of the talkative captioner below `folder`, made there if it is missing."""
    model = folder / "talkative"
    if not (model / "model.safetensors").exists():
        save_model(train_talkative(make_world(), WEIGHTS / "captioner", folder), model)
    return model


def with_exact_facts(
    experiment: Experiment[Any, Any], config: VlrmConfig, folder: Path
) -> Experiment[Any, Any]:
    """The experiment with the judge's logit replaced by the scene's own truth."""
    truth = truth_of(folder / "pictures" / "train")

    def facts(outcome: Outcome) -> torch.Tensor:
        counts = [truth(s, text) for s, text in zip(outcome.sources, outcome.texts(), strict=True)]
        return on_last_token(
            torch.tensor([TRUE_FACT * c.true + FALSE_FACT * c.false for c in counts]), outcome.tokens
        )

    weightless = replace(config, rewards=replace(config.rewards, similarity=0.0))
    rewards: dict[str, Reward] = {
        **vlrm.caption_rewards(weightless, experiment.policy, torch.device("cpu")),  # pyright: ignore
        "similarity": facts,
    }
    judge = combine(rewards, {name: getattr(config.rewards, name) for name in rewards})
    return replace(experiment, collect=replace(experiment.collect, judge=judge))  # pyright: ignore


def final_figures(folder: Path, steps: int) -> dict[str, float]:
    """The last evaluation of a finished run."""
    record = json.loads(
        (folder / "evaluations" / f"held_out_step_{steps:06d}.json").read_text(encoding="utf-8")
    )
    return {name: record["metrics"][name] for name in FIGURES}


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Mean and standard deviation over seeds, as Markdown."""
    lines = ["| | " + " | ".join(FIGURES) + " |", "|---|" + "--:|" * len(FIGURES)]
    for name, runs in rows.items():
        cells = []
        for figure in FIGURES:
            values = [run[figure] for run in runs]
            spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.3f}{spread}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/study"))
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only print what is finished")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    jobs: list[tuple[str, str, int]] = [("main", "paper", MAIN_STEPS)]
    jobs += [("ablations", name, ABLATION_STEPS) for name in options.only]
    for seed in options.seeds:
        for part, name, steps in jobs:
            folder = options.runs / part / f"{name}-{seed}"
            if not options.table:
                run_variant(VARIANTS[name], folder, steps=steps, seed=seed)
                print(f"finished {folder}: {final_figures(folder, steps)}", flush=True)
    for part, steps in (("main", MAIN_STEPS), ("ablations", ABLATION_STEPS)):
        rows = _finished(options.runs / part, steps)
        print(f"\n{part}, {steps} steps\n\n{table(rows)}" if rows else f"\n{part}: nothing finished")


def _finished(folder: Path, steps: int) -> dict[str, list[dict[str, float]]]:
    rows: dict[str, list[dict[str, float]]] = {}
    start = 0 if folder.name == "main" else steps
    if folder.name == "main":
        before = sorted(folder.glob("*/evaluations/held_out_step_000000.json"))
        rows["before"] = [final_figures(path.parent.parent, start) for path in before]
    for name, variant in VARIANTS.items():
        runs = [
            final_figures(run, steps)
            for run in sorted(folder.glob(f"{name}-[0-9]*"))
            if (run / "evaluations" / f"held_out_step_{steps:06d}.json").exists()
        ]
        if runs:
            rows[f"{variant.says} ({len(runs)} seeds)"] = runs
    return {name: runs for name, runs in rows.items() if runs}


if __name__ == "__main__":
    main()
