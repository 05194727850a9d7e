"""One complete GRPO step of this library beside the same step written with transformers and peft alone.

Draw a group of images for each prompt, ask about each of them, judge the answers by their facts, compare
each with its group, score both turns under the policy and under its reference, go back, update. On Show-o and
Janus, of the embedded world and of middle size (8 layers x 512 with real ids and codes, random weights), one
thread. First both learn from the same samples and must have the same gradient; then each side works in a
process of its own, in turns, and medians are printed. The floor is the smaller count of FLOPs at the
machine's rate of matrix products.

    OMP_NUM_THREADS=1 python -m benchmarks.unirl_step [--repetitions 3] [--output results.json]
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from benchmarks.measure import (
    MIB,
    Clock,
    FlopCounter,
    matmul_rate,
    medians,
    peak_resident,
    reset_peak,
    resident,
    table,
)
from benchmarks.midsize_unified import FAMILIES, Family, quizzes, whole_policy
from benchmarks.plain_unirl import KL_WEIGHT, PLAIN, PlainUnirl, Samples, Work
from sightloop.algorithms.grpo import GRPO
from sightloop.algorithms.turn_objectives import TurnObjectives
from sightloop.algorithms.unmasking import FreshMasks
from sightloop.models.janus.policy import Janus
from sightloop.models.reference import Reference, frozen_copy
from sightloop.models.show_o.policy import ShowO
from sightloop.quizzes.stream import QuizBatch
from sightloop.rewards.answers import FactReward
from sightloop.rewards.combine import combine
from sightloop.rollouts.quiz import QuizCollector
from sightloop.training.experiment import Experiment
from sightloop.training.loop import update
from sightloop.training.optimizer import make_optimizer
from sightloop.training.schedule import Schedule
from sightloop.types import (
    Credit,
    Policy,
    Prompt,
    Rollout,
    Sampling,
    Tokens,
    TokenScores,
    Turn,
    on_last_token,
)

SIDES = ("sightloop", "plain")
PHASES = ("draw", "ask", "judge", "policy", "reference", "backward", "optimizer", "rest")
TOLERANCE = 1e-4
"""Largest difference of the two gradients, as a share of their norm."""


class NoBatches:
    """The benchmark hands its quizzes over itself."""

    def __iter__(self) -> Iterator[QuizBatch]:
        return iter(())

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


class OurUnirl:
    """The library's step, its parts timed from outside."""

    def __init__(self, whole: ShowO | Janus, work: Work, clock: Clock) -> None:
        """Over the model of `whole`, which tells ids and sizes."""
        self.clock, self.work = clock, work
        trained: Any = "lora" if work.rank else "full"
        changes = {"trained": trained} | ({"lora_rank": work.rank} if work.rank else {})
        if isinstance(whole, ShowO):
            settings = replace(whole.settings, **changes)
            policy: Any = ShowO(whole.model, whole.tokenizer, whole.magvit, settings=settings)
        else:
            policy = Janus(whole.model, whole.tokenizer, settings=replace(whole.settings, **changes))
        self.policy = policy
        reference: Policy = Reference(policy) if work.rank else frozen_copy(policy)
        masked = isinstance(policy, ShowO)
        self.experiment: Experiment[Any, Any] = Experiment(
            policy=policy,
            trainable={"policy": policy.trainable_module()},
            batches=NoBatches(),
            collect=QuizCollector(
                drawing=work.drawing,
                answering=Sampling(max_tokens=work.num_words),
                judge=clock.timed("judge", combine({"facts": FactReward()}, {"facts": 1.0})),
                per_prompt=work.group,
            ),
            algorithm=GRPO(
                reference=reference,
                kl_weight=KL_WEIGHT,
                objectives=TurnObjectives(unmasking=FreshMasks() if masked else None),
            ),
            evaluators={},
            schedule=Schedule(micro_batch=work.micro_batch),
        )
        self.optimizer = make_optimizer(self.experiment.trainable, self.experiment.schedule)
        self._time(policy)
        if reference is not policy and not work.rank:
            self._time(reference)

    def _time(self, policy: Any) -> None:
        sample, score, clock = policy.sample, policy.score, self.clock

        def timed_sample(prompt: Prompt, sampling: Sampling) -> Tokens:
            with clock.phase("draw" if prompt.wants == "image" else "ask"):
                return sample(prompt, sampling)

        def timed_score(turn: Turn, under: Sampling | None = None) -> TokenScores:
            with clock.phase("policy" if torch.is_grad_enabled() else "reference"):
                return score(turn, under)

        policy.sample, policy.score = timed_sample, timed_score
        policy.understanding_input = clock.timed("ask", policy.understanding_input)
        self.optimizer.step = clock.timed("optimizer", self.optimizer.step)

    def step(self, batch: QuizBatch) -> Rollout:
        """All of it."""
        experiment = self.experiment
        with self.clock.phase("rest"):
            rollout = experiment.collect(self.policy, batch)
            credit = experiment.algorithm.credit(self.policy, rollout)
        with self.clock.phase("backward"):
            update(experiment, self.optimizer, rollout, credit)
        return rollout

    def gradients(self, rollout: Rollout, credit: Credit) -> None:
        """Leave the gradients of a judged batch in the parameters."""
        unclipped = replace(self.experiment.schedule, gradient_clip="none")
        still = torch.optim.SGD([{"params": self.parameters(), "name": "policy"}], lr=0.0)
        update(replace(self.experiment, schedule=unclipped), still, rollout, credit)

    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def partner(self, plain: PlainUnirl) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Each trained parameter beside the plain side's."""
        if not self.work.rank:
            return list(zip(self.parameters(), plain.parameters(), strict=True))
        ours = self.policy.adapters
        pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        for name, parameter in plain.adapters().items():
            place = "layers." + name.split(".layers.")[1].split(".lora_")[0]
            part = ours.down if "lora_A" in name else ours.up
            pairs.append((part[place.replace(".", "/")], parameter))
        assert len(pairs) == len(self.parameters()), "every adapter has its partner"
        return pairs


