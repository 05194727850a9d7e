"""Drawing the codes of an image in parallel rounds (MaskGIT, arXiv 2202.04200, as Show-o does it).

Every round draws a code for each unknown position, keeps those it is surest of and forgets the rest. The
number that stays unknown follows a schedule that must be computed in float32: in exact arithmetic some rounds
keep one code more. Everything that decides is float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sightloop.models.decoding.sampling import uniform_numbers
from sightloop.models.mixed_precision import forget_casts
from sightloop.models.only_numbers import marked
from sightloop.types import MaskSchedule, Sampling, Tokens

_SMALLEST = 1e-20
_ROWS_AT_ONCE = 512
"""Positions whose distributions are in memory together."""
RELAXED_STREAM = 0x5DEECE66D
"""Sets the seeds of relaxed codes' noise apart from those of the draws."""
_CHOICE_STREAM = 0x2545F4914F6CDD1D
"""The same for the choice of the rounds that are relaxed."""

Look = Callable[[Int[Tensor, "B N"], Bool[Tensor, "B N"]], tuple[Tensor, ...]]
"""From codes and where they are unknown to the hidden states of the unknown positions, a tensor a branch."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The random numbers of one round."""

    order: Float[Tensor, "B N"]
    """Gumbel noise in the choice of the codes that are kept."""
    uniform: Float[Tensor, "B N"] | None = None
    """In [0, 1): codes are drawn by inverting the cumulative distribution. None = by `exponential`."""
    exponential: Float[Tensor, "B N K"] | None = None
    """The code with the largest probability over noise is drawn, as `torch.multinomial` does."""

    def pick(self, distribution: Float[Tensor, "n K"], at: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """One code for each position; `at` counts positions over the whole batch."""
        if self.exponential is not None:
            return (distribution / self.exponential.flatten(0, 1)[at]).argmax(-1)
        assert self.uniform is not None
        sums = distribution.cumsum(-1)
        point = self.uniform.flatten()[at, None] * sums[:, -1:]
        # Rounding may put the point past the last sum, or on a code that the distribution excludes.
        found = torch.searchsorted(sums, point, right=True)[:, 0].clamp(max=distribution.shape[1] - 1)
        return torch.where(distribution.gather(1, found[:, None])[:, 0] > 0, found, distribution.argmax(-1))

    def gumbel(self, at: Int[Tensor, " n"]) -> Float[Tensor, "n K"]:
        """Gumbel noise whose largest sum with the log-distribution is the code that `pick` draws."""
        assert self.exponential is not None
        return -self.exponential.flatten(0, 1)[at].clamp(min=_SMALLEST).log()


def gumbel_of(uniform: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Gumbel noise of numbers in [0, 1)."""
    inner = -uniform.clamp(min=_SMALLEST).log()
    return -inner.clamp(min=_SMALLEST).log()


def seeded_noise(shape: tuple[int, int, int], sampling: Sampling, seeds: list[int] | None) -> Iterator[Noise]:
    """Noise of every round for B samples of N codes out of K: one stream a seed, or the global generator."""
    size, length, num_codes = shape
    steps = rounds_of(sampling)
    numbers = uniform_numbers(size, steps * 2 * length, seeds).view(size, steps, 2, length)
    for step in range(steps):
        order = gumbel_of(numbers[:, step, 1])
        if step != relaxed_round(sampling):
            yield Noise(order=order, uniform=numbers[:, step, 0])
            continue
        apart = None if seeds is None else [seed ^ RELAXED_STREAM for seed in seeds]
        uniform = uniform_numbers(size, length * num_codes, apart).view(size, length, num_codes)
        yield Noise(order=order, exponential=-(1 - uniform).clamp(min=_SMALLEST).log())


def official_noise(
    shape: tuple[int, int, int], steps: int, generator: torch.Generator | None = None
) -> Iterator[Noise]:
    """Noise as the official code draws it: codes of the whole batch, then the order, round by round."""
    device = "cpu" if generator is None else generator.device
    for _ in range(steps):
        exponential = torch.empty(shape, device=device).exponential_(generator=generator)
        order = torch.rand(shape[:2], generator=generator, device=device)
        yield Noise(order=gumbel_of(order), exponential=exponential)


def rounds_of(sampling: Sampling) -> int:
    """The number of rounds that are run.

    Raises:
        ValueError: it is not given.
    """
    if sampling.decode_steps is None:
        raise ValueError(
            "decode_steps is None; give the number of rounds, or take the distribution from drawing()"
        )
    relaxed = relaxed_round(sampling)
    return sampling.decode_steps if relaxed is None else relaxed + 1


def relaxed_round(sampling: Sampling) -> int | None:
    """The round with which a drawing ends that carries a gradient there: all codes still unknown are final.

    None if it is drawn to its end.

    Raises:
        ValueError: there is no such round, or rounds of the finished drawing are asked for as well.
    """
    rounds = sampling.relaxed_rounds
    if rounds is not None and (rounds < 1 or sampling.relaxed_round is not None):
        raise ValueError(
            f"relaxed_rounds is {rounds}, relaxed_round {sampling.relaxed_round}; use at least 1 round of "
            "the finished drawing, or one round that ends it"
        )
    if sampling.relaxation is None or sampling.relaxed_round is None:
        return None
    steps = sampling.decode_steps or 1
    chosen = sampling.relaxed_round + (steps if sampling.relaxed_round < 0 else 0)
    if not 0 <= chosen < steps:
        raise ValueError(f"relaxed_round is {sampling.relaxed_round}; there are {steps} rounds")
    return chosen


def chosen_rounds(tokens: Tokens, number: int, seeds: list[int] | None) -> Bool[Tensor, "B N"]:
    """The codes of `number` rounds of each sample, or of all it has, as its seed decides."""
    assert tokens.decode_step is not None
    steps = tokens.decode_step.masked_fill(~tokens.mask, -1)
    # As many keys as a sample can have rounds, not as those beside it have.
    count = steps.shape[1]
    apart = None if seeds is None else [seed ^ _CHOICE_STREAM for seed in seeds]
    keys = uniform_numbers(len(tokens), count, apart).to(steps.device)
    present = (steps[:, :, None] == torch.arange(count, device=steps.device)).any(1)
    order = keys.masked_fill(~present, 2.0).argsort(1).argsort(1)
    return tokens.mask & (present & (order < number)).gather(1, steps.clamp(min=0))


def unknown_share(progress: float, schedule: MaskSchedule) -> Float[Tensor, ""]:
    """The share of codes that stay unknown once a share of the rounds has passed, in float32."""
    ratio = torch.tensor(progress)
    if schedule == "cosine":
        return torch.cos(ratio * math.pi * 0.5)
    if schedule == "linear":
        return (1 - ratio).clamp(1e-6, 1.0)
    if schedule == "pow":
        return (1 - ratio**2).clamp(1e-6, 1.0)
    if schedule == "sigmoid":
        return _sigmoid_share(ratio).clamp(1e-6, 1.0)
    raise ValueError(f"schedule is {schedule!r}; use cosine, linear, pow or sigmoid")


def _sigmoid_share(ratio: Tensor, start: float = -3.0, end: float = 3.0) -> Tensor:
    low, high = torch.tensor(start).sigmoid(), torch.tensor(end).sigmoid()
    return (high - (ratio * (end - start) + start).sigmoid()) / (high - low)


def distribution_of(logits: Float[Tensor, "n K"], sampling: Sampling) -> Float[Tensor, "n K"]:
    """Log-probabilities that codes are drawn with; the natural distribution if drawing is greedy."""
    if sampling.temperature > 0:
        logits = logits / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[1]:
        values, places = logits.topk(sampling.top_k, dim=-1)
        logits = torch.full_like(logits, -torch.inf).scatter(1, places, values)
    return logits.log_softmax(-1)


def draw_codes(
    look: Look,
    logits_of: Callable[..., Float[Tensor, "n K"]],
    known: Tokens,
    *,
    sampling: Sampling,
    noise: Iterable[Noise],
) -> Tokens:
    """Draw the codes that `known` does not hold (its mask is False there), round by round.

    The result's mask is True at the drawn codes and `decode_step` is -1 at those that were known. Greedy
    drawing (temperature 0) has no distribution, so it records no log-probabilities.
    """
    codes, unknown = known.ids.clone(), ~known.mask
    drawn_here, device = unknown.clone(), known.ids.device
    log_probs = torch.zeros(codes.shape, device=device)
    fixed_in = torch.full_like(codes, -1)
    heat, one_hot = sampling.order_temperature, None
    steps, relaxed = rounds_of(sampling), relaxed_round(sampling)
    for step, numbers in zip(range(steps), noise, strict=False):
        at = unknown.flatten().nonzero()[:, 0]
        if step == relaxed:
            forget_casts()
        with torch.set_grad_enabled(step == relaxed):
            hidden = look(codes, unknown)
            if step == relaxed:
                picked, sure, soft = _draw_relaxed(logits_of(*hidden), at.cpu(), numbers, sampling)
                one_hot = _with_known(soft, codes, unknown)
            else:
                picked, sure = pick_codes(logits_of, hidden, at, numbers, sampling)
        codes = codes.masked_scatter(unknown, picked)
        progress = (step + 1) / (sampling.decode_steps or 1)
        heat *= 1 - progress
        if step + 1 < steps:
            likely = torch.zeros_like(log_probs).masked_scatter(unknown, sure)
            scores = likely + heat * numbers.order.to(device)
            kept = unknown & ~forgotten(scores, unknown, unknown_share(progress, sampling.schedule))
        else:
            kept = unknown
        log_probs = torch.where(kept, log_probs.masked_scatter(unknown, sure), log_probs)
        fixed_in = fixed_in.masked_fill(kept, step)
        unknown = unknown & ~kept
    return Tokens(
        ids=marked(codes, log_probs),
        mask=drawn_here,
        log_probs=None if sampling.temperature == 0 else log_probs,
        decode_step=fixed_in,
        one_hot=one_hot,
    )


def pick_codes(
    logits_of: Callable[..., Tensor],
    hidden: tuple[Tensor, ...],
    at: Int[Tensor, " n"],
    numbers: Noise,
    sampling: Sampling,
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """A code for each position, and its log-probability; `at` counts positions over the whole batch."""
    device, num_rows = at.device, len(at)
    picked = torch.empty(num_rows, dtype=torch.int64, device=device)
    sure = torch.empty(num_rows, device=device)
    numbers = _on(numbers, device)
    for start in range(0, num_rows, _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        distribution = distribution_of(logits_of(*(branch[part] for branch in hidden)), sampling)
        picked[part] = (
            distribution.argmax(-1)
            if sampling.temperature == 0
            else numbers.pick(distribution.exp(), at[part])
        )
        sure[part] = distribution.gather(1, picked[part, None])[:, 0]
    return picked, sure


def _on(numbers: Noise, device: torch.device) -> Noise:
    uniform, exponential = numbers.uniform, numbers.exponential
    return Noise(
        order=numbers.order,
        uniform=None if uniform is None else uniform.to(device),
        exponential=None if exponential is None else exponential.to(device),
    )


def _draw_relaxed(
    logits: Float[Tensor, "n K"], at: Int[Tensor, " n"], numbers: Noise, sampling: Sampling
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, "n K"]]:
    assert sampling.relaxation is not None
    distribution = distribution_of(logits, sampling)
    perturbed = distribution + numbers.gumbel(at).to(distribution.device)
    picked = perturbed.detach().argmax(-1)
    soft = (perturbed / sampling.relaxation).softmax(-1)
    if sampling.relaxed_hard:
        hard = torch.nn.functional.one_hot(picked, distribution.shape[1]).to(soft.dtype)
        soft = hard + soft - soft.detach()
    return picked, distribution.detach().gather(1, picked[:, None])[:, 0].float(), soft


def _with_known(
    soft: Float[Tensor, "n K"], codes: Int[Tensor, "B N"], unknown: Bool[Tensor, "B N"]
) -> Float[Tensor, "B N K"]:
    known = torch.nn.functional.one_hot(codes.clamp(min=0), soft.shape[1]).to(soft.dtype)
    return known.masked_scatter(unknown[..., None], soft)


def forgotten(
    scores: Float[Tensor, "B N"], unknown: Bool[Tensor, "B N"], share: Float[Tensor, ""]
) -> Bool[Tensor, "B N"]:
    """The codes that stay unknown: the least sure of them, as many as the schedule says, at least one.

    Deviation: codes that are known can never be forgotten; in the official code they have the largest float
    as their probability, which strong noise can outweigh, and of an image that is known whole one is lost.
    """
    num_unknown = unknown.sum(1, keepdim=True)
    wanted = (unknown.shape[1] * share).floor().long().to(scores.device)
    count = torch.minimum(wanted, num_unknown - 1).clamp(min=1, max=unknown.shape[1] - 1)
    ordered = scores.masked_fill(~unknown, torch.inf).sort(1).values
    return unknown & (scores < ordered.gather(1, count))
