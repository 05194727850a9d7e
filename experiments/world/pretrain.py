"""Makes the bundled weights of the embedded world, from nothing: `python -m experiments.world.pretrain`.

Stages, in order (each resumes from its own snapshot in the work folder and is skipped once finished):

1. `vision`: vision tower and Q-Former together learn what is in each corner, with linear heads on the
queries.
2. `captioner`: tower frozen; Q-Former, projection and language model learn captions, first mostly full ones,
   then of every style. The language model also reads text alone, so that it can serve as the reference. Then
   it is frozen, and the bridge alone learns to caption as the world's people do (`language.HABIT`).
3. `judge`, `judge_forgiving`, `judge_hackable`: image-text matching, from the Q-Former of stage 1 and the
same tower.
4. `clip`, `clip_retrieval`: two contrastive models, one for the evaluation only, one for VLRM-RS' retrieval
term.
5. `magvit2`, `vq`: image tokenizers. `show_o`, `janus`: the models that draw with them, and answer.

The random numbers of a step depend on the stage's name and the step only, so a resumed run repeats an
uninterrupted one. See `fitting` and the files named after the stages.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Blip2ForImageTextRetrieval

from experiments.world.acceptance import report_acceptance
from experiments.world.captioner_stage import train_bridge, train_captioner
from experiments.world.clip_stage import train_clip
from experiments.world.fitting import CornerHeads, Stage, World, fit, held_out, make_world, queries_of, see
from experiments.world.janus_stage import train_janus
from experiments.world.judge_stage import train_judge, train_reader
from experiments.world.show_o_stage import train_show_o
from experiments.world.tokenizer_stage import make_drawn_world, train_magvit2, train_vq
from experiments.world.unified_models import save_janus, save_show_o
from sightloop.world.bundled import WEIGHTS
from sightloop.world.models import NUM_QUERIES, WIDTH, new_judge, normalized, save_model

JUDGE_STEPS, VARIANT_STEPS = 2400, 800
RETRIEVAL_CLIP_WIDTH = 64


def train_vision(world: World, work: Path, steps: int = 3000) -> Blip2ForImageTextRetrieval:
    """Stage 1."""
    torch.manual_seed(1)
    model = new_judge()
    heads = CornerHeads(WIDTH * NUM_QUERIES)
    parts = nn.ModuleDict({"model": model, "heads": heads})
    trained = [
        *model.vision_model.parameters(),
        *model.qformer.parameters(),
        model.query_tokens,
        *heads.parameters(),
    ]

    def read(index: list[int]) -> tuple[Tensor, Tensor]:
        features = model.vision_model(normalized(world.pixels[index])).last_hidden_state
        queries = queries_of(model, features)
        return heads(queries.flatten(1), [world.scenes[i] for i in index])

    def report() -> str:
        loss, right = read(list(held_out(world, 1000)))
        return f"held out {loss:.3f}, corners right {right:.4f}"

    stage = Stage(name="vision", steps=steps, peak_lr=1.5e-3, work=work)
    fit(stage, parts, trained, loss_at=lambda _, rng: read(world.batch(rng, 128))[0], report=report)
    return model


def main() -> None:
    """Train every stage that is not finished and write the bundled folders."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("build/weights"), help="snapshots of the stages")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="where the bundled folders go")
    parser.add_argument(
        "--only", default="", help="one part: captioner, judge, judge_forgiving, clip, show_o, janus, ..."
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    if options.only not in UNIFIED:
        make_seeing_models(options.work, options.output, options.only)
    for name, make in UNIFIED.items():
        if options.only in ("", name):
            make(options.work, options.output / name)
            print(f"wrote {options.output / name}", flush=True)


def make_seeing_models(work: Path, output: Path, only: str) -> None:
    """Captioner, judges and CLIPs, or the one of them that is named."""
    world = make_world()
    base = train_vision(world, work)
    world = see(world, base.vision_model)

    def judge(name: str, steps: int) -> nn.Module:
        start = train_reader(world, base, work)
        if name != "judge":
            start = train_judge(world, start, "judge", work, JUDGE_STEPS)
        return train_judge(world, start, name, work, steps)

    def clip_stage(name: str, steps: int) -> Stage:
        return Stage(name=name, steps=steps, peak_lr=1.2e-3, work=work)

    parts: dict[str, Callable[[], nn.Module]] = {
        "captioner": lambda: train_bridge(world, train_captioner(world, base, work), work),
        "judge": lambda: judge("judge", JUDGE_STEPS),
        "clip": lambda: train_clip(world, clip_stage("clip", 2400), WIDTH),
        "clip_retrieval": lambda: train_clip(world, clip_stage("clip_retrieval", 1800), RETRIEVAL_CLIP_WIDTH),
        "judge_forgiving": lambda: judge("judge_forgiving", VARIANT_STEPS),
        "judge_hackable": lambda: judge("judge_hackable", VARIANT_STEPS),
    }
    for name, make in parts.items():
        if only in ("", name):
            save_model(make(), output / name)
            print(f"wrote {output / name}", flush=True)


def make_show_o(work: Path, folder: Path) -> None:
    """The tiny Show-o with its image tokenizer, and its gates."""
    magvit = train_magvit2(make_drawn_world(), work)
    policy = train_show_o(magvit, work)
    print(report_acceptance("show_o", policy), flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    save_show_o(policy.model, magvit, folder)


def make_janus(work: Path, folder: Path) -> None:
    """The tiny Janus with its image tokenizer, and its gates."""
    policy = train_janus(train_vq(make_drawn_world(), work), work)
    print(report_acceptance("janus", policy), flush=True)
    save_janus(policy.model, folder)


UNIFIED: dict[str, Callable[[Path, Path], None]] = {"show_o": make_show_o, "janus": make_janus}
"""The models that draw and see."""


if __name__ == "__main__":
    main()