def work_of(policy: ShowO | Janus, options: argparse.Namespace, *, tiny: bool) -> Work:
    """What a step of a family does."""
    if isinstance(policy, ShowO):
        # Fewer rounds than the official 18, as training code draws.
        rounds = min(12, policy.num_image_tokens)
        drawing = policy.default_sampling(decode_steps=rounds, guidance=1.75)
    else:
        drawing = policy.default_sampling()
    group = options.group or (3 if isinstance(policy, ShowO) and not tiny else 8)
    return Work(
        group=group,
        drawing=drawing,
        num_words=16,
        micro_batch=options.micro_batch or group,
        rank=0 if options.full else 16,
    )


def difference(whole: ShowO | Janus, work: Work, batch: QuizBatch) -> float:
    """How far the gradients of both sides are apart on the samples that ours drew, as a share of their norm.

    Rewards are random, and the policy is not its reference: every part of the loss has a gradient.
    """
    torch.manual_seed(1)
    model = copy.deepcopy(whole.model)
    ours = OurUnirl(whole, work, Clock())
    plain = plain_of(whole, model, work)
    pairs = ours.partner(plain)
    with torch.no_grad():
        for mine, other in pairs:
            mine.add_(torch.randn_like(mine) * 0.02)
            other.copy_(mine)
    rollout = ours.experiment.collect(ours.policy, batch)
    drawing, answering = rollout.turns
    rewards = torch.rand(len(rollout))
    rollout = replace(rollout, rewards=on_last_token(rewards, answering.tokens))
    credit = ours.experiment.algorithm.credit(ours.policy, rollout)
    ours.gradients(rollout, credit)
    counted = credit.unmasking[0].tokens if credit.unmasking else drawing.tokens
    samples = Samples(
        prompts=drawing.prompt.texts,
        questions=answering.prompt.texts,
        codes=drawing.tokens.ids,
        hidden=counted.mask,
        answers=answering.tokens.ids,
        said=answering.tokens.mask,
        rewards=rewards,
    )
    plain.gradients(samples, Clock())
    one, other = (torch.cat([_gradient(pair[k]) for pair in pairs]) for k in (0, 1))
    if not float(other.norm()) > 0:
        raise ValueError("there is no gradient to compare")
    return float((one - other).norm() / other.norm())


