"""One VLRM step of this library beside the same step written with transformers and peft alone.

Same weights, same images, and for the same captions the same rewards and gradients, which is checked before
anything is timed. The two take turns, one thread each, with the same micro-batch; medians are printed. Both
optimizers do their work at a learning rate of 0, so that neither side's captions drift in length.

    OMP_NUM_THREADS=1 python -m benchmarks.vlrm_step [--batch 64] [--repetitions 3] [--output results.json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import (
    GIB,
    Clock,
    FlopCounter,
    matmul_rate,
    medians,
    peak_resident,
    reset_peak,
    resident,
    table,
)
from benchmarks.midsize import (
    MOST_TOKENS,
    Sizes,
    caption_words,
    judge_words,
    new_captioner,
    new_judge,
    preparation,
    random_images,
)
from benchmarks.plain_vlrm import PlainVlrm
from sightloop.algorithms.a2c import A2C
from sightloop.data.images import ImageBatch
from sightloop.models.captioners.blip2 import TOWER, Blip2Captioner
from sightloop.models.captioners.critic import TrunkCritic
from sightloop.rewards.combine import combine
from sightloop.rewards.fluency import TokenFluency
from sightloop.rewards.similarity import ItmSimilarity
from sightloop.rollouts.caption import CaptionCollector
from sightloop.training.experiment import Experiment
from sightloop.training.heap import giving_back
from sightloop.training.loop import update, valued
from sightloop.training.optimizer import make_optimizer
from sightloop.training.schedule import Schedule
from sightloop.types import Images, Rollout, Sampling

PHASES = ("sample", "judge", "reference", "critic", "policy", "update", "rest")
RANK = 4


class OurVlrm:
    """The library's step, its parts timed from outside."""

    def __init__(
        self,
        captioner: Any,
        judge: Any,
        *,
        sizes: Sizes,
        clock: Clock,
        micro_batch: int,
        tokens: int = MOST_TOKENS,
    ) -> None:
        """Share the captioner's vision tower with the judge, as the recipe does where the two are equal."""
        policy = Blip2Captioner(captioner, caption_words(), preparation(sizes))
        similarity = ItmSimilarity(judge, judge_words(), preparation(sizes))
        similarity.reuse_tower(TOWER)
        self.critic = TrunkCritic(policy, rank=RANK)
        for up in self.critic.adapters.up.values():
            nn.init.normal_(up, 0, 0.05)
        fluency = TokenFluency(log_probs=policy.reference_log_probs, is_end=policy.is_end)
        rewards = {
            "similarity": clock.timed("judge", similarity),
            "reference": clock.timed("reference", fluency),
        }
        self.policy: Any = policy
        no_batches: Any = ()  # The benchmark hands its images over itself.
        self.policy.encode_images = clock.timed("sample", policy.encode_images)
        self.policy.sample = clock.timed("sample", policy.sample)
        self.policy.score = clock.timed("policy", policy.score)
        self.critic.forward = clock.timed("critic", self.critic.forward)
        algorithm = A2C(critic=self.critic, critic_batch=micro_batch)
        plain = Experiment(
            policy=policy,
            trainable={"policy": policy.trainable_module(), "critic": self.critic},
            batches=no_batches,
            collect=CaptionCollector(
                judge=combine(rewards, dict.fromkeys(rewards, 1.0)),
                sampling=Sampling(max_tokens=tokens, temperature=2.0, top_k=6),
            ),
            algorithm=algorithm,
            critic=algorithm.critic_pass,
            evaluators={},
            schedule=Schedule(micro_batch=micro_batch),
        )
        self.experiment = giving_back(plain)
        self.optimizer = make_optimizer(self.experiment.trainable, self.experiment.schedule)
        self.clock = clock
        self.num_drawn = 0

    def collect(self, pixels: Tensor) -> Rollout:
        """Judged captions, others in every call."""
        number = len(pixels)
        self.num_drawn += number
        batch = ImageBatch(
            images=Images(pixels=pixels),
            sources=[str(index) for index in range(number)],
            references=[""] * number,
            indices=list(range(number)),
            seeds=list(range(self.num_drawn - number, self.num_drawn)),
        )
        return self.experiment.collect(self.policy, batch)

    def step(self, pixels: Tensor) -> Rollout:
        """Sample, judge, learn; the judged captions."""
        experiment = self.experiment
        with self.clock.phase("rest"):
            rollout = self.collect(pixels)
        with self.clock.phase("update"):
            rollout, of_critic = valued(experiment, rollout)
            credit = experiment.algorithm.credit(experiment.policy, rollout)
            sums: Any = {"gradients": experiment.gradients(self.parameters(), 0, 0)}
            update(experiment, self.optimizer, rollout, credit, critic_gradients=of_critic, **sums)
        return rollout

    def parameters(self) -> list[nn.Parameter]:
        """All that a step trains."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def adapters(self, names: list[str]) -> dict[str, nn.Parameter]:
        """The critic's adapters by peft's names."""
        ours = self.critic.adapters

        def find(name: str) -> nn.Parameter:
            key = name.split(".layers.")[1].split(".lora_")[0].replace(".", "/")
            return ours.down[key] if "lora_A" in name else ours.up[key]

        return {name: find(name) for name in names}


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Differences between the two sides on the same captions, as shares of the values' own norm."""

    rewards: float
    advantages: float
    gradients: float


