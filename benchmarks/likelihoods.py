"""What cheaper likelihoods of a drawing cost in truth: each beside the distribution that really drew it.

Groups of drawings of one prompt are scored in every way the library knows, and the policy gradient of each
way is compared with the exact one under the same advantages. Defaults are the bundled models.

    OMP_NUM_THREADS=1 python -m benchmarks.likelihoods [--world-model show-o] [--model DIR] [--prompts 8]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import table
from sightloop.algorithms.unmasking import fresh_masks, shared_ratios, some_rounds
from sightloop.models.families import Learning
from sightloop.models.protocols import ImageGenerator
from sightloop.recipes.image_policies import load_image_policy
from sightloop.types import Prompt, Sampling, Turn
from sightloop.world.quizzes import sample_quiz

Unmasking = Callable[[Turn, torch.Generator], list[Turn]]


@dataclass(frozen=True, kw_only=True)
class Way:
    """A likelihood: under which distribution, in which orders of unmasking."""

    says: str
    under: Sampling | None
    unmasking: Unmasking
    part: float = 1.0
    """Share of all rounds that the orders keep; the sum over their codes is divided by it."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """One way's likelihood of each drawing, its policy gradient, and what they cost."""

    log_probs: Tensor
    gradient: Tensor
    cpu_seconds: float


def ways_of(drawing: Sampling, *, masked: bool) -> list[Way]:
    """The exact one first."""
    unguided = replace(drawing, guidance=0.0)

    def as_drawn(turn: Turn, _: torch.Generator) -> list[Turn]:
        return [turn]

    ways = [Way(says="as drawn, guided (exact)", under=drawing, unmasking=as_drawn)]
    ways.append(Way(says="as drawn, without guidance", under=unguided, unmasking=as_drawn))
    if not masked:
        return ways
    for number in (1, 4):
        part = number / (drawing.decode_steps or 1)
        says = f"{number} of the rounds, guided"
        ways.append(Way(says=says, under=drawing, unmasking=_rounds(number), part=part))
    for number in (1, 4, 16):
        says = f"fresh masks, K = {number}, without guidance"
        ways.append(Way(says=says, under=unguided, unmasking=_masks(number)))
    return ways


def _rounds(number: int) -> Unmasking:
    return lambda turn, generator: some_rounds(turn, number=number, generator=generator)


def _masks(number: int) -> Unmasking:
    def masks(turn: Turn, generator: torch.Generator) -> list[Turn]:
        ratios = shared_ratios(turn.prompt.texts, number=number, generator=generator)
        return fresh_masks(turn, ratios, generator=generator)

    return masks


def found_by(policy: ImageGenerator, turn: Turn, way: Way, advantages: Tensor, seed: int) -> Found:
    """Mean log-probability a code of each drawing, averaged over the orders, and its policy gradient."""
    part = policy.trainable_module()
    part.zero_grad(set_to_none=True)
    started = time.process_time()
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(len(turn))
    turns = way.unmasking(turn, generator)
    for ordered in turns:
        mask = ordered.tokens.mask
        log_probs = policy.score(ordered, way.under).log_probs
        codes = mask.sum(1) if way.part == 1 else way.part * turn.tokens.mask.sum(1)
        per_sample = (log_probs * mask).sum(1) / codes
        (-(per_sample * advantages).mean() / len(turns)).backward()
        total += per_sample.detach() / len(turns)
    return Found(log_probs=total, gradient=flat_gradient(part), cpu_seconds=time.process_time() - started)


def flat_gradient(part: nn.Module) -> Tensor:
    """The gradient of all parameters as one vector."""
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in part.parameters() if p.requires_grad]
    return torch.cat([grad.flatten() for grad in grads]).clone()


def correlation(one: Tensor, other: Tensor, group: int) -> float:
    """Mean correlation within groups of consecutive samples."""
    pairs = zip(one.split(group), other.split(group), strict=True)
    return mean(float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs)


def compared(policy: ImageGenerator, options: argparse.Namespace) -> list[list[str]]:
    """A row for each way."""
    rng = np.random.default_rng(options.seed)
    prompts = [sample_quiz(rng).prompt for _ in range(options.prompts)]
    texts = [text for text in prompts for _ in range(options.group)]
    drawing = policy.default_sampling()
    prompt = Prompt(texts=texts, wants="image", seeds=list(range(1, len(texts) + 1)))
    tokens = policy.sample(prompt, drawing)
    turn = Turn(prompt=prompt, tokens=tokens)
    assert tokens.log_probs is not None
    recorded = (tokens.log_probs * tokens.mask).sum(1) / tokens.mask.sum(1)
    advantages = torch.randn(len(texts), generator=torch.Generator().manual_seed(options.seed))
    grouped = advantages.view(-1, options.group)
    advantages = (grouped - grouped.mean(1, keepdim=True)).flatten()
    rows: list[list[str]] = []
    exact: Found | None = None
    for way in ways_of(drawing, masked=tokens.decode_step is not None):
        seeds = range(options.repetitions) if "K" in way.says or "of the rounds" in way.says else range(1)
        found = [found_by(policy, turn, way, advantages, seed) for seed in seeds]
        if exact is None:
            exact = found[0]
            torch.testing.assert_close(exact.log_probs, recorded, atol=1e-4, rtol=0)
        rows.append(_row(way, found, exact, options.group))
    return rows


def _row(way: Way, found: list[Found], exact: Found, group: int) -> list[str]:
    bias = mean(float((f.log_probs - exact.log_probs).mean()) for f in found)
    agreement = mean(correlation(f.log_probs, exact.log_probs, group) for f in found)
    cosine = mean(float(nn.functional.cosine_similarity(f.gradient, exact.gradient, dim=0)) for f in found)
    average = torch.stack([f.gradient for f in found]).mean(0)
    of_average = float(nn.functional.cosine_similarity(average, exact.gradient, dim=0))
    length = mean(float(f.gradient.norm() / exact.gradient.norm()) for f in found)
    cost = mean(f.cpu_seconds for f in found) / exact.cpu_seconds
    figures = [f"{bias:+.3f}", f"{agreement:.2f}", f"{cosine:.2f}", f"{of_average:.2f}", f"{length:.2f}"]
    return [way.says, *figures, f"{cost:.2f}"]


HEADER = (
    "likelihood",
    "nats a code, minus exact",
    "correlation in the group",
    "cosine of the gradient",
    "cosine, averaged over repetitions",
    "length of the gradient",
    "CPU time",
)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="", help="folder of a Show-o or Janus; default the bundled one")
    parser.add_argument("--world-model", choices=("show-o", "janus"), default="show-o")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=8, help="of the ways that draw random orders")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = load_image_policy(
        options.model,
        device=torch.device("cpu"),
        world_model=options.world_model,
        learning=Learning(trained="full"),
    )
    print(table(list(HEADER), compared(policy, options)))


if __name__ == "__main__":
    main()