def plain_of(whole: ShowO | Janus, model: Any, work: Work) -> PlainUnirl:
    """The plain side of a family."""
    return PLAIN["show-o" if isinstance(whole, ShowO) else "janus"](whole, model, work)


def _gradient(parameter: nn.Parameter) -> Tensor:
    grad = parameter.grad
    return torch.zeros(parameter.numel()) if grad is None else grad.flatten()


def measured(name: str, family: Family, options: argparse.Namespace) -> dict[str, float]:
    """Seconds by phase, memory and FLOPs of one side in this process, or how far gradients differ."""
    tiny = options.size == "tiny"
    imports = resident()
    torch.manual_seed(0)
    whole = whole_policy(family, tiny=tiny, image=options.image)
    work, clock = work_of(whole, options, tiny=tiny), Clock()
    if options.task == "check":
        few = replace(work, group=2, micro_batch=1)
        return {"difference": difference(whole, few, quizzes(2 if tiny else 1, tiny=tiny))}
    if name == "sightloop":
        side: Any = OurUnirl(whole, work, clock)
    else:
        side = plain_of(whole, whole.model, work)
    for group in side.optimizer.param_groups:
        group["lr"] = 0.0
    number = options.prompts or (4 if tiny else 1)

    def step(first: int) -> float:
        batch = quizzes(number, tiny=tiny, first=first)
        if name == "sightloop":
            return float(side.step(batch).turns[1].tokens.mask.sum())
        return float(side.step(batch.quizzes, clock).said.sum())

    repeats, rates, counter = 10 if tiny else 1, [matmul_rate()], FlopCounter()
    if tiny:
        with counter:
            step(0)
    held = reset_peak()
    clock.read()
    # A step of middle size is long enough to be counted while it is timed.
    with counter if options.counting and not tiny else nullcontext():
        words = sum(step(number * k) for k in range(repeats)) / repeats
    wall, cpu = clock.read()
    peak = peak_resident()
    rates.append(matmul_rate())
    found = {f"wall/{phase}": wall.get(phase, 0.0) / repeats for phase in PHASES}
    found |= {f"cpu/{phase}": cpu.get(phase, 0.0) / repeats for phase in PHASES}
    return found | {
        "wall/step": sum(wall.values()) / repeats,
        "cpu/step": sum(cpu.values()) / repeats,
        "images": number * work.group,
        "words": words,
        "held MiB": (held - imports) / MIB,
        "step MiB": (peak - held) / MIB,
        "peak MiB": (peak - imports) / MIB,
        "rate": sum(rates) / len(rates),
        "TFLOP": counter.total / 1e12,
    }


