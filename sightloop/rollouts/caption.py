"""Images in, judged captions out: draw, decode, reward. One turn a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sightloop.data.images import ImageBatch
from sightloop.models.protocols import Captioner, ReadsMessages, require_members
from sightloop.rollouts.join import join_rollouts
from sightloop.rollouts.seeds import repeated_seeds
from sightloop.types import Images, Judge, Outcome, Prompt, Rollout, Sampling, Tokens, Turn


@dataclass(frozen=True, kw_only=True)
class CaptionCollector:
    """Draws `per_image` captions of every image of a batch and has them judged, without gradient."""

    judge: Judge
    sampling: Sampling
    prompt: str = ""
    per_image: int = 1
    chunk: int | None = None
    """Captions drawn and judged at once; None = the whole batch."""
    greedy_baseline: bool = False
    """Also judge the greedy caption of each image, as self-critical training needs."""
    keep_features: bool = True
    """Keep the frozen tower's features with the rollout; False saves memory and computes them anew."""

    def __post_init__(self) -> None:
        if self.per_image < 1:
            raise ValueError(f"per_image is {self.per_image}; draw at least 1 caption an image")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}; use None for the whole batch or at least 1")

    @torch.no_grad()
    def __call__(self, policy: Captioner, batch: ImageBatch) -> Rollout:
        """Judged captions of the batch, the samples of one image side by side."""
        parts = [self._collect_rows(policy, batch, rows) for rows in self._chunks(len(batch.sources))]
        return join_rollouts(parts)

    def _chunks(self, num_images: int) -> Iterator[Tensor]:
        size = num_images if self.chunk is None else max(1, self.chunk // self.per_image)
        return iter(torch.arange(num_images).split(size))

    def _collect_rows(self, policy: Captioner, batch: ImageBatch, rows: Tensor) -> Rollout:
        images = policy.encode_images(batch.images.rows(rows))
        picked = rows.tolist()
        outcome_of = self._outcomes(batch, picked)
        each = torch.arange(len(picked)).repeat_interleave(self.per_image)
        seeds = repeated_seeds([batch.seeds[row] for row in picked], self.per_image)
        asked = batch.prompts or [self.prompt] * len(batch)
        prompt = Prompt(
            texts=[asked[picked[place]] for place in each.tolist()],
            images=images.rows(each) if self.per_image > 1 else images,
            seeds=seeds,
        )
        _require_read(policy, prompt)
        tokens = policy.sample(prompt, self.sampling)
        outcome = outcome_of(policy, tokens, _pictures(prompt), each)
        rewards, parts = self.judge(outcome)
        group = torch.tensor([batch.indices[row] for row in picked])[each]
        if not self.keep_features:
            prompt = replace(prompt, images=replace(_pictures(prompt), features={}))
        return Rollout(
            turns=(Turn(prompt=prompt, tokens=tokens),),
            rewards=rewards,
            reward_parts=parts,
            group=group,
            pieces=outcome.pieces,
            sources=outcome.sources,
            references=outcome.references if batch.prompts else [],
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
                group=torch.tensor([batch.indices[i] for i in at]),
                prompts=[batch.prompts[i] for i in at] if batch.prompts else [],
                columns={name: [values[i] for i in at] for name, values in batch.columns.items()},
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


def _require_read(policy: Captioner, prompt: Prompt) -> None:
    """Refuse prompts that the captioner would not read whole.

    Raises:
        ValueError: several messages, or several images or none, and it takes one text and one image.
    """
    # Several messages are a string of a type of their own.
    if _pictures(prompt).are_single and all(type(text) is str for text in prompt.texts):
        return
    require_members(
        policy,
        ReadsMessages,
        what="prompts of several messages, with several images or without one",
        instead="give each row one text and one image",
    )


def _ended(policy: Captioner, tokens: Tokens) -> Bool[Tensor, " B"]:
    return policy.is_end(tokens).any(1)
