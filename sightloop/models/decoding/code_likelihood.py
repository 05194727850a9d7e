"""Scoring the codes of images under a head that may be trained, without the logits of all codes in memory.

An image has hundreds of codes and each is one of thousands: their logits would be larger than all else that
a pass keeps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sightloop.types import Sampling


def code_log_probs(
    logits_of: Callable[..., Float[Tensor, "n V"]],
    hidden: tuple[Float[Tensor, "N _"], ...],
    ids: Int[Tensor, " N"],
    *,
    under: Sampling | None = None,
    rows_at_once: int = 512,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Log-probability of each code given the hidden states that predict it, and the entropy there (nats).

    `logits_of(*parts)` is called with the same rows of every tensor of `hidden` (guidance needs two) and may
    read trained weights. It runs `rows_at_once` rows at a time, and once more in the backward pass, so what
    it reads must not change in between. Temperature and top-k are those of `under`; guidance is up to
    `logits_of`. None is the distribution of the logits as they are. A code outside the top k is scored as if
    it were the last of them, as in `generation.token_log_probs`. Only the log-probability carries a gradient.

    Raises:
        ValueError: the distribution is greedy and has no likelihood.
    """
    if under is not None and under.temperature == 0:
        raise ValueError(
            "temperature 0 (greedy) has no likelihood; score under a positive temperature or None"
        )
    temperature = 1.0 if under is None else under.temperature
    top_k = None if under is None else under.top_k

    def scored(rows: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
        return _distribution(logits_of(*parts).float() / temperature, rows[:, None], top_k)

    found: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(ids), rows_at_once):
        part = slice(start, start + rows_at_once)
        given = (ids[part], *(tensor[part] for tensor in hidden))
        if torch.is_grad_enabled():
            found.append(checkpoint(scored, *given, use_reentrant=False, preserve_rng_state=False))
        else:
            found.append(scored(*given))
    if not found:
        return torch.zeros(0, device=ids.device), torch.zeros(0, device=ids.device)
    log_probs, entropy = (torch.cat(values) for values in zip(*found, strict=True))
    return log_probs, entropy


def _distribution(
    logits: Float[Tensor, "n V"], ids: Int[Tensor, "n 1"], top_k: int | None
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    target = logits.gather(1, ids)
    if top_k is not None and top_k < logits.shape[1]:
        logits, candidates = logits.topk(top_k, dim=-1)
        missing = ~(candidates == ids).any(1, keepdim=True)
        last = torch.where(missing, target, logits[:, -1:])
        logits = torch.cat([logits[:, :-1], last], 1)
    weight = logits.logsumexp(-1)
    with torch.no_grad():
        entropy = torch.special.entr(logits.sub(weight[:, None]).exp_()).sum(-1)
    return target[:, 0] - weight, entropy


def unit_exponentials(
    shape: tuple[int, ...], seeds: list[int] | None, *, skip: int = 0
) -> Float[Tensor, "B T V"]:
    """Draws of the exponential distribution: one stream a seed, or the global generator.

    `skip` is how many uniform numbers of each stream decided the codes themselves: those may not be used
    again.
    """
    if seeds is None:
        return torch.empty(shape).exponential_()
    if len(seeds) != shape[0]:
        raise ValueError(f"{len(seeds)} seeds for {shape[0]} samples; give one seed a sample")
    generator = torch.Generator()
    rows: list[Tensor] = []
    for seed in seeds:
        generator.manual_seed(seed)
        torch.rand(skip, generator=generator)
        rows.append(torch.empty(shape[1:]).exponential_(generator=generator))
    return torch.stack(rows)


def require_relaxable(sampling: Sampling) -> None:
    """Check that a distribution with a relaxation can have one.

    Raises:
        ValueError: the distribution is greedy.
    """
    if sampling.relaxation is not None and sampling.temperature == 0:
        raise ValueError("temperature 0 (greedy) has no distribution to relax; use a positive temperature")


def relaxed_codes(
    logits: Float[Tensor, "B T V"],
    ids: Int[Tensor, "B T"],
    exponentials: Float[Tensor, "B T V"],
    *,
    sampling: Sampling,
) -> Float[Tensor, "B T V"]:
    """Straight-through one-hot codes of codes that were already drawn (Gumbel-softmax, arXiv 1611.01144).

    The Gumbel noise is drawn given that it picks `ids`, so the hard codes are the drawn ones and the soft
    codes have the distribution they would have had, had noise and codes been drawn together. The gradient is
    that of the soft codes with the noise held.
    """
    require_relaxable(sampling)
    assert sampling.relaxation is not None
    distribution = logits.float() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < distribution.shape[-1]:
        last = distribution.detach().topk(sampling.top_k, dim=-1).values[..., -1:]
        # A drawn code stays in, should rounding have moved it below the last place.
        last = torch.minimum(last, distribution.detach().gather(-1, ids[..., None]))
        distribution = distribution.masked_fill(distribution.detach() < last, -torch.inf)
    distribution = distribution.log_softmax(-1)
    noise = gumbel_noise_given(distribution.detach(), ids, exponentials)
    soft = ((distribution + noise) / sampling.relaxation).softmax(-1)
    if not sampling.relaxed_hard:
        return soft
    hard = torch.zeros_like(soft).scatter_(-1, ids[..., None], 1.0)
    return hard + (soft - soft.detach())


@torch.no_grad()
def gumbel_noise_given(
    distribution: Float[Tensor, "B T V"], ids: Int[Tensor, "B T"], exponentials: Float[Tensor, "B T V"]
) -> Float[Tensor, "B T V"]:
    """Gumbel noise under which `ids` are the codes that log-probabilities `distribution` and noise pick.

    The largest sum of both is Gumbel whatever wins it; the others are Gumbel below it.
    """
    chosen = ids[..., None]
    first = exponentials.gather(-1, chosen)
    noise = -(exponentials + distribution.exp() * first).log()
    return noise.scatter_(-1, chosen, -first.log() - distribution.gather(-1, chosen))
