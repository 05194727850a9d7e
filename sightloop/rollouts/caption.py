"""Pictures in, judged captions out: draw, decode, reward. One turn a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from sightloop.data.images import ImageBatch
from sightloop.models.protocols import Captioner
from sightloop.types import Images, Outcome, Prompt, Rollout, Sampling, Tokens, Turn

Judge = Callable[[Outcome], tuple[Float[Tensor, "B T"], dict[str, Float[Tensor, " B"]]]]
_SEED_STRIDE = 0x9E3779B97F4A7C15
"""Odd, so that the samples of one picture get distinct seeds."""


@dataclass(frozen=True, kw_only=True)
class CaptionCollector:
    """Draws `per_image` captions of every picture of a batch and has them judged, without gradient."""

    judge: Judge
    sampling: Sampling
    prompt: str = ""
    per_image: int = 1
    chunk: int | None = None
    """Captions drawn and judged at once; None = the whole batch."""
    greedy_baseline: bool = False
    """Also judge the greedy caption of each picture, as self-critical training needs."""
    keep_features: bool = True
    """Keep the frozen tower's features with the rollout; False saves memory and computes them anew."""

    def __post_init__(self) -> None:
        if self.per_image < 1:
            raise ValueError(f"per_image is {self.per_image}; draw at least 1 caption an image")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}; use None for the whole batch or at least 1")

    @torch.no_grad()
    def __call__(self, policy: Captioner, batch: ImageBatch) -> Rollout:
        """Judged captions of the batch, the samples of one picture side by side."""
        parts = [self._collect_rows(policy, batch, rows) for rows in self._chunks(len(batch.sources))]
        return join_rollouts(parts)

    def _chunks(self, num_images: int) -> Iterator[Tensor]:
        size = num_images if self.chunk is None else max(1, self.chunk // self.per_image)
        return iter(torch.arange(num_images).split(size))

    def _collect_rows(self, policy: Captioner, batch: ImageBatch, rows: Tensor) -> Rollout:
        images = policy.look(batch.images.rows(rows))
        picked = rows.tolist()
        outcome_of = self._outcomes(batch, picked)
        each = torch.arange(len(picked)).repeat_interleave(self.per_image)
        seeds = [
            (batch.seeds[row] + k * _SEED_STRIDE) % 2**63 for row in picked for k in range(self.per_image)
        ]
        prompt = Prompt(
            texts=[self.prompt] * len(each),
            images=images.rows(each) if self.per_image > 1 else images,
            seeds=seeds,
        )
        tokens = policy.sample(prompt, self.sampling)
        outcome = outcome_of(policy, tokens, _pictures(prompt), each)
        rewards, parts = self.judge(outcome)
        group = torch.tensor([batch.indices[row] for row in picked])[each]
        if not self.keep_features:
            prompt = replace(prompt, images=Images(pixels=_pictures(prompt).pixels))
        return Rollout(
            turns=(Turn(prompt=prompt, tokens=tokens),),
            rewards=rewards,
            reward_parts=parts,
            group=group,
            pieces=outcome.pieces,
            sources=outcome.sources,
            baseline=self._baseline(policy, images, outcome_of, each) if self.greedy_baseline else None,
        )

    def _outcomes(self, batch: ImageBatch, picked: list[int]) -> OutcomeMaker:
        def outcome_of(policy: Captioner, tokens: Tokens, images: Images, each: Tensor) -> Outcome:
            at = [picked[i] for i in each.tolist()]
            return Outcome(
                tokens=tokens,
                pieces=policy.decode(tokens),
                ended=_ended(policy, tokens),
                images=images,
                references=[batch.references[i] for i in at],
                sources=[batch.sources[i] for i in at],
            )

        return outcome_of

    def _baseline(
        self, policy: Captioner, images: Images, outcome_of: OutcomeMaker, each: Tensor
    ) -> Float[Tensor, " B"]:
        prompt = Prompt(texts=[self.prompt] * len(images), images=images)
        tokens = policy.sample(prompt, replace(self.sampling, temperature=0.0))
        rewards, _ = self.judge(outcome_of(policy, tokens, images, torch.arange(len(images))))
        return rewards.sum(1)[each.to(rewards.device)]


OutcomeMaker = Callable[[Captioner, Tokens, Images, Tensor], Outcome]


def _pictures(prompt: Prompt) -> Images:
    assert isinstance(prompt.images, Images)
    return prompt.images


def _ended(policy: Captioner, tokens: Tokens) -> Bool[Tensor, " B"]:
    return policy.is_end(tokens).any(1)


def join_rollouts(parts: list[Rollout]) -> Rollout:
    """One rollout from rollouts of one turn, padded to the longest text."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.rewards.shape[1] for part in parts)
    turns = [part.turns[0] for part in parts]
    images = [_pictures(turn.prompt) for turn in turns]
    keys = images[0].features.keys()
    prompt = Prompt(
        texts=[text for turn in turns for text in turn.prompt.texts],
        images=Images(
            pixels=torch.cat([i.pixels for i in images]),
            features={key: torch.cat([i.features[key] for i in images]) for key in keys},
        ),
        seeds=[seed for turn in turns for seed in turn.prompt.seeds or []],
    )

    def pad(values: list[Tensor]) -> Tensor:
        return torch.cat([F.pad(value, (0, width - value.shape[1])) for value in values])

    log_probs = [turn.tokens.log_probs for turn in turns]
    tokens = Tokens(
        ids=pad([turn.tokens.ids for turn in turns]),
        mask=pad([turn.tokens.mask for turn in turns]),
        log_probs=pad([p for p in log_probs if p is not None]) if None not in log_probs else None,
    )
    baselines = [part.baseline for part in parts if part.baseline is not None]
    return Rollout(
        turns=(Turn(prompt=prompt, tokens=tokens),),
        rewards=pad([part.rewards for part in parts]),
        reward_parts={n: torch.cat([p.reward_parts[n] for p in parts]) for n in parts[0].reward_parts},
        group=torch.cat([part.group for part in parts]),
        pieces=[row for part in parts for row in part.pieces],
        sources=[source for part in parts for source in part.sources],
        baseline=torch.cat(baselines) if baselines else None,
    )
