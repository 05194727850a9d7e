"""Images drawn by this library beside transformers' own `generate` on the same Janus of middle size.

A group of 8 images of one prompt: 576 tokens of 16,384 codes each, guidance 5. Both sides take greedy codes
first, which must be equal; then each draws in a process of its own, one thread, and medians are printed.

    OMP_NUM_THREADS=1 python -m benchmarks.janus_sampling [--repetitions 3] [--output results.json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import MIB, FlopCounter, matmul_rate, medians, peak_resident, reset_peak, table
from benchmarks.midsize_janus import PROMPT, JanusSizes, new_janus, words
from sightloop.models.janus.policy import Janus, JanusSettings
from sightloop.types import Prompt

SIDES = ("sightloop", "transformers")
GROUP, GUIDANCE = 8, 5.0


def draw_with_sightloop(policy: Janus, *, greedy: bool, group: int = GROUP) -> Tensor:
    """Codes by this library."""
    prompt = Prompt(texts=[PROMPT] * group, wants="image", seeds=list(range(group)))
    law = policy.default_sampling(guidance=GUIDANCE, temperature=0.0 if greedy else 1.0)
    return policy.sample(prompt, law).ids


def draw_with_transformers(policy: Janus, *, greedy: bool, group: int = GROUP) -> Tensor:
    """Codes by transformers' own loop, on the same rows."""
    row = torch.tensor([policy.prompts.drawing_row(PROMPT)])
    return policy.model.generate(
        row,
        attention_mask=torch.ones_like(row),
        generation_mode="image",
        num_return_sequences=1 if greedy else group,
        do_sample=not greedy,
        guidance_scale=GUIDANCE,
        top_k=None if greedy else 0,
    )


def side(name: str, sizes: JanusSizes) -> tuple[Janus, Any]:
    """The model behind the policy, and how this side draws."""
    # No adapters: both sides run the same layers.
    policy = Janus(new_janus(sizes), words(), settings=JanusSettings(trained="full"))
    policy.requires_grad_(False)
    return policy, draw_with_sightloop if name == "sightloop" else draw_with_transformers


def measure(name: str, sizes: JanusSizes, *, group: int) -> dict[str, float]:
    """Greedy codes' fingerprint aside: seconds, CPU seconds, memory of one group, in this process."""
    policy, draw = side(name, sizes)
    draw(policy, greedy=False, group=1)
    rates = [matmul_rate()]
    before = reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    draw(policy, greedy=False, group=group)
    found = {"seconds": time.perf_counter() - wall, "CPU seconds": time.process_time() - cpu}
    found["MiB over the model"] = (peak_resident() - before) / MIB
    rates.append(matmul_rate())
    return found | {"rate": sum(rates) / len(rates)}


def count(name: str, sizes: JanusSizes, *, group: int) -> dict[str, Any]:
    """FLOPs of a group, and the greedy codes."""
    policy, draw = side(name, sizes)
    with torch.no_grad(), FlopCounter() as counter:
        draw(policy, greedy=False, group=group)
    return {"flops": counter.total, "greedy": draw(policy, greedy=True, group=1).tolist()}


def in_its_own_process(task: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run `measure` or `count` where nothing else has been imported or freed."""
    call = [sys.executable, "-m", "benchmarks.janus_sampling", "--task", task, "--side", name]
    call += ["--group", str(options.group)] + (["--tiny"] if options.tiny else [])
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def report(readings: dict[str, list[dict[str, float]]], counted: dict[str, dict[str, Any]]) -> str:
    """One table of both sides; the floor is the smaller count at the machine's rate of matrix products."""
    found = {name: medians(readings[name]) for name in SIDES}
    least = min(counted[name]["flops"] for name in SIDES)
    floor = least / (sum(figures["rate"] for figures in found.values()) / len(SIDES))
    for name in SIDES:
        found[name]["TFLOP"] = counted[name]["flops"] / 1e12
        found[name]["CPU seconds / floor"] = found[name]["CPU seconds"] / floor
    rows: list[list[str]] = []
    for figure in ("seconds", "CPU seconds", "MiB over the model", "TFLOP", "CPU seconds / floor"):
        ours, theirs = (found[name][figure] for name in SIDES)
        rows.append([figure, f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.2f}"])
    return f"floor: {floor:.1f} CPU seconds\n\n" + table(["", *SIDES, "ratio"], rows)


def main() -> None:
    """Check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--group", type=int, default=GROUP)
    parser.add_argument("--tiny", action="store_true", help="a model of toy size, to try the script")
    parser.add_argument("--output", type=Path, help="write all numbers here, as JSON")
    parser.add_argument("--task", choices=("measure", "count"), help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = JanusSizes(image=64, layers=2, width=64, codes=128) if options.tiny else JanusSizes()
    if options.task:
        work = measure if options.task == "measure" else count
        print(json.dumps(work(options.side, sizes, group=options.group)))
        return
    counted = {name: in_its_own_process("count", name, options) for name in SIDES}
    if counted["sightloop"]["greedy"] != counted["transformers"]["greedy"]:
        raise ValueError("the two sides draw different greedy codes")
    print("greedy codes are equal", flush=True)
    readings: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    for repetition in range(options.repetitions):
        for name in SIDES if repetition % 2 == 0 else reversed(SIDES):
            readings[name].append(in_its_own_process("measure", name, options))
            print(f"# {name}: {readings[name][-1]['CPU seconds']:.1f} CPU s", flush=True)
    print(report(readings, counted))
    if options.output:
        options.output.write_text(json.dumps({"readings": readings, "counted": counted}, indent=1))


if __name__ == "__main__":
    main()
