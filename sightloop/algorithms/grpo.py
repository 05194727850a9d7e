"""GRPO for models that draw and answer, as UniRL uses it (arXiv 2505.23380): samples of a prompt against
their group.

Differences from the paper, whose objective is not printed in full anywhere we know of:
1. The paper keeps no old policy: the ratio is 1 in value, its gradient that of the log-probability, and one
   rollout serves one update. That is the default; `old` brings back real ratios and clipping.
2. Advantages are divided by the group's standard deviation (n - 1), as the name GRPO says.
3. The weights of drawing and answering are relative: the loss is their weighted mean, and the penalty is
   weighed like the side it belongs to. The paper's own weights are not known.
4. The divergence from the frozen reference is estimated token by token (k3) under the law that is trained.
   0.2 is the weight in the name of the published Show-o run.
5. The law of a side is a choice, `Side.under`. Drawings that were guided and are scored without guidance give
   a biased gradient; that is the default all the same, because guidance doubles the cost of every score.
6. Groups of any size from 2, also over several ranks (the paper's fit on one device).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sightloop.algorithms.credit import (
    Gather,
    group_relative,
    groups_with_signal,
    require_company,
    this_rank,
)
from sightloop.algorithms.methods import METHODS
from sightloop.algorithms.ratios import clipped_ratio, is_clipped, kl_to_reference, sequence_log_probs
from sightloop.algorithms.turn_objectives import Sides, View, in_turn_columns, shares_of
from sightloop.types import Credit, LossOutput, Policy, Reduction, Rollout, Turn, numbers_of, one_rank

Old = Literal["none", "rescored", "recorded"]
OLD: tuple[Old, ...] = ("none", "rescored", "recorded")
Ratio = Literal["token", "sequence"]
RATIOS: tuple[Ratio, ...] = ("token", "sequence")


@dataclass(frozen=True, kw_only=True)
class GRPO:
    """Group-relative advantages on every token of both turns, and a penalty for leaving the reference."""

    reference: Policy | None = None
    """A frozen policy that scores the same turns; needed by a positive `kl_weight`."""
    kl_weight: float = 0.2
    sides: Sides = field(default_factory=Sides)
    divide_by_std: bool = True
    std_eps: float = 1e-4
    leave_one_out: bool = False
    """Compare with the mean of the other samples only."""
    skip_silent: bool = False
    """Leave groups whose samples all earned the same out of the batch (DAPO); else only the penalty acts."""
    old: Old = "none"
    """Where the ratio's denominator comes from: nowhere (1 in value), scored again under each side's law
    before the first update, or recorded by the sampler, whose law each side must then name in `under`."""
    ratio: Ratio = "token"
    clip_low: float | None = None
    clip_high: float | None = None
    score_batch: int | None = None
    """Samples scored at once for `old`; None = all. Every rank needs as many."""
    reduce: Reduction = one_rank
    gather: Gather = this_rank
    """Brings the totals of all ranks together, so that a group may lie on several."""

    def __post_init__(self) -> None:
        if self.old not in OLD or self.ratio not in RATIOS:
            raise ValueError(
                f"old is {self.old!r} (one of {', '.join(OLD)}), ratio is {self.ratio!r} (one of "
                f"{', '.join(RATIOS)})"
            )
        if self.kl_weight < 0 or self.std_eps < 0:
            raise ValueError(
                f"kl_weight is {self.kl_weight}, std_eps {self.std_eps}; use 0 or positive numbers"
            )
        if self.kl_weight > 0 and self.reference is None:
            raise ValueError(f"kl_weight is {self.kl_weight} without a reference; give one, or use 0")
        if self.score_batch is not None and self.score_batch < 1:
            raise ValueError(f"score_batch is {self.score_batch}; use None for all or at least 1")
        self._check_ratio()

    def _check_ratio(self) -> None:
        for name, clip in (("clip_low", self.clip_low), ("clip_high", self.clip_high)):
            if clip is None:
                continue
            if clip <= 0 or (name == "clip_low" and clip > 1):
                raise ValueError(f"{name} is {clip}; use None or a positive number (clip_low up to 1)")
            if self.old == "none":
                raise ValueError(
                    f'{name} is {clip}, but old is "none": a ratio of 1 is never clipped; use "rescored"'
                )
        if self.old == "recorded":
            trained = [side for side in (self.sides.drawing, self.sides.answering) if side.weight > 0]
            if any(side.under is None for side in trained):
                raise ValueError(
                    'old is "recorded": samplers record the law they draw with; name it in each trained '
                    'side\'s `under`, or use "rescored"'
                )
            if self.sides.orders is not None:
                raise ValueError('old is "recorded", but other orders were never recorded; use "rescored"')

    @torch.no_grad()
    def credit(self, policy: Policy, rollout: Rollout) -> Credit:
        """The same advantage on every token of a sample; shares by side; old log-probabilities if wanted.

        Raises:
            ValueError: a group of one sample, tokens that were not drawn, or the policy as its reference.
        """
        if self.reference is policy:
            raise ValueError("the reference is the policy itself; give a frozen copy")
        require_company(rollout.group, gather=self.gather)
        orders = self.sides.draw_orders(rollout)
        views = self.sides.views(rollout, orders)
        _require_drawn(rollout, views)
        totals, group = rollout.rewards.sum(1), rollout.group.to(rollout.rewards.device)
        advantages = group_relative(
            totals,
            group,
            divide_by_std=self.divide_by_std,
            leave_one_out=self.leave_one_out,
            eps=self.std_eps,
            gather=self.gather,
        )
        signal = groups_with_signal(totals, group, gather=self.gather)
        keep = signal if self.skip_silent else torch.ones_like(signal)
        shares = shares_of(views, keep, reduce=self.reduce, dtype=advantages.dtype)
        return Credit(
            advantages=advantages[:, None] * (shares > 0),
            shares=shares,
            orders=orders,
            old_log_probs=() if self.old == "none" else self._old_log_probs(policy, rollout, orders),
            figures=self._figures(group, signal),
        )

    def loss(self, policy: Policy, rollout: Rollout, credit: Credit) -> LossOutput:
        """Minus ratio times advantage, plus the weighted divergence, of each token of the trained sides."""
        parts: list[Tensor] = []
        metrics: dict[str, Tensor] = {}
        views = self.sides.views(rollout, credit.orders)
        for place, view in enumerate(views):
            if view.weight == 0:
                parts.append(torch.zeros_like(credit.shares[:, view.columns]))
                continue
            old = credit.old_log_probs[place][..., : view.mask.shape[-1]] if credit.old_log_probs else None
            found = self._view_loss(policy, view, credit.advantages[:, view.columns], old)
            parts.append(view.average(found.pop("total")))
            for name, values in found.items():
                metrics[f"{view.name}/{name}"] = in_turn_columns(
                    view.figure(values), view.columns, credit.shares
                )
        return LossOutput(per_token=torch.cat(parts, 1), metrics=metrics)

    def _view_loss(
        self,
        policy: Policy,
        view: View,
        advantages: Float[Tensor, "B T"],
        old: Float[Tensor, "B K T"] | None,
    ) -> dict[str, Float[Tensor, "B K T"]]:
        log_probs, entropy = view.score(policy)
        mask = view.mask
        old = log_probs.detach() if old is None else old
        new = log_probs
        if self.ratio == "sequence":
            new, old = sequence_log_probs(new, mask), sequence_log_probs(old, mask)
        worth = advantages[:, None].expand_as(new)
        clip = {"low": self.clip_low, "high": self.clip_high}
        loss = clipped_ratio(new, old, worth, **clip).masked_fill(~mask, 0)
        found = {"loss": loss, "total": loss, "log_prob": log_probs, "entropy": entropy}
        if self.old != "none":
            found["ratio"] = (new - old).exp().masked_fill(~mask, 0)
            found["clipped"] = (is_clipped(new, old, worth, **clip) & mask).to(loss.dtype)
        if self.reference is not None:
            with torch.no_grad():
                reference, _ = view.score(self.reference)
            found["kl"] = kl_to_reference(log_probs, reference).masked_fill(~mask, 0)
            found["total"] = loss + self.kl_weight * found["kl"]
        return found

    def _old_log_probs(
        self, policy: Policy, rollout: Rollout, orders: tuple[Turn, ...]
    ) -> tuple[Float[Tensor, "B _ _"], ...]:
        views = self.sides.views(rollout, orders)
        found: list[Tensor] = []
        for view in views:
            recorded = view.turns[0].tokens.log_probs
            if view.weight == 0:
                found.append(torch.zeros_like(view.mask, dtype=torch.float32))
            elif self.old == "recorded":
                assert recorded is not None
                found.append(recorded[:, None].masked_fill(~view.mask, 0))
            else:
                found.append(self._rescored(policy, view))
        return tuple(found)

    def _rescored(self, policy: Policy, view: View) -> Float[Tensor, "B K T"]:
        size = len(view.turns[0])
        step = self.score_batch or size
        chunks = [torch.arange(start, min(start + step, size)) for start in range(0, size, step)]
        parts = [replace(view, turns=tuple(turn.rows(chunk) for turn in view.turns)) for chunk in chunks]
        return torch.cat([part.score(policy)[0] for part in parts])

    def _figures(self, group: Tensor, signal: Bool[Tensor, " B"]) -> dict[str, float]:
        everyone = {number for part in self.gather(group) for number in numbers_of(part)}
        speaking = {number for part in self.gather(group[signal]) for number in numbers_of(part)}
        return {"groups/all": float(len(everyone)), "groups/silent": float(len(everyone - speaking))}


def _require_drawn(rollout: Rollout, views: list[View]) -> None:
    # The turns as they were drawn: other orders of them carry no log-probabilities.
    for turn, view in zip(rollout.turns, views, strict=True):
        tokens = turn.tokens
        if view.weight > 0 and tokens.log_probs is None and tokens.one_hot is None:
            raise ValueError(
                f"the tokens of the {view.name} side carry no log-probabilities: they were given, drawn "
                "greedily or by another model; a policy gradient is wrong for them, give the side weight 0"
            )


def grpo_method(name: str, given: GRPO) -> GRPO:
    """`given` with the settings that make it the method called `name`; everything else stays.

    Raises:
        ValueError: no such method.

    >>> grpo_method("dapo", GRPO(kl_weight=0)).clip_high
    0.28
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; use one of {', '.join(METHODS)}")
    method = METHODS[name]
    changes = dict(method.changes)
    if method.old_policy:
        changes["old"] = "rescored"
    if not method.penalty:
        changes |= {"reference": None, "kl_weight": 0.0}
    if method.share is not None:
        changes["sides"] = replace(given.sides, share=method.share)
    return replace(given, **changes)