def agreement(ours: OurVlrm, plain: PlainVlrm, pixels: Tensor, *, micro_batch: int) -> Agreement:
    """Let both sides judge and learn from the captions that ours drew.

    Raises:
        ValueError: the two do not do the same work.
    """
    names = list(plain.adapters())
    adapters = ours.adapters(names)
    plain.adopt(adapters)
    rollout, of_critic = valued(ours.experiment, ours.collect(pixels))
    credit = ours.experiment.algorithm.credit(ours.policy, rollout)
    unclipped = Schedule(micro_batch=micro_batch, gradient_clip="none")
    still = torch.optim.SGD([{"params": ours.parameters(), "name": "all"}], lr=0.0)
    update(replace(ours.experiment, schedule=unclipped), still, rollout, credit, critic_gradients=of_critic)
    pairs = list(zip(ours.policy.trainable_module().parameters(), plain.bridge(), strict=True))
    pairs += [(adapters[name], plain.adapters()[name]) for name in names]
    pairs += list(zip(ours.critic.head.parameters(), plain.head.parameters(), strict=True))
    gradients = [_gradient(one) for one, _ in pairs]
    tokens = rollout.turns[0].tokens
    judged = plain.gradients(pixels, tokens.ids, tokens.mask, clock=Clock(), micro_batch=micro_batch)
    theirs = [_gradient(other) for _, other in pairs]

    def difference(one: Tensor, other: Tensor) -> float:
        return float((one - other).norm() / other.norm())

    parts = rollout.reward_parts
    found = Agreement(
        rewards=max(difference(parts[name], getattr(judged, name)) for name in ("similarity", "reference")),
        advantages=difference(credit.advantages, judged.advantages),
        gradients=difference(*(torch.cat([g.flatten() for g in side]) for side in (gradients, theirs))),
    )
    worst = max(found.rewards, found.advantages, found.gradients)
    if not worst < 1e-3:
        raise ValueError(f"the two sides disagree on the same captions: {found}")
    return found


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise ValueError("one side has no gradient where the other has one")
    return parameter.grad


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One measured step."""

    wall: dict[str, float]
    cpu: dict[str, float]
    memory: int
    """Bytes that the step needed on top of what was there before it."""
    lengths: Tensor
    flops: int | None


def measured(step: Callable[[], Tensor], clock: Clock, *, counting: bool) -> Reading:
    """Run a step on a clean slate."""
    before = reset_peak()
    clock.read()
    counter = FlopCounter()
    if counting:
        with counter:
            lengths = step()
    else:
        lengths = step()
    wall, cpu = clock.read()
    return Reading(
        wall=wall,
        cpu=cpu,
        memory=peak_resident() - before,
        lengths=lengths,
        flops=counter.total if counting else None,
    )


@dataclass(frozen=True, kw_only=True)
class TurnObjective:
    """One implementation with its clock and what it holds between steps."""

    step: Callable[[Tensor], Tensor]
    clock: Clock
    weights: int
    optimizer: torch.optim.Optimizer
    readings: list[Reading]


def bytes_held(modules: list[nn.Module], optimizer: torch.optim.Optimizer) -> int:
    """Weights (each once) and Adam's two moments."""
    tensors = {p.data_ptr(): p.numel() * p.element_size() for m in modules for p in m.parameters()}
    trained = sum(p.numel() * p.element_size() for g in optimizer.param_groups for p in g["params"])
    return sum(tensors.values()) + 2 * trained


def joint(sizes: Sizes, *, micro_batch: int) -> tuple[OurVlrm, PlainVlrm, dict[str, TurnObjective]]:
    """The two implementations over the same weights."""
    torch.manual_seed(0)
    captioner = new_captioner(sizes)
    plain_judge = new_judge(sizes, captioner)
    our_judge = new_judge(sizes, captioner)
    our_judge.load_state_dict(plain_judge.state_dict())
    clocks = {"sightloop": Clock(), "plain": Clock()}
    ours = OurVlrm(captioner, our_judge, sizes=sizes, clock=clocks["sightloop"], micro_batch=micro_batch)
    plain = PlainVlrm(
        captioner,
        plain_judge,
        words=caption_words(),
        judge_words=judge_words(),
        pictures=preparation(sizes),
        rank=RANK,
        head=ours.critic.head,
    )
    return (
        ours,
        plain,
        {
            "sightloop": TurnObjective(
                step=lambda pixels: ours.step(pixels).turns[0].tokens.mask.sum(1),
                clock=clocks["sightloop"],
                weights=bytes_held([captioner, our_judge, ours.critic], ours.optimizer),
                optimizer=ours.optimizer,
                readings=[],
            ),
            "plain": TurnObjective(
                step=lambda pixels: plain.step(
                    pixels, clocks["plain"], max_tokens=MOST_TOKENS, micro_batch=micro_batch
                ),
                clock=clocks["plain"],
                weights=bytes_held([plain.model, plain_judge, plain.head], plain.optimizer),
                optimizer=plain.optimizer,
                readings=[],
            ),
        },
    )


