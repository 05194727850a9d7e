"""Drawing tokens left to right from a frozen decoder, and scoring given ones without the full logits in
memory.

The cache is laid out once for the longest text, rows that have ended leave the batch, and the language-model
head runs only where a token is drawn or scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sightloop.models.decoding.growing_texts import GrowingTexts
from sightloop.models.transformers_internals import Cache, roomy_cache
from sightloop.types import Sampling, Tokens

_LOGITS_IN_MEMORY = 2**23
"""Most logits held at once while scoring: 32 MiB in float32."""


def alone(done: bool) -> bool:
    """Whether all ranks are done, where there is one or each goes its own way."""
    return done


class Decoder(Protocol):
    """Runs the language model on new positions; returns the last hidden state of each."""

    def __call__(
        self, embeds: Float[Tensor, "B N h"], mask: Bool[Tensor, "B L"] | None, cache: Cache
    ) -> Float[Tensor, "B N h"]: ...


@dataclass(frozen=True, kw_only=True)
class TextDecoder:
    """What drawing needs to know of a language model."""

    decoder: Decoder
    embed: Callable[[Int[Tensor, "B N"]], Float[Tensor, "B N h"]]
    head: Callable[[Float[Tensor, "B h"]], Float[Tensor, "B V"]]
    num_layers: int
    ends: tuple[int, ...]
    pad: int
    source: str = "the model"
    """What messages call it."""
    new_cache: Callable[[int, int], Cache] = roomy_cache
    """An empty cache of so many layers with room for so many positions."""
    all_ranks_finished: Callable[[bool], bool] = alone
    """Whether all ranks are done: sharded weights are gathered together, so ranks must take the same
    steps.
    """


@torch.no_grad()
def draw_tokens(
    writer: TextDecoder,
    context: Float[Tensor, "B L h"],
    *,
    mask: Bool[Tensor, "B L"] | None,
    sampling: Sampling,
    seeds: list[int] | None,
) -> Tokens:
    """Draw one text a row after `context` (left-padded where `mask` is False; None = no padding).

    Log-probabilities are recorded under the distribution that drew the tokens: temperature and top-k as in
    `sampling`. Greedy drawing (temperature 0) has no such distribution, so none are recorded.
    """
    size, longest, device = len(context), sampling.max_tokens, context.device
    # A row a step: the numbers of a step are a view.
    uniform = uniform_numbers(size, longest, seeds).T.contiguous().to(device, non_blocking=True)
    # Ranks that wait for each other ask after the same tokens.
    may_stop = writer.all_ranks_finished is alone
    texts = GrowingTexts(size, ends=writer.ends, max_tokens=longest, device=device, may_stop=may_stop)
    cache = writer.new_cache(writer.num_layers, context.shape[1] + longest)
    embeds = context
    for step in range(longest):
        hidden = writer.decoder(embeds, mask, cache)[:, -1]
        drawn, sure = draw(writer.head(hidden), sampling, uniform[step])
        texts.append(drawn, sure)
        if texts.is_time_to_look:
            running = texts.running()
            if writer.all_ranks_finished(not running) or step + 1 == longest:
                break
            if running and texts.may_leave(running):
                at = texts.keep(running)
                cache.batch_select_indices(at)
                drawn, uniform = drawn[at], uniform[:, at]
                mask = None if mask is None else mask[at]
        embeds = writer.embed(drawn[:, None])
        mask = None if mask is None else torch.nn.functional.pad(mask, (0, 1), value=True)
    return texts.tokens(writer.pad, has_distribution=sampling.temperature > 0)


def like_lengths(mask: Bool[Tensor, "B T"]) -> Iterator[tuple[Int[Tensor, " N"], int]]:
    """Rows in up to four parts of like length, and the length of the longest row of each.

    A forward pass pays for padding as it does for tokens. The number of parts depends on B alone, because
    ranks with sharded weights must take the same steps.
    """
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    lengths = torch.nn.functional.pad(mask * places, (1, 0)).amax(1)
    for rows in lengths.argsort(stable=True).split(max(4, -(-len(mask) // 4))):
        yield rows, int(lengths[rows[-1]])


def uniform_numbers(size: int, length: int, seeds: list[int] | None) -> Float[Tensor, "B T"]:
    """Numbers in [0, 1) that decide the draws: one stream a seed, or the global generator."""
    if seeds is None:
        return torch.rand(size, length)
    if len(seeds) != size:
        raise ValueError(f"{len(seeds)} seeds for {size} samples; give one seed a sample")
    generator = torch.Generator()
    return torch.stack([torch.rand(length, generator=generator.manual_seed(seed)) for seed in seeds])


def draw(
    logits: Float[Tensor, "B V"], sampling: Sampling, uniform: Float[Tensor, " B"]
) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"]]:
    """One token a row by inverting the cumulative distribution at `uniform`, and its log-probability; the
    likeliest token and its logit where drawing is greedy. The second is no number if a logit is none.
    """
    if sampling.temperature == 0:
        highest = logits.max(-1)
        return highest.indices, highest.values.float()
    logits = logits.float()
    top_k = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
    if top_k < logits.shape[-1]:
        logits, candidates = logits.topk(top_k, dim=-1)
    else:
        candidates = None
    distribution = (logits if sampling.temperature == 1 else logits / sampling.temperature).log_softmax(-1)
    cumulative = distribution.exp().cumsum(-1)
    # A number below 1 times the sum is at most the sum: the last candidate, if rounding left nothing between.
    point = uniform[:, None] * cumulative[:, -1:]
    choice = torch.searchsorted(cumulative, point, right=True).clamp(max=top_k - 1)
    drawn = choice if candidates is None else candidates.gather(1, choice)
    return drawn[:, 0], distribution.gather(1, choice)[:, 0]


def token_log_probs(
    hidden: Float[Tensor, "N h"],
    head: Float[Tensor, "V h"],
    ids: Int[Tensor, " N"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    under: Sampling | None = None,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Log-probability of each token given the hidden state that predicts it, and the entropy there (nats).

    The head must be frozen: the gradient by the hidden state is settled in the forward pass, a slice of rows
    at a time, so neither pass holds the logits of all tokens. `under` None is the model's own distribution. A
    token outside the top k is scored as if it were the last of them: rounding alone can push a drawn token
    there, and -inf would spoil the step. Only the log-probability carries a gradient.

    Raises:
        ValueError: the head is trainable, or the distribution is greedy and has no likelihood.
    """
    if head.requires_grad:
        raise ValueError("the language-model head is trainable; token_log_probs needs it frozen")
    if under is not None and under.temperature == 0:
        raise ValueError(
            "temperature 0 (greedy) has no likelihood; score under a positive temperature or None"
        )
    temperature = 1.0 if under is None else under.temperature
    top_k = head.shape[0] if under is None or under.top_k is None else min(under.top_k, head.shape[0])
    log_probs, entropy = _TokenLogProbs.apply(hidden, head, bias, ids, temperature, top_k)  # pyright: ignore
    return log_probs, entropy


