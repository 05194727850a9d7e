"""Makes the bundled weights of the embedded world, from nothing: `python -m sightloop.shapes.pretrain`.

Stages, in order (each resumes from its own snapshot in the work folder and is skipped once finished):

1. `vision`: vision tower and Q-Former together learn what is in each corner, with linear heads on the
queries.
2. `captioner`: tower frozen; Q-Former, projection and language model learn captions, first mostly full ones,
   then as the world's people write them (`language.DETAIL`). The language model also reads text alone, so
   that it
   can serve as the reference.
3. `judge`, `judge_forgiving`, `judge_hackable`: image-text matching, from the Q-Former of stage 1 and the
same tower.
4. `clip`, `clip_retrieval`: two contrastive models, one for the evaluation only, one for VLRM-RS' retrieval
term.

The random numbers of a step depend on the stage's name and the step only, so a resumed run repeats an
uninterrupted
one. See `fitting`, `captioner_stage`, `judge_stage` and `clip_stage`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Blip2ForImageTextRetrieval

from sightloop.shapes.captioner_stage import train_captioner
from sightloop.shapes.clip_stage import train_clip
from sightloop.shapes.fitting import CornerHeads, Stage, World, fit, held_out, make_world, queries_of, see
from sightloop.shapes.judge_stage import train_judge, train_reader
from sightloop.shapes.models import NUM_QUERIES, WEIGHTS, WIDTH, new_judge, normalized, save_model

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
        "--only", default="", help="one part: captioner, judge, judge_forgiving, judge_hackable, clip, ..."
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    world = make_world()
    base = train_vision(world, options.work)
    world = see(world, base.vision_model)

    def judge(name: str, steps: int) -> nn.Module:
        start = train_reader(world, base, options.work)
        if name != "judge":
            start = train_judge(world, start, "judge", options.work, JUDGE_STEPS)
        return train_judge(world, start, name, options.work, steps)

    def clip_stage(name: str, steps: int) -> Stage:
        return Stage(name=name, steps=steps, peak_lr=1.2e-3, work=options.work)

    parts: dict[str, Callable[[], nn.Module]] = {
        "captioner": lambda: train_captioner(world, base, options.work),
        "judge": lambda: judge("judge", JUDGE_STEPS),
        "clip": lambda: train_clip(world, clip_stage("clip", 2400), WIDTH),
        "clip_retrieval": lambda: train_clip(world, clip_stage("clip_retrieval", 1800), RETRIEVAL_CLIP_WIDTH),
        "judge_forgiving": lambda: judge("judge_forgiving", VARIANT_STEPS),
        "judge_hackable": lambda: judge("judge_hackable", VARIANT_STEPS),
    }
    for name, make in parts.items():
        if options.only in ("", name):
            save_model(make(), options.output / name)
            print(f"wrote {options.output / name}", flush=True)


if __name__ == "__main__":
    main()
