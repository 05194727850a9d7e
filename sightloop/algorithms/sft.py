"""UniRL's supervised training (arXiv 2505.23380): the true answer as the label of the model's own drawing.

Differences from the paper:
1. End to end, the drawing carries straight-through codes, so that the answer's loss reaches the drawing side;
   this needs nothing here but a rollout that was drawn with a relaxation. Without one, `sides.drawing` trains
   on the model's own drawings; the paper's formula for that case is not known.
2. The paper labels every drawing with the prompt's answer, right or wrong, which teaches the seeing side to
   tell what was asked for instead of what it sees. The default keeps only drawings whose own answer was
   right; `paper` is the paper's choice.
3. Only the answer's tokens are labels, not the question's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from sightloop.algorithms.credit import Gather, group_best, this_rank
from sightloop.algorithms.sides import Side, Sides, shares_of, spread
from sightloop.types import Credit, LossOutput, Policy, Reduction, Rollout, one_rank

Filter = Literal["none", "answer_correct", "best_of_group"]
FILTERS: tuple[Filter, ...] = ("none", "answer_correct", "best_of_group")


def _answers_only() -> Sides:
    return Sides(drawing=Side(weight=0))


@dataclass(frozen=True, kw_only=True)
class SFT:
    """The likelihood of true answers, and of the model's own drawings if their side has a weight."""

    sides: Sides = field(default_factory=_answers_only)
    filter: Filter = "answer_correct"
    """Which drawings are kept: all, those whose answer was right, or those with their group's best reward."""
    correct: str = "all_facts"
    """The part of the reward that says whether an answer was right: 1 or more."""
    reduce: Reduction = one_rank
    gather: Gather = this_rank

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise ValueError(f"filter is {self.filter!r}; use one of {', '.join(FILTERS)}")

    @torch.no_grad()
    def credit(self, policy: Policy, rollout: Rollout) -> Credit:
        """Advantages of 1, and shares among the samples that the filter keeps.

        Raises:
            ValueError: the filter needs a reward that the rollout lacks.
        """
        orders = self.sides.draw_orders(rollout)
        views = self.sides.views(rollout, orders)
        keep = self._kept(rollout)
        shares = shares_of(views, keep, reduce=self.reduce, dtype=rollout.rewards.dtype)
        counts = self.reduce(torch.stack([keep.sum(), torch.ones_like(keep).sum()]).to(shares.dtype))
        kept, everyone = (float(count) for count in counts)
        return Credit(
            advantages=torch.ones_like(shares) * (shares > 0),
            shares=shares,
            orders=orders,
            figures={"filter/kept": kept / everyone},
        )

    def loss(self, policy: Policy, rollout: Rollout, credit: Credit) -> LossOutput:
        """Negative log-likelihood of each token of the trained sides."""
        parts: list[Tensor] = []
        metrics: dict[str, Tensor] = {}
        for view in self.sides.views(rollout, credit.orders):
            if view.weight == 0:
                parts.append(torch.zeros_like(credit.shares[:, view.columns]))
                continue
            log_probs, entropy = view.score(policy)
            parts.append(view.average(-log_probs))
            found = {"loss": -log_probs, "probability": log_probs.exp() * view.mask, "entropy": entropy}
            for name, values in found.items():
                metrics[f"{view.name}/{name}"] = spread(view.figure(values), view.columns, credit.shares)
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
    """`given` as in the paper: every drawing is labelled with the prompt's answer, whatever it shows."""
    return replace(given, filter="none")