def _only_candidates(
    logits: Float[Tensor, "N V"], ids: Int[Tensor, "N 1"], top_k: int
) -> Float[Tensor, "N V"]:
    """The logits of exactly `top_k` tokens a row, the given one among them; -inf elsewhere."""
    candidates = logits.topk(top_k, dim=-1).indices
    missing = ~(candidates == ids).any(1)
    candidates[:, -1] = torch.where(missing, ids[:, 0], candidates[:, -1])
    kept = torch.full_like(logits, -torch.inf)
    return kept.scatter_(1, candidates, logits.gather(1, candidates))


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, bias, ids, temperature, top_k):  # pyright: ignore
        num_rows = max(1, _LOGITS_IN_MEMORY // head.shape[0])
        log_probs = torch.empty(len(ids), device=hidden.device)
        entropy = torch.empty_like(log_probs)
        slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(ids), num_rows):
            rows = slice(start, start + num_rows)
            logits = torch.nn.functional.linear(hidden[rows].to(head.dtype), head, bias).float()
            if temperature != 1:
                logits /= temperature
            given = ids[rows, None]
            target = logits.gather(1, given)
            if top_k < head.shape[0]:
                logits = _only_candidates(logits, given, top_k)
            # Few passes over the logits, and no copy of them but one: they are far larger than any cache.
            peak = logits.amax(-1, keepdim=True)
            odds = logits.sub_(peak).exp()
            weight = odds.sum(-1, keepdim=True)
            log_probs[rows] = (target - peak - weight.log())[:, 0]
            if top_k < head.shape[0]:
                logits.clamp_(min=-1e4)
            mean = torch.bmm(odds[:, None], logits[:, :, None])[:, :, 0] / weight
            entropy[rows] = (weight.log() - mean)[:, 0]
            if slope is not None:
                expected = (odds.to(head.dtype) @ head) / weight
                slope[rows] = ((head[ids[rows]] - expected) / temperature).to(slope.dtype)
        if slope is not None:
            ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(entropy)
        return log_probs, entropy

    @staticmethod
    def backward(ctx, grad, _):  # pyright: ignore
        (slope,) = ctx.saved_tensors
        return slope * grad[:, None].to(slope.dtype), None, None, None, None, None