def apart(
    task: str, name: str, family: Family, options: argparse.Namespace, *, counting: bool = False
) -> dict[str, float]:
    """Run `measured` where nothing else has been imported or freed."""
    call = [sys.executable, "-m", "benchmarks.unirl_step", "--task", task, "--side", name]
    call += ["--family", family, "--size", options.size, *(["--full"] if options.full else [])]
    call += ["--counting"] if counting else []
    for option in ("image", "group", "prompts"):
        call += [f"--{option}", str(vars(options)[option])]
    micro_batch = options.our_micro_batch if name == "sightloop" else 0
    call += ["--micro-batch", str(micro_batch or options.micro_batch)]
    done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def report(found: dict[str, dict[str, float]]) -> str:
    """One table of both sides."""
    ours, plain = (found[name] for name in SIDES)
    floor = min(ours["TFLOP"], plain["TFLOP"]) * 1e12 / ((ours["rate"] + plain["rate"]) / 2)
    for side in (ours, plain):
        side["images a second"] = side["images"] / side["wall/step"]
        side["images a CPU second"] = side["images"] / side["cpu/step"]
        side["over floor"] = side["cpu/step"] / floor
    rows: list[list[str]] = []
    for phase in (*PHASES, "step"):
        cells = [f"{side[f'wall/{phase}']:.3g}, {side[f'cpu/{phase}']:.3g}" for side in (ours, plain)]
        ratio = plain[f"cpu/{phase}"] / max(ours[f"cpu/{phase}"], 1e-9)
        rows.append([f"{phase} (s: wall, CPU)", *cells, f"{ratio:.2f}" if phase != "rest" else ""])
    for figure, label in (
        ("images a second", "images a second"),
        ("images a CPU second", "images a CPU second"),
        ("words", "words answered"),
        ("held MiB", "model and optimizer (MiB)"),
        ("step MiB", "on top of them in a step (MiB)"),
        ("peak MiB", "peak over the imports (MiB)"),
        ("TFLOP", "TFLOP"),
        ("over floor", "CPU seconds / floor"),
    ):
        ratio = plain[figure] / max(ours[figure], 1e-9)
        rows.append([label, f"{ours[figure]:.4g}", f"{plain[figure]:.4g}", f"{ratio:.2f}"])
    head = ["", *SIDES, "plain / sightloop"]
    return f"floor: {floor:.3g} CPU seconds at {ours['rate'] / 1e9:.0f} GFLOP each\n\n" + table(head, rows)


def compare(family: Family, options: argparse.Namespace) -> dict[str, Any]:
    """Check, measure, print one family at one size."""
    apart_by = apart("check", SIDES[0], family, options)["difference"]
    if not apart_by < TOLERANCE:
        raise SystemExit(f"the gradients of the two sides differ by {apart_by:.1e} of their norm")
    print(f"{family}, {options.size}: gradients of the same samples differ by {apart_by:.1e} of their norm")
    readings: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    for repetition in range(options.repetitions):
        for name in SIDES if repetition % 2 == 0 else reversed(SIDES):
            reading = apart("measure", name, family, options, counting=repetition == 0)
            readings[name].append(reading)
            print(f"# {name}: {reading['cpu/step']:.3g} CPU s", flush=True)
    found = {name: medians(readings[name]) for name in SIDES}
    for name in SIDES:
        found[name]["TFLOP"] = readings[name][0]["TFLOP"]
    print(report(found), end="\n\n", flush=True)
    return {"difference": apart_by, "readings": readings, "figures": found}


def main() -> None:
    """Check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--family", choices=FAMILIES, help="None = both")
    parser.add_argument("--size", choices=("tiny", "middle"), help="None = both")
    parser.add_argument("--prompts", type=int, default=0, help="0 = 4, of middle size 1")
    parser.add_argument("--group", type=int, default=0, help="0 = 8, middle Show-o: 3, as in the paper")
    parser.add_argument("--micro-batch", type=int, default=0, help="samples a backward pass; 0 = a group")
    parser.add_argument("--our-micro-batch", type=int, default=0, help="of sightloop alone; 0 = the same")
    parser.add_argument("--image", type=int, default=384, help="pixels of a middle Janus: 576 codes at 384")
    parser.add_argument("--full", action="store_true", help="train whole models beside frozen copies")
    parser.add_argument("--output", type=Path, help="write all numbers here, as JSON")
    parser.add_argument("--task", choices=("check", "measure"), help=argparse.SUPPRESS)
    parser.add_argument("--counting", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if options.task:
        print(json.dumps(measured(options.side, options.family, options)))
        return
    everything: dict[str, Any] = {}
    for size in [options.size] if options.size else ["tiny", "middle"]:
        for family in [options.family] if options.family else FAMILIES:
            chosen = argparse.Namespace(**{**vars(options), "size": size})
            everything[f"{family}, {size}"] = compare(family, chosen)
    if options.output:
        options.output.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
