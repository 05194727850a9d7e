"""A run small enough to be killed many times: tables for networks, but the real A2C, loop and run folder.

As a script it trains one run: `python toy_run.py FOLDER [--resume] [--die-at N] ...`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightloop.algorithms.a2c import A2C
from sightloop.models.decoding.sampling import draw, uniform_numbers
from sightloop.training import distributed
from sightloop.training.experiment import Experiment
from sightloop.training.loop import train
from sightloop.training.run_files import Run
from sightloop.training.schedule import CriticSchedule, Schedule
from sightloop.types import Evaluation, Images, Prompt, Rollout, Sampling, Tokens, TokenScores, Turn

END, WORDS = 0, ["", " red", " blue", " star", " cross"]
LENGTH = 6
LAW = Sampling(max_tokens=LENGTH)
SCHEDULE = CriticSchedule(
    steps=11,
    micro_batch=3,
    learning_rate=0.05,
    critic_learning_rate=0.2,
    warmup_steps=3,
    gradient_clip="value",
    save_every=4,
    eval_every=3,
    sample_every=5,
    best_metric="held_out/blue",
)


class Trunk(nn.Module):
    """Two frozen layers between a trainable table and the words."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, len(WORDS))
        for layer in (self.first, self.second):
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator)
            layer.bias.data = torch.randn(layer.bias.shape, generator=generator)
        self.requires_grad_(False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits of the words."""
        return self.second(torch.tanh(self.first(hidden)))


class ToyPolicy(nn.Module):
    """What comes next depends on the position alone."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.linspace(-1, 1, LENGTH * 4).sin().view(LENGTH, 4))
        self.trunk = Trunk()

    def law(self, length: int = LENGTH) -> Tensor:
        """Log-probabilities of the words at each position."""
        return self.trunk(self.table)[:length].log_softmax(-1)

    @torch.no_grad()
    def sample(self, prompt: Prompt, sampling: Sampling) -> Tokens:
        """Draw words up to the end token."""
        uniform = uniform_numbers(len(prompt), LENGTH, prompt.seeds)
        logits = self.law()
        columns = [
            draw(row.expand(len(prompt), -1), sampling, u) for row, u in zip(logits, uniform.T, strict=True)
        ]
        ids, log_probs = (torch.stack(column, 1) for column in zip(*columns, strict=True))
        ended_before = F.pad((ids == END).cumsum(1)[:, :-1], (1, 0)) > 0
        return Tokens(ids=ids.masked_fill(ended_before, END), mask=~ended_before, log_probs=log_probs)

    def score(self, turn: Turn, under: Sampling | None = None) -> TokenScores:
        """The table's log-probabilities."""
        ids, mask = turn.tokens.ids, turn.tokens.mask
        law = self.law(ids.shape[1])
        log_probs = law.expand(len(ids), -1, -1).gather(2, ids[..., None])[..., 0]
        entropy = -(law * law.exp()).sum(-1).detach().expand(len(ids), -1)
        return TokenScores(log_probs=log_probs.masked_fill(~mask, 0), entropy=entropy.masked_fill(~mask, 0))

    def encode(self, texts: list[str]) -> Tokens:
        """Nobody asks for it."""
        raise NotImplementedError

    def decode(self, tokens: Tokens) -> list[list[str]]:
        """The words before the end token."""
        rows = zip(tokens.ids.tolist(), tokens.mask.tolist(), strict=True)
        return [[WORDS[i] for i, counts in zip(*row, strict=True) if counts and i != END] for row in rows]


class ToyCritic(nn.Module):
    """A value for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(LENGTH))

    def forward(self, turn: Turn) -> Tensor:
        """The values at the turn's tokens."""
        mask = turn.tokens.mask
        return self.values[: mask.shape[1]].expand(len(mask), -1).masked_fill(~mask, 0)


class Numbers:
    """Running numbers of samples, a slice of every batch for each rank."""

    def __init__(self, batch_size: int) -> None:
        self.size = batch_size
        self.position = 0

    def __iter__(self) -> Iterator[list[int]]:
        return self

    def __next__(self) -> list[int]:
        mine = self.size // distributed.num_ranks()
        first = self.position + distributed.rank() * mine
        self.position += self.size
        return list(range(first, first + mine))

    def state_dict(self) -> dict[str, Any]:
        """How many samples were handed out."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.position = state["position"]


@dataclass(frozen=True, kw_only=True)
class Collector:
    """Pays for blue things; `noise` adds numbers from global generators."""

    noise: tuple[str, ...] = ("torch", "numpy")
    watch: Callable[[], None] = lambda: None

    @torch.no_grad()
    def __call__(self, policy: ToyPolicy, batch: list[int]) -> Rollout:
        """Judged words, one grey pixel a sample as the image."""
        self.watch()
        pixels = torch.tensor(batch).remainder(256).byte()[:, None, None, None].repeat(1, 3, 1, 1)
        prompt = Prompt(texts=[""] * len(batch), images=Images(pixels=pixels), seeds=batch)
        tokens = policy.sample(prompt, LAW)
        blue = ((tokens.ids == 2) & tokens.mask).float()
        rewards = blue + 0.1 * tokens.mask * torch.tensor(batch)[:, None].remainder(3)
        draws = {
            "torch": lambda: torch.rand(rewards.shape),
            "numpy": lambda: float(np.random.rand()),
            "python": random.random,
        }
        for generator in self.noise:
            rewards = rewards + tokens.mask * draws[generator]()
        return Rollout(
            turns=(Turn(prompt=prompt, tokens=tokens),),
            rewards=rewards,
            reward_parts={"blue": blue.sum(1)},
            group=torch.tensor(batch),
            pieces=policy.decode(tokens),
            sources=[f"image {number}" for number in batch],
        )


def held_out(policy: ToyPolicy) -> Evaluation:
    """How likely blue is; global generators are used, as real evaluations may."""
    _ = torch.rand(1), np.random.rand(), random.random()
    blue = policy.law().exp()[:, 2].tolist()
    samples = [{"source": f"held out {i}", "caption": "blue"} for i in range(LENGTH)]
    return Evaluation(
        metrics={"blue": sum(blue) / LENGTH}, per_sample={"blue": blue}, samples=samples, protocol={"n": "6"}
    )


def experiment_of(
    schedule: Schedule = SCHEDULE,
    *,
    batch_size: int = 8,
    collector: Collector | None = None,
    shard: bool = False,
) -> Experiment[ToyPolicy, list[int]]:
    """The toy experiment."""
    policy, critic = ToyPolicy(), ToyCritic()
    algorithm = A2C(critic=critic, reduce=distributed.sum_over_ranks)
    if shard:
        distributed.shard([policy.trunk.first, policy.trunk.second], [policy.table])
    return Experiment(
        policy=policy,
        trainable={"policy": policy, "critic": critic},
        batches=Numbers(batch_size),
        collect=collector or Collector(),
        algorithm=algorithm,
        critic=algorithm.critic_pass,
        evaluators={"held_out": held_out},
        schedule=schedule,
    )


def run_in(folder: Path, schedule: Schedule = SCHEDULE, *, resume: bool = False) -> Run:
    """A new run, or one that goes on."""
    config = {"schedule": {"steps": schedule.steps}}
    if resume:
        return Run.resume(folder, config=config, schedule=schedule)
    return Run.create(folder, recipe="toy", config=config, schedule=schedule)


def traces(folder: Path) -> dict[str, Any]:
    """All of a run folder that must not depend on interruptions: not clocks, not the environment."""
    clocks = ("seconds/", "speed/", "memory/")
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        # A manifest has checksums of lines with clocks in them.
        if path.is_dir() or path.name in ("environment.json", "manifest.json"):
            continue
        if name == "metrics.jsonl":
            records = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{k: v for k, v in r.items() if not k.startswith(clocks)} for r in records]
        else:
            found[name] = hashlib.sha1(path.read_bytes()).hexdigest()
    return found


class Mortal:
    """Counts what a run does to files and batches, and kills the process outright at a chosen count."""

    def __init__(self, die_at: int) -> None:
        self.left = die_at

    def beat(self) -> None:
        """One more event."""
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` with an event before and one after."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.beat()
            result = function(*args, **kwargs)
            self.beat()
            return result

        return counted


def main() -> None:
    """Train one run as the options say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--die-at", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=SCHEDULE.steps)
    parser.add_argument("--no-noise", action="store_true")
    parser.add_argument("--shard", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    distributed.start()
    schedule = replace(SCHEDULE, steps=options.steps)
    run = run_in(options.folder, schedule, resume=options.resume)
    mortal = Mortal(options.die_at)
    os.replace, os.fsync = mortal.around(os.replace), mortal.around(os.fsync)

    def watch() -> None:
        mortal.beat()
        time.sleep(options.pause)

    collector = Collector(noise=() if options.no_noise else ("torch", "numpy"), watch=watch)
    run.stop_on_signals()
    train(experiment_of(schedule, collector=collector, shard=options.shard), run)
    run.close()
    distributed.stop()


if __name__ == "__main__":
    main()
