"""UniRL's supervised training (arXiv 2505.23380): the true answer as the label of the model's own drawing.

Differences from the paper:
1. End to end, the drawing carries straight-through codes, so that the answer's loss reaches the drawing side;
   this needs nothing here but a rollout that was drawn with a relaxation. Without one, `objectives.drawing`
   trains on the model's own drawings; the paper's formula for that case is not known.
2. The paper labels every drawing with the prompt's answer, right or wrong, which teaches the seeing side to
   tell what was asked for instead of what it sees. The default keeps only drawings whose own answer was
   right; `paper` is the paper's choice.
3. Only the answer's tokens are labels, not the question's.
4. `kl_weight` holds both sides near a frozen reference by GRPO's estimate (k3) at each token, on the samples
   that the filter keeps; the paper names no such term. Drawn codes come from the policy, and there it
   estimates the divergence. Labels do not: there it bounds how far a label may rise, since loss and penalty
   balance where the label is k / (k - 1) times as likely as before, for a weight k above 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from sightloop.algorithms.credit import Gather, group_best, identity_gather
from sightloop.algorithms.ratios import kl_to_reference
from sightloop.algorithms.turn_objectives import (
    TurnObjective,
    TurnObjectives,
    in_turn_columns,
    loss_weights_of,
)
from sightloop.types import Credit, LossOutput, Policy, Reduction, Rollout, identity_reduction

Filter = Literal["none", "answer_correct", "best_of_group"]
FILTERS: tuple[Filter, ...] = ("none", "answer_correct", "best_of_group")


def _answers_only() -> TurnObjectives:
    return TurnObjectives(drawing=TurnObjective(weight=0))


@dataclass(frozen=True, kw_only=True)
class SFT:
    """The likelihood of true answers, and of the model's own drawings if their side has a weight."""

    objectives: TurnObjectives = field(default_factory=_answers_only)
    learns_drawings: bool = True
    """False: of the drawing side only the penalty acts, as end to end, where the answer's loss trains it."""
    kl_weight: float = 0.0
    reference: Policy | None = None
    """A frozen policy that scores the same turns; needed by a positive `kl_weight`."""
    filter: Filter = "answer_correct"
    """Which drawings are kept: all, those whose answer was right, or those with their group's best reward."""
    correct: str = "all_facts"
    """The part of the reward that says whether an answer was right: 1 or more."""
    reduce: Reduction = identity_reduction
    gather: Gather = identity_gather

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise ValueError(f"filter is {self.filter!r}; use one of {', '.join(FILTERS)}")
        if self.kl_weight < 0 or (self.kl_weight > 0 and self.reference is None):
            raise ValueError(
                f"kl_weight is {self.kl_weight}; use 0, or a positive weight together with a reference"
            )
        if not self.learns_drawings and self.kl_weight == 0 and self.objectives.drawing.weight > 0:
            raise ValueError(
                "drawings are not learned and kl_weight is 0: the drawing side has no loss; give it weight 0"
            )

    @torch.no_grad()
    def credit(self, policy: Policy, rollout: Rollout) -> Credit:
        """Advantages of 1, and shares among the samples that the filter keeps.

        Raises:
            ValueError: the filter needs a reward that the rollout lacks, or the policy is its own reference.
        """
        if self.reference is policy:
            raise ValueError("the reference is the policy itself; give a frozen copy")
        unmasking = self.objectives.draw_unmasking(rollout)
        scored_turns = self.objectives.scored_turns(rollout, unmasking)
        keep = self._kept(rollout)
        loss_weights = loss_weights_of(scored_turns, keep, reduce=self.reduce, dtype=rollout.rewards.dtype)
        counts = self.reduce(torch.stack([keep.sum(), torch.ones_like(keep).sum()]).to(loss_weights.dtype))
        kept, everyone = (float(count) for count in counts)
        return Credit(
            advantages=torch.ones_like(loss_weights) * (loss_weights > 0),
            loss_weights=loss_weights,
            unmasking=unmasking,
            metrics={"filter/accepted": kept / everyone},
        )

    def loss(self, policy: Policy, rollout: Rollout, credit: Credit) -> LossOutput:
        """Negative log-likelihood of each token of the trained sides, plus the weighted divergence."""
        parts: list[Tensor] = []
        metrics: dict[str, Tensor] = {}
        for scored_turn in self.objectives.scored_turns(rollout, credit.unmasking):
            if scored_turn.weight == 0:
                parts.append(torch.zeros_like(credit.loss_weights[:, scored_turn.columns]))
                continue
            log_probs, entropy = scored_turn.score(policy)
            learned = self.learns_drawings or scored_turn.turns[0].prompt.wants != "image"
            total = -log_probs if learned else torch.zeros_like(log_probs)
            found = {"loss": total, "probability": log_probs.exp() * scored_turn.mask, "entropy": entropy}
            if self.reference is not None and self.kl_weight > 0:
                with torch.no_grad():
                    before, _ = scored_turn.score(self.reference)
                found["kl"] = kl_to_reference(log_probs, before).masked_fill(~scored_turn.mask, 0)
                total = total + self.kl_weight * found["kl"]
            parts.append(scored_turn.average(total))
            for name, values in found.items():
                metrics[f"{scored_turn.name}/{name}"] = in_turn_columns(
                    scored_turn.averaged_for_log(values), scored_turn.columns, credit.loss_weights
                )
        return LossOutput(per_token=torch.cat(parts, 1), metrics=metrics)

    def _kept(self, rollout: Rollout) -> Bool[Tensor, " B"]:
        if self.filter == "none":
            return torch.ones_like(rollout.rewards[:, 0], dtype=torch.bool)
        if self.filter == "best_of_group":
            if not rollout.reward_parts:
                raise ValueError(
                    'filter is "best_of_group", but nothing was judged; give the collector a judge'
                )
            totals = rollout.rewards.sum(1)
            return totals == group_best(totals, rollout.group.to(totals.device), gather=self.gather)
        if self.correct not in rollout.reward_parts:
            known = ", ".join(rollout.reward_parts) or "none"
            raise ValueError(
                f'filter is "answer_correct", by the reward {self.correct!r}; the rollout has {known}'
            )
        return rollout.reward_parts[self.correct].to(rollout.rewards.device) >= 1


def paper(given: SFT) -> SFT:
    """`given` as in the paper: every drawing is labeled with the prompt's answer, whatever it shows."""
    return replace(given, filter="none")
