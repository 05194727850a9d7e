"""GRPO for models that draw and answer, as UniRL uses it (arXiv 2505.23380): samples of a prompt against
their group.

Differences from the paper, whose objective is not printed in full anywhere we know of:
1. The paper keeps no old policy: the ratio is 1 in value, its gradient that of the log-probability, and one
   rollout serves one update. That is the default; `old` brings back real ratios and clipping.
2. Advantages are divided by the group's standard deviation (n - 1), as the name GRPO says.
3. The weights of drawing and answering are relative: the loss is their weighted mean, and the penalty is
   weighed like the side it belongs to. The paper's own weights are not known.
4. The divergence from the frozen reference is estimated token by token (k3) under the distribution that is
   trained. 0.2 is the weight in the name of the published Show-o run.
5. The distribution of a side is a choice, `TurnObjective.under`. Drawings that were guided and are scored
   without guidance give a biased gradient; that is the default all the same, because guidance doubles the
   cost of every score.
6. Groups of any size from 2, also over several ranks (the paper's fit on one device).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sightloop.algorithms.credit import (
    Gather,
    batch_standardized,
    group_relative,
    groups_with_signal,
    identity_gather,
    require_company,
)
from sightloop.algorithms.methods import METHODS
from sightloop.algorithms.ratios import clipped_ratio, is_clipped, kl_to_reference, sequence_log_probs
from sightloop.algorithms.turn_objectives import ScoredTurn, TurnObjectives, in_turn_columns, loss_weights_of
from sightloop.picking import numbers_of
from sightloop.types import Credit, LossOutput, Policy, Reduction, Rollout, Turn, identity_reduction

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
    objectives: TurnObjectives = field(default_factory=TurnObjectives)
    divide_by_std: bool = True
    std_eps: float = 1e-4
    leave_one_out: bool = False
    """Compare with the mean of the other samples only."""
    standardize_batch: bool = False
    """Then give the advantages of the batch mean 0 and deviation 1 (GDPO)."""
    drop_zero_variance_groups: bool = False
    """Leave groups whose samples all earned the same out of the batch (DAPO); else only the penalty acts."""
    old: Old = "none"
    """Where the ratio's denominator comes from: nowhere (1 in value), scored again under each side's
    distribution before the first update, or recorded by the sampler, whose distribution each side must then
    name in `under`."""
    ratio: Ratio = "token"
    clip_low: float | None = None
    clip_high: float | None = None
    score_batch: int | None = None
    """Samples scored at once for `old`; None = all. Every rank needs as many."""
    reduce: Reduction = identity_reduction
    gather: Gather = identity_gather
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
            trained = [
                objective
                for objective in (self.objectives.drawing, self.objectives.answering)
                if objective.weight > 0
            ]
            if any(objective.under is None for objective in trained):
                raise ValueError(
                    'old is "recorded": samplers record the distribution they draw with; name it in `under` '
                    'of each trained side, or use "rescored"'
                )
            if self.objectives.unmasking is not None:
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
        unmasking = self.objectives.draw_unmasking(rollout)
        scored_turns = self.objectives.scored_turns(rollout, unmasking)
        _require_drawn(rollout, scored_turns)
        totals, group = rollout.rewards.sum(1), rollout.group.to(rollout.rewards.device)
        advantages = group_relative(
            totals,
            group,
            divide_by_std=self.divide_by_std,
            leave_one_out=self.leave_one_out,
            eps=self.std_eps,
            gather=self.gather,
        )
        if self.standardize_batch:
            advantages = batch_standardized(advantages, eps=self.std_eps, gather=self.gather)
        signal = groups_with_signal(totals, group, gather=self.gather)
        keep = signal if self.drop_zero_variance_groups else torch.ones_like(signal)
        loss_weights = loss_weights_of(scored_turns, keep, reduce=self.reduce, dtype=advantages.dtype)
        return Credit(
            advantages=advantages[:, None] * (loss_weights > 0),
            loss_weights=loss_weights,
            unmasking=unmasking,
            old_log_probs=() if self.old == "none" else self._old_log_probs(policy, rollout, unmasking),
            metrics=self._group_counts(group, signal),
        )

    def loss(self, policy: Policy, rollout: Rollout, credit: Credit) -> LossOutput:
        """Minus ratio times advantage, plus the weighted divergence, of each token of the trained sides."""
        parts: list[Tensor] = []
        metrics: dict[str, Tensor] = {}
        scored_turns = self.objectives.scored_turns(rollout, credit.unmasking)
        for place, scored_turn in enumerate(scored_turns):
            if scored_turn.weight == 0:
                parts.append(torch.zeros_like(credit.loss_weights[:, scored_turn.columns]))
                continue
            old = (
                credit.old_log_probs[place][..., : scored_turn.mask.shape[-1]]
                if credit.old_log_probs
                else None
            )
            found = self._turn_loss(policy, scored_turn, credit.advantages[:, scored_turn.columns], old)
            parts.append(scored_turn.average(found.pop("total")))
            for name, values in found.items():
                metrics[f"{scored_turn.name}/{name}"] = in_turn_columns(
                    scored_turn.averaged_for_log(values), scored_turn.columns, credit.loss_weights
                )
        return LossOutput(per_token=torch.cat(parts, 1), metrics=metrics)

    def _turn_loss(
        self,
        policy: Policy,
        scored_turn: ScoredTurn,
        advantages: Float[Tensor, "B T"],
        old: Float[Tensor, "B K T"] | None,
    ) -> dict[str, Float[Tensor, "B K T"]]:
        log_probs, entropy = scored_turn.score(policy)
        mask = scored_turn.mask
        old = log_probs.detach() if old is None else old
        new = log_probs
        if self.ratio == "sequence":
            new, old = sequence_log_probs(new, mask), sequence_log_probs(old, mask)
        repeated = advantages[:, None].expand_as(new)
        clip = {"low": self.clip_low, "high": self.clip_high}
        loss = clipped_ratio(new, old, repeated, **clip).masked_fill(~mask, 0)
        found = {"loss": loss, "total": loss, "log_prob": log_probs, "entropy": entropy}
        if self.old != "none":
            found["ratio"] = (new - old).exp().masked_fill(~mask, 0)
            found["clipped"] = (is_clipped(new, old, repeated, **clip) & mask).to(loss.dtype)
        if self.reference is not None:
            with torch.no_grad():
                reference, _ = scored_turn.score(self.reference)
            found["kl"] = kl_to_reference(log_probs, reference).masked_fill(~mask, 0)
            found["total"] = loss + self.kl_weight * found["kl"]
        return found

    def _old_log_probs(
        self, policy: Policy, rollout: Rollout, unmasking: tuple[Turn, ...]
    ) -> tuple[Float[Tensor, "B _ _"], ...]:
        scored_turns = self.objectives.scored_turns(rollout, unmasking)
        found: list[Tensor] = []
        for scored_turn in scored_turns:
            recorded = scored_turn.turns[0].tokens.log_probs
            if scored_turn.weight == 0:
                found.append(torch.zeros_like(scored_turn.mask, dtype=torch.float32))
            elif self.old == "recorded":
                assert recorded is not None
                found.append(recorded[:, None].masked_fill(~scored_turn.mask, 0))
            else:
                found.append(self._rescored(policy, scored_turn))
        return tuple(found)

    def _rescored(self, policy: Policy, scored_turn: ScoredTurn) -> Float[Tensor, "B K T"]:
        size = len(scored_turn.turns[0])
        step = self.score_batch or size
        chunks = [torch.arange(start, min(start + step, size)) for start in range(0, size, step)]
        parts = [
            replace(scored_turn, turns=tuple(turn.rows(chunk) for turn in scored_turn.turns))
            for chunk in chunks
        ]
        return torch.cat([part.score(policy)[0] for part in parts])

    def _group_counts(self, group: Tensor, signal: Bool[Tensor, " B"]) -> dict[str, float]:
        everyone = {number for part in self.gather(group) for number in numbers_of(part)}
        speaking = {number for part in self.gather(group[signal]) for number in numbers_of(part)}
        return {"groups/all": float(len(everyone)), "groups/zero_variance": float(len(everyone - speaking))}


def _require_drawn(rollout: Rollout, scored_turns: list[ScoredTurn]) -> None:
    # The turns as they were drawn: other orders of them carry no log-probabilities.
    for turn, scored_turn in zip(rollout.turns, scored_turns, strict=True):
        tokens = turn.tokens
        if scored_turn.weight > 0 and tokens.log_probs is None and tokens.one_hot is None:
            raise ValueError(
                f"the tokens of the {scored_turn.name} side carry no log-probabilities: they were given, "
                "drawn greedily or by another model; a policy "
                "gradient is wrong for them, give the side weight 0"
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
    if method.average_over is not None:
        changes["objectives"] = replace(given.objectives, average_over=method.average_over)
    return replace(given, **changes)


def chosen_method(given: GRPO, config: Any, *, usual_kl: float, reference: Callable[[], Policy]) -> GRPO:
    """`given` as the method of `config.algorithm`, changed where its settings are not None; `usual_kl` is the
    weight of the divergence in methods that have one.
    """
    found = grpo_method(config.algorithm, given)
    usual = usual_kl if METHODS[config.algorithm].penalty else 0.0
    weight = usual if config.kl_weight is None else config.kl_weight
    if weight > 0:
        found = replace(found, kl_weight=weight, reference=reference())
    if config.advantages is not None:
        found = replace(
            found,
            divide_by_std=config.advantages == "standardized",
            leave_one_out=config.advantages == "leave-one-out",
        )
    named = ("drop_zero_variance_groups", "clip_low", "clip_high")
    return replace(found, **{name: value for name in named if (value := getattr(config, name)) is not None})