def compare(sides: dict[str, TurnObjective], pixels: Tensor, repetitions: int) -> float:
    """Fill the sides' readings, in turn; the median rate of the machine in between (FLOPs a CPU second)."""
    rates = [matmul_rate()]
    for repetition in range(repetitions):
        for name in sides if repetition % 2 == 0 else reversed(sides):
            side = sides[name]
            for other in sides.values():
                other.optimizer.zero_grad(set_to_none=True)
            reading = measured(lambda side=side: side.step(pixels), side.clock, counting=repetition == 0)
            side.readings.append(reading)
            rates.append(matmul_rate())
            print(f"# {name}: {sum(reading.cpu.values()):.1f} CPU s", flush=True)
    return float(torch.tensor(rates).median())


def figures(side: TurnObjective, rate: float) -> dict[str, float]:
    """All numbers of one side."""
    wall, cpu = medians([r.wall for r in side.readings]), medians([r.cpu for r in side.readings])
    flops = side.readings[0].flops or 0
    total = medians([{"wall": sum(r.wall.values()), "cpu": sum(r.cpu.values())} for r in side.readings])
    captions, memory = len(side.readings[0].lengths), float(median(r.memory for r in side.readings))
    tokens = captions * float(torch.cat([r.lengths for r in side.readings]).float().mean())
    return (
        {f"wall/{name}": wall.get(name, 0.0) for name in PHASES}
        | {f"cpu/{name}": cpu.get(name, 0.0) for name in PHASES}
        | {
            "wall/step": total["wall"],
            "cpu/step": total["cpu"],
            "captions a second": captions / total["wall"],
            "captions a CPU second": captions / total["cpu"],
            "tokens a caption": tokens / captions,
            "tokens a CPU second": tokens / total["cpu"],
            "held GiB": side.weights / GIB,
            "step GiB": memory / GIB,
            "peak GiB": (side.weights + memory) / GIB,
            "TFLOP": flops / 1e12,
            "floor": flops / rate,
            "over floor": total["cpu"] / (flops / rate),
        }
    )


def report(found: dict[str, dict[str, float]]) -> str:
    """One table of both sides."""
    ours, plain = found["sightloop"], found["plain"]
    rows = [
        [
            f"{phase} (s: wall, CPU)",
            *(f"{side[f'wall/{phase}']:.2f}, {side[f'cpu/{phase}']:.2f}" for side in (ours, plain)),
            f"{plain[f'cpu/{phase}'] / max(ours[f'cpu/{phase}'], 1e-9):.2f}" if phase != "rest" else "",
        ]
        for phase in (*PHASES, "step")
    ]
    for name, label, digits in (
        ("captions a second", "captions a second", 2),
        ("captions a CPU second", "captions a CPU second", 2),
        ("tokens a caption", "tokens a caption", 1),
        ("tokens a CPU second", "tokens a CPU second", 1),
        ("held GiB", "weights and Adam's moments (GiB)", 2),
        ("step GiB", "on top of them in a step (GiB)", 2),
        ("peak GiB", "peak over the imports (GiB)", 2),
        ("TFLOP", "TFLOP", 2),
        ("floor", "floor: FLOPs at the matmul rate (CPU s)", 2),
        ("over floor", "step / floor", 2),
    ):
        ratio = plain[name] / ours[name]
        rows.append([label, f"{ours[name]:.{digits}f}", f"{plain[name]:.{digits}f}", f"{ratio:.2f}"])
    return table(["", "sightloop", "plain", "plain / sightloop"], rows)


def main() -> None:
    """Check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a model of toy size, to try the script")
    parser.add_argument("--output", type=Path, help="write all numbers here, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    imports = resident()
    toy = Sizes(image=28, vision=(2, 64), reader=(2, 64), language=(2, 64), queries=4)
    sizes = toy if options.tiny else Sizes()
    ours, plain, sides = joint(sizes, micro_batch=options.micro_batch)
    pixels = random_images(sizes, options.batch)
    few = pixels[: min(8, options.batch)]
    found = agreement(ours, plain, few, micro_batch=5)
    print(f"relative differences on the same captions: {found}", flush=True)
    for side in sides.values():
        for group in side.optimizer.param_groups:
            group["lr"] = 0.0
        side.step(few)
    rate = compare(sides, pixels, options.repetitions)
    numbers = {name: figures(side, rate) for name, side in sides.items()}
    print(f"matrix products: {rate / 1e9:.0f} GFLOP a CPU second; imports {imports / GIB:.2f} GiB\n")
    print(report(numbers))
    if options.output:
        everything = {"rate": rate, "agreement": vars(found), "batch": options.batch} | numbers
        options.output.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
