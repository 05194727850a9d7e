"""Images drawn by this library beside the plain form of Show-o's sampler, on a model of middle size.

8 layers x 512, all 58,498 ids, images of 256 codes out of 8192, prompts of 20 to 26 tokens, guidance, 12
rounds, batch 4, one thread, random weights. The plain form is written out below: every round runs the whole
padded rows with and without condition and the head over all ids and positions. Both draw from the same noise
and must draw the same codes. Then each draws in a process of its own and medians are printed; the floor is
the smaller count of FLOPs at the machine's rate of matrix products. A group of 8 equal prompts, as a
group-relative method draws them, is compared with 8 different ones.

On a GPU `ShowO.enable_decode_graphs` replays a recorded graph for each round, which is not measured here.

    OMP_NUM_THREADS=1 python -m benchmarks.show_o_sampling [--repetitions 3] [--output results.json]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PhiConfig, PhiForCausalLM

from benchmarks.measure import (
    MIB,
    FlopCounter,
    matmul_rate,
    medians,
    peak_resident,
    reset_peak,
    resident,
    table,
)
from sightloop.models.show_o.body import Body
from sightloop.models.show_o.fused_rounds import Easel, draw_rounds
from sightloop.models.show_o.layout import TokenLayout
from sightloop.models.show_o.sampling import Noise, gumbel_of
from sightloop.types import Sampling, Tokens

SIDES = ("sightloop", "plain")
GROUPS = ("equal prompts", "different prompts")
GUIDANCE, ROUNDS = 1.75, 12


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The model and its sequences."""

    layers: int = 8
    width: int = 512
    heads: int = 8
    num_text: int = 50295
    num_codes: int = 8192
    num_tokens: int = 256
    max_text: int = 128

    @property
    def vocabulary(self) -> TokenLayout:
        """Show-o's ids at these sizes."""
        end = self.num_text - 39 if self.num_text > 39 else 0
        return TokenLayout(num_text=self.num_text, num_codes=self.num_codes, begin=end, end=end)


TOY = Sizes(layers=2, width=64, heads=4, num_text=200, num_codes=32, num_tokens=16)


def new_model(sizes: Sizes) -> PhiForCausalLM:
    """Random weights."""
    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=sizes.vocabulary.size,
        hidden_size=sizes.width,
        intermediate_size=4 * sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        qk_layernorm=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = PhiForCausalLM(config).eval().requires_grad_(False)
    # Decided enough that rounding changes no draw.
    model.lm_head.weight *= 4
    return model


def prompts(sizes: Sizes, count: int, *, equal: bool = False) -> list[list[int]]:
    """Texts that make prompts of 20 to 26 tokens with their marks."""
    generator = torch.Generator().manual_seed(7)
    lengths = [20 if equal else 17 + (2 * row) % 7 for row in range(count)]
    rows = [torch.randint(0, sizes.num_text, (length,), generator=generator).tolist() for length in lengths]
    return [rows[0]] * count if equal else rows


def noise(sizes: Sizes, count: int) -> Iterator[Noise]:
    """The same numbers for both sides, drawn as they are needed."""
    generator = torch.Generator().manual_seed(11)
    for _ in range(ROUNDS):
        uniform = torch.rand(2, count, sizes.num_tokens, generator=generator)
        yield Noise(order=gumbel_of(uniform[0]), uniform=uniform[1])


def draw_with_sightloop(model: PhiForCausalLM, sizes: Sizes, texts: list[list[int]]) -> Tensor:
    """Codes by this library."""
    body, law = (
        Body(model, sizes.vocabulary),
        Sampling(max_tokens=sizes.num_tokens, guidance=GUIDANCE, decode_steps=ROUNDS),
    )
    blank = torch.zeros(len(texts), sizes.num_tokens, dtype=torch.int64)
    known = Tokens(ids=blank, mask=blank > 0)
    with torch.no_grad():
        lean = body.lean()
        assert lean is not None
        easel = Easel(body, lean, texts, max_text=sizes.max_text, sampling=law)
        return draw_rounds(easel, known, noise(sizes, len(texts))).ids


@torch.no_grad()
def draw_plainly(model: PhiForCausalLM, sizes: Sizes, texts: list[list[int]]) -> Tensor:
    """Codes by the plain form: whole rows, both conditions, all logits, every round."""
    words, count = sizes.vocabulary, len(texts)

    def padded(text: list[int]) -> list[int]:
        ids = [words.t2i, words.begin, *text, words.end]
        return [words.pad] * (sizes.max_text + 1 - len(ids)) + ids

    prefix = torch.tensor([padded(text) for text in texts] + [padded([])] * count)
    codes = torch.full((count, sizes.num_tokens), words.mask)
    soi, eoi = torch.full((2 * count, 1), words.soi), torch.full((2 * count, 1), words.eoi)
    length, start = prefix.shape[1] + sizes.num_tokens + 2, prefix.shape[1]
    place = torch.arange(length)
    is_pad = torch.nn.functional.pad(prefix == words.pad, (0, length - start))
    seen = (place[None] <= place[:, None]) | (place >= start)[:, None]
    behind = place[None] > (place * is_pad).amax(1, keepdim=True)
    seen = seen[None] & ~(behind[:, :, None] & is_pad[:, None])
    mask = torch.zeros(2 * count, 1, length, length).masked_fill_(
        ~seen[:, None], torch.finfo(torch.float32).min
    )
    heat, drawn = 1.0, codes
    for step, numbers in enumerate(noise(sizes, count)):
        ids = torch.cat([prefix, soi, codes.repeat(2, 1), eoi], 1)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        conditioned, free = logits.chunk(2)
        guided = (1 + GUIDANCE) * conditioned - GUIDANCE * free
        law = guided[:, start + 1 : -1, words.first_code : words.mask].softmax(-1)
        sums = law.cumsum(-1)
        assert numbers.uniform is not None
        picked = torch.searchsorted(sums, numbers.uniform[..., None] * sums[..., -1:], right=True)
        picked = picked[..., 0].clamp(max=sizes.num_codes - 1)
        unknown = codes == words.mask
        drawn = torch.where(unknown, picked, codes - words.first_code)
        ratio = torch.tensor((step + 1) / ROUNDS)
        keep = int((sizes.num_tokens * torch.cos(ratio * math.pi * 0.5)).floor())
        keep = max(1, min(int(unknown[0].sum()) - 1, keep))
        sure = law.gather(2, picked[..., None])[..., 0].masked_fill(~unknown, torch.finfo(torch.float32).max)
        heat *= 1 - float(ratio)
        scores = sure.clamp(min=1e-20).log() + heat * numbers.order
        cut = scores.sort(1).values[:, keep : keep + 1]
        codes = torch.where(scores < cut, words.mask, drawn + words.first_code)
    return drawn


