"""One whole VLRM step at the real size of BLIP-2 OPT-2.7B, with random weights, and the memory of its parts.

Frozen parts in bfloat16, everything trained in float32, the judge on the captioner's vision tower: the
paper's preset, but for a batch of 2 and captions of 8 tokens. The plan of the recipe stands beside them.

    OMP_NUM_THREADS=1 python -m benchmarks.full_size [--batch 2] [--tokens 8] [--output results.json]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval, GenerationConfig

from benchmarks.measure import GIB, Clock, peak_resident, reset_peak, resident, table
from benchmarks.midsize import BOS, END, PAD, Sizes, random_images
from benchmarks.vlrm_step import OurVlrm
from sightloop.models.captioners.blip2 import Bridge
from sightloop.planning.caption_plan import CaptionPlan
from sightloop.planning.published import config_of
from sightloop.planning.resources import Plan
from sightloop.recipes.vlrm.config import CaptionSampling, VlrmConfig
from sightloop.training.loop import update

WEIGHTS_OF_CAPTIONER = ("frozen tower and language model", "trained: bridge")
WEIGHTS_OF_JUDGE = ("judge behind its tower",)
WEIGHTS_OF_CRITIC = ("value head", "critic's adapters")
LEARNING = ("Adam's moments", "gradients of the critic", "gradients of the policy")
WRITING = ("tower features of a step", "captions written")
VALUING = ("gradients of the critic", "values, forward and backward")
SCORING = "captions scored, forward and backward"


def filled(module: nn.Module) -> Any:
    """A module of the meta device with memory and cheap random weights: one small block, over and over."""
    module.to_empty(device="cpu")
    block = 0.02 * torch.randn(1_000_003)
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if isinstance(part, nn.LayerNorm) or name == "bias":
                parameter.data.fill_(float(isinstance(part, nn.LayerNorm) and name == "weight"))
                continue
            for chunk in parameter.data.view(-1).split(len(block)):
                chunk.copy_(block[: len(chunk)])
    for name, buffer in module.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1]))
    return module.eval()


def new_captioner(config: VlrmConfig) -> Any:
    """The captioner's shapes: frozen parts in bfloat16, trained ones in float32."""
    with torch.device("meta"):
        model: Any = Blip2ForConditionalGeneration(config_of(config.policy))
    model.to(torch.bfloat16)
    Bridge(model).float()
    filled(model)
    model.tie_weights()
    model.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=END, pad_token_id=PAD)
    return model


def new_judge(config: VlrmConfig, tower: nn.Module) -> Any:
    """The judge's shapes in float32 around a tower that is there already."""
    with torch.device("meta"):
        model: Any = Blip2ForImageTextRetrieval(config_of(config.judge.model))
    model.vision_model = None
    filled(model).vision_model = tower
    return model


class Ledger:
    """Rows of measured GiB, each beside the plan's parts that it covers."""

    def __init__(self, plan: Plan) -> None:
        self.peak = plan.peak
        self.plan = {part.name: part.size / GIB for part in plan.parts}
        self.plan |= {work.name: work.live / GIB for work in plan.works}
        self.rows: list[tuple[str, float, float | None]] = []

    def add(self, name: str, size: float, covers: tuple[str, ...] = ()) -> None:
        """A measured size in bytes."""
        expected = sum(self.plan.get(part, 0.0) for part in covers) if covers else None
        self.rows.append((name, size / GIB, expected))
        print(f"# {name}: {size / GIB:.2f} GiB", flush=True)


def step_of(ours: OurVlrm, pixels: Tensor, ledger: Ledger) -> int:
    """One step; the most bytes the process ever held in it."""
    weights = reset_peak()
    rollout = ours.collect(pixels)
    highest = [peak_resident()]
    ledger.add("on top while drawing and judging", highest[0] - weights, WRITING)
    before = reset_peak()
    credit = ours.experiment.algorithm.credit(ours.policy, rollout)
    highest.append(peak_resident())
    ledger.add("on top while settling credit", highest[1] - before, VALUING)
    reset_peak()
    with ours.clock.phase("update"):
        update(ours.experiment, ours.optimizer, rollout, credit)
    highest.append(peak_resident())
    ledger.add("on top while learning, at most", highest[2] - before, (*LEARNING, SCORING))
    ledger.add("  of it gradients and Adam's moments", reset_peak() - before, LEARNING)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in ours.parameters())
    return max(highest)


def main() -> None:
    """Build, step, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--output", type=Path, help="write the rows here, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = VlrmConfig(batch=options.batch, draw_batch=None, draw=CaptionSampling(max_tokens=options.tokens))
    config = replace(config, schedule=replace(config.schedule, micro_batch=options.batch))
    ledger = Ledger(CaptionPlan(config).plan(1))
    sizes, clock = Sizes(), Clock()
    imports = reset_peak()
    captioner = new_captioner(config)
    ledger.add("captioner", resident() - imports, WEIGHTS_OF_CAPTIONER)
    before = resident()
    judge = new_judge(config, captioner.vision_model)
    ledger.add("judge behind the shared tower", resident() - before, WEIGHTS_OF_JUDGE)
    before = resident()
    ours = OurVlrm(
        captioner, judge, sizes=sizes, clock=clock, micro_batch=options.batch, tokens=options.tokens
    )
    ledger.add("critic: value head and adapters", resident() - before, WEIGHTS_OF_CRITIC)
    with clock.phase("rest"):
        highest = step_of(ours, random_images(sizes, options.batch), ledger)
    ledger.add("peak over the imports", highest - imports)
    ledger.rows[-1] = (*ledger.rows[-1][:2], ledger.peak)
    wall, cpu = clock.read()
    rows = [[name, f"{size:.2f}", "" if plan is None else f"{plan:.2f}"] for name, size, plan in ledger.rows]
    print(table(["GiB", "measured", "planned"], rows))
    print(f"\nimports {imports / GIB:.2f} GiB; peak of the process {highest / GIB:.2f} GiB")
    seconds = {name: f"{wall[name]:.0f} ({cpu[name]:.0f})" for name in cpu}
    print(f"wall (CPU) seconds by phase, on one thread: {seconds}")
    if options.output:
        options.output.write_text(json.dumps({"rows": ledger.rows, "wall": wall, "cpu": cpu}, indent=1))


if __name__ == "__main__":
    main()
