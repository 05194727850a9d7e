"""The study of VLRM on the embedded world: every row over several seeds, under three ways of decoding.

`python -m experiments.vlrm_study` trains and measures what is missing below `runs/study`, keeps every run's
settings and figures in `vlrm_figures.jsonl`, and prints the tables as Markdown; `--table` prints them from
what is kept. A run that was cut off goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from experiments.caption_tables import Measured, gains, keep, kept, measure, summary, table
from experiments.world.captioner_stage import train_talkative
from experiments.world.fitting import make_world
from sightloop.models.captioners.blip2 import Blip2Captioner
from sightloop.recipes.config_json import config_to_json
from sightloop.recipes.vlrm import build as vlrm
from sightloop.recipes.vlrm.config import SHAPES, SHAPES_RS, VlrmConfig
from sightloop.rewards.combine import combine
from sightloop.runs.restore import restore
from sightloop.training.experiment import Experiment
from sightloop.training.loop import train
from sightloop.training.run_files import Run
from sightloop.types import Outcome, Reward, on_last_token
from sightloop.world.bundled import WEIGHTS
from sightloop.world.image_folder import truth_of
from sightloop.world.models import save_model

SEEDS = (10, 11, 12, 13, 14)
"""None of them chose a setting or a captioner."""
STEPS = 120
KEPT = Path(__file__).parent / "vlrm_figures.jsonl"
UNTRAINED, TALKATIVE = "untrained", "talkative"
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
    "paper": Variant(says="VLRM, 120 steps", config=SHAPES),
    "exact": Variant(says="exact facts as the reward (positive control)", config=SHAPES, exact=True),
    "no_reference": Variant(says="no reference term", config=_weights(reference=0.0)),
    "retrieval": Variant(says="VLRM-RS (retrieval term, no reference)", config=SHAPES_RS),
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


def run_variant(variant: Variant, folder: Path, *, seed: int) -> None:
    """Train one row with one seed, unless it is finished."""
    schedule = replace(
        variant.config.schedule, steps=STEPS, seed=seed, save_every=20, eval_every=20, sample_every=STEPS
    )
    policy = str(talkative_captioner(folder.parent)) if variant.talkative else ""
    config = replace(variant.config, schedule=schedule, policy=policy)
    if (folder / "config.json").exists():
        run = Run.resume(folder, config=config_to_json(config), schedule=schedule)
    else:
        run = Run.create(folder, recipe="vlrm", config=config_to_json(config), schedule=schedule)
    if not (folder / "checkpoints" / f"step_{STEPS:06d}").exists():
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


def measured_run(row: str, folder: Path, seed: int) -> Measured:
    """A finished run's figures, of its last step."""
    restored = restore(folder, "last", device=torch.device("cpu"))
    figures = measure(restored.policy, folder.parent)
    # Where the weights lie on this computer is no setting.
    config = json.loads(json.dumps(config_to_json(restored.config)).replace(f"{WEIGHTS.parent.parent}/", ""))
    return Measured(row=row, seed=seed, steps=restored.step, figures=figures, config=config)


def measured_start(row: str, model: Path, folder: Path) -> Measured:
    """The figures of a captioner that no run has trained."""
    return Measured(
        row=row, seed=None, steps=0, figures=measure(Blip2Captioner.from_pretrained(model), folder)
    )


def main() -> None:
    """Train and measure what is missing, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/study"))
    parser.add_argument("--kept", type=Path, default=KEPT, help="file of figures")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only print what is kept")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.table:
        fill(options.runs, options.kept, options.only, options.seeds)
    print_tables(kept(options.kept))


def fill(runs: Path, file: Path, rows: list[str], seeds: list[int]) -> None:
    """Train and measure the rows that are not kept yet."""
    done = {(one.row, one.seed) for one in kept(file)}
    if (UNTRAINED, None) not in done:
        keep(file, measured_start(UNTRAINED, WEIGHTS / "captioner", runs))
    if any(VARIANTS[row].talkative for row in rows) and (TALKATIVE, None) not in done:
        keep(file, measured_start(TALKATIVE, talkative_captioner(runs), runs))
    for seed in seeds:
        for row in rows:
            if (row, seed) not in done:
                folder = runs / f"{row}-{seed}"
                run_variant(VARIANTS[row], folder, seed=seed)
                keep(file, measured_run(row, folder, seed))
                print(f"finished {folder}", flush=True)


def print_tables(measured: list[Measured]) -> None:
    """All rows, and what the paper's algorithm adds at equal decoding."""
    rows = {
        says: [one for one in measured if one.row == row]
        for row, says in {
            UNTRAINED: "untrained",
            **{row: variant.says for row, variant in VARIANTS.items()},
            TALKATIVE: "the talkative captioner, untrained",
        }.items()
    }
    named: dict[str, list[Measured]] = {}
    for says, runs in rows.items():
        trained = [one for one in runs if one.seed is not None]
        seeds = f" ({len(trained)} {'seed' if len(trained) == 1 else 'seeds'})" if trained else ""
        if runs:
            named[says + seeds] = runs
    print(table(named))
    main_row = rows[VARIANTS["paper"].says]
    if rows["untrained"] and main_row:
        for make in (gains, summary):
            print(f"\n{make(rows['untrained'][0], main_row)}")


if __name__ == "__main__":
    main()