DRAW = {"sightloop": draw_with_sightloop, "plain": draw_plainly}


def measured(name: str, sizes: Sizes, texts: list[list[int]], *, count_flops: bool) -> dict[str, float]:
    """One drawing of a side in this process."""
    imports = resident()
    model = new_model(sizes)
    draw = DRAW[name]
    if count_flops:
        with FlopCounter() as counter:
            draw(model, sizes, texts)
        return {"TFLOP": counter.total / 1e12}
    rate = matmul_rate()
    held = reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    ids = draw(model, sizes, texts)
    return {
        "seconds": time.perf_counter() - wall,
        "CPU seconds": time.process_time() - cpu,
        "peak MiB over the imports": (peak_resident() - imports) / MIB,
        "MiB over the model": (peak_resident() - held) / MIB,
        "rate": rate,
        "sum of codes": float(ids.sum()),
    }


def agreement(sizes: Sizes, batch: int) -> None:
    """Both sides draw the same codes.

    Raises:
        SystemExit: they do not.
    """
    model, texts = new_model(sizes), prompts(sizes, batch)
    ours, plain = (DRAW[name](model, sizes, texts) for name in SIDES)
    if not torch.equal(ours, plain):
        raise SystemExit(f"{int((ours != plain).sum())} of {ours.numel()} codes differ")
    print(f"{ours.numel()} equal codes, {len(ours.unique())} different ones among them", flush=True)


def apart(options: argparse.Namespace, task: str, name: str, group: str = "") -> dict[str, float]:
    """Run one measurement where nothing else has been imported or freed."""
    call = [sys.executable, "-m", "benchmarks.show_o_sampling", "--task", task, "--side", name]
    call += ["--group", group, "--batch", str(options.batch)] + (["--tiny"] if options.tiny else [])
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def report(found: dict[str, dict[str, float]], groups: dict[str, dict[str, float]]) -> str:
    """Two tables: both sides, and both kinds of groups."""
    least = min(found[name]["TFLOP"] for name in SIDES)
    floor = least * 1e12 / (sum(found[name]["rate"] for name in SIDES) / len(SIDES))
    for name in SIDES:
        found[name]["CPU seconds / floor"] = found[name]["CPU seconds"] / floor
    figures = ("seconds", "CPU seconds", "peak MiB over the imports", "MiB over the model", "TFLOP")
    rows = [
        [figure, *(f"{found[name][figure]:.2f}" for name in SIDES),
         f"{found['plain'][figure] / found['sightloop'][figure]:.2f}"]
        for figure in (*figures, "CPU seconds / floor")
    ]  # fmt: skip
    shared = [
        [figure, *(f"{groups[name][figure]:.2f}" for name in GROUPS),
         f"{groups[GROUPS[1]][figure] / groups[GROUPS[0]][figure]:.2f}"]
        for figure in ("seconds", "CPU seconds", "MiB over the model")
    ]  # fmt: skip
    return "\n\n".join(
        [
            f"floor: {floor:.1f} CPU seconds",
            table(["", *SIDES, "ratio"], rows),
            table(["8 images by sightloop", *GROUPS, "ratio"], shared),
        ]
    )


def main() -> None:
    """Check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tiny", action="store_true", help="a model of toy size, to try the script")
    parser.add_argument("--output", type=Path, help="write all numbers here, as JSON")
    parser.add_argument("--task", choices=("draw", "count"), help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=SIDES, default=SIDES[0], help=argparse.SUPPRESS)
    parser.add_argument("--group", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = TOY if options.tiny else Sizes()
    if options.task:
        count = 8 if options.group else options.batch
        texts = prompts(sizes, count, equal=options.group == GROUPS[0])
        print(json.dumps(measured(options.side, sizes, texts, count_flops=options.task == "count")))
        return
    agreement(sizes, options.batch)
    readings: dict[str, list[dict[str, float]]] = {name: [] for name in (*SIDES, *GROUPS)}
    for _ in range(options.repetitions):
        for name in SIDES:
            readings[name].append(apart(options, "draw", name))
            print(f"# {name}: {readings[name][-1]['CPU seconds']:.1f} CPU s", flush=True)
        for group in GROUPS:
            readings[group].append(apart(options, "draw", SIDES[0], group))
    found = {name: medians(readings[name]) | apart(options, "count", name) for name in SIDES}
    groups = {name: medians(readings[name]) for name in GROUPS}
    print(report(found, groups))
    if options.output:
        options.output.write_text(json.dumps({"readings": readings, "counted": found}, indent=1))


if __name__ == "__main__":
    main()
