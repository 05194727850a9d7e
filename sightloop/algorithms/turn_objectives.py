"""The two sides of a model that draws and answers: what each weighs, under which distribution it is scored,
in how many orders of unmasking.

The loss of a batch is the weighted mean of its sides, each a mean over its own tokens: an image of a
thousand codes does not outweigh an answer of ten words. A rollout of one turn has one side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sightloop.algorithms.masked import weights_per_length, weights_per_sample, weights_per_token
from sightloop.types import Policy, Reduction, Rollout, Sampling, Turn

AverageOver = Literal["sample", "token", "length"]
AVERAGES: tuple[AverageOver, ...] = ("sample", "token", "length")
"""Within a side each sample weighs the same, or each token, or each token 1 / `max_length` of a sample."""

Unmasking = Callable[[Turn], list[Turn]]
"""The drawn turn in K orders of unmasking that weigh the same; tokens with mask True are scored."""


@dataclass(frozen=True, kw_only=True)
class TurnObjective:
    """How the tokens of one modality are learned."""

    weight: float = 1.0
    """Relative to the other side; 0 = this side is neither scored nor trained."""
    under: Sampling | None = None
    """The distribution whose probabilities are pushed: None = the model's own (images: without guidance); the
    distribution that drew them is the other honest choice."""
    max_length: int | None = None
    """What the sum over a sample's tokens is divided by if `average_over` is "length"."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(
                f"the weight of a side is {self.weight}; use 0 (not trained) or a positive number"
            )
        if self.under is not None and self.under.temperature == 0:
            raise ValueError(
                "under.temperature is 0: greedy tokens have no gradient; use None or a positive temperature"
            )
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length is {self.max_length}; use at least 1")


@dataclass(frozen=True, kw_only=True)
class ScoredTurn:
    """One turn of a rollout as it is scored: in one order, or in K orders of a masked decoder."""

    name: str
    """`drawing` or `answering`; `policy` in a rollout of one turn. For the log."""
    objective: TurnObjective
    weight: float
    """Share of the side in the batch loss."""
    turns: tuple[Turn, ...]
    columns: slice
    """Its columns in credit."""
    average_over: AverageOver

    @property
    def mask(self) -> Bool[Tensor, "B K T"]:
        """Tokens that count, in each order."""
        return torch.stack([turn.tokens.mask for turn in self.turns], 1)

    def score(self, policy: Policy) -> tuple[Float[Tensor, "B K T"], Float[Tensor, "B K T"]]:
        """Log-probabilities and entropies under the side's distribution."""
        scores = [policy.score(turn, self.objective.under) for turn in self.turns]
        log_probs = torch.stack([score.log_probs for score in scores], 1)
        return log_probs, torch.stack([score.entropy for score in scores], 1)

    def loss_weights(
        self, keep: Bool[Tensor, " B"], *, reduce: Reduction, dtype: torch.dtype
    ) -> Float[Tensor, "B T"]:
        """The weight of each token in the batch loss; they sum to the side's weight over all ranks.

        Orders of a sample count like samples of their own.
        """
        mask = self.mask & keep[:, None, None]
        rows = mask.flatten(0, 1)
        if self.average_over == "length":
            loss_weights = weights_per_length(
                rows, self.objective.max_length or 1, reduce=reduce, dtype=dtype
            )
        else:
            fill = weights_per_sample if self.average_over == "sample" else weights_per_token
            loss_weights = fill(rows, reduce=reduce, dtype=dtype)
        return self.weight * loss_weights.view(mask.shape).sum(1)

    def average(self, values: Float[Tensor, "B K T"]) -> Float[Tensor, "B T"]:
        """Mean over the orders, weighted as in `loss_weights`, of each token that any of them scores; else
        0."""
        mask = self.mask
        weights = mask.to(values.dtype)
        if self.average_over == "sample":
            weights = weights / mask.sum(-1, keepdim=True).clamp(min=1)
        total = weights.sum(1)
        return (weights * values).sum(1) / total.where(total > 0, 1)

    def averaged_for_log(self, values: Float[Tensor, "B K T"]) -> Float[Tensor, "B T"]:
        """Values for the log, scaled so that their share-weighted sum is this side's mean."""
        return self.average(values.detach()) / self.weight


@dataclass(frozen=True, kw_only=True)
class TurnObjectives:
    """Both sides, how each is averaged, and the orders in which masked drawings are scored."""

    drawing: TurnObjective = TurnObjective()
    answering: TurnObjective = TurnObjective()
    average_over: AverageOver = "sample"
    unmasking: Unmasking | None = None
    """None scores the tokens of a drawing in the order in which they were drawn."""

    def __post_init__(self) -> None:
        if self.average_over not in AVERAGES:
            raise ValueError(f"average_over is {self.average_over!r}; use one of {', '.join(AVERAGES)}")
        if self.drawing.weight + self.answering.weight <= 0:
            raise ValueError("both sides have weight 0; give at least one a positive weight")
        for name, objective in (("drawing", self.drawing), ("answering", self.answering)):
            if (objective.max_length is None) == (self.average_over == "length" and objective.weight > 0):
                raise ValueError(
                    f"average_over is {self.average_over!r} and {name}.max_length is {objective.max_length}; "
                    '"length" needs it on each trained side, others have no use for it'
                )
        if self.unmasking is not None and self.drawing.weight == 0:
            raise ValueError("orders are for drawings, which have weight 0; leave orders out")

    def draw_unmasking(self, rollout: Rollout) -> tuple[Turn, ...]:
        """The orders in which the rollout's drawing is scored; empty: as it was drawn.

        Raises:
            ValueError: there are orders but no drawing.
        """
        if self.unmasking is None:
            return ()
        drawings = [turn for turn in rollout.turns if turn.kind == "drawing"]
        if len(drawings) != 1:
            raise ValueError(
                f"orders are for a rollout with one drawing; this one has {len(drawings)}: leave orders out"
            )
        return tuple(self.unmasking(drawings[0]))

    def scored_turns(self, rollout: Rollout, unmasking: tuple[Turn, ...]) -> list[ScoredTurn]:
        """Each turn as it is scored, in the order of the rollout.

        Raises:
            ValueError: the sides that the rollout has both weigh 0.
        """
        objectives = [self._side(turn) for turn in rollout.turns]
        total = sum(objective.weight for objective in objectives)
        if total == 0:
            raise ValueError("the rollout has only turns of weight 0; give the side it has a positive weight")
        return [
            ScoredTurn(
                name="policy" if len(objectives) == 1 else turn.kind,
                objective=objective,
                weight=objective.weight / total,
                turns=unmasking if turn.kind == "drawing" and unmasking else (turn,),
                columns=columns,
                average_over=self.average_over,
            )
            for turn, objective, columns in zip(
                rollout.turns, objectives, rollout.turn_columns(), strict=True
            )
        ]

    def _side(self, turn: Turn) -> TurnObjective:
        return self.drawing if turn.kind == "drawing" else self.answering


def loss_weights_of(
    scored_turns: list[ScoredTurn], keep: Bool[Tensor, " B"], *, reduce: Reduction, dtype: torch.dtype
) -> Float[Tensor, "B S"]:
    """Shares of all turns side by side; samples that are not kept have none, the others share alike."""
    return torch.cat(
        [scored_turn.loss_weights(keep, reduce=reduce, dtype=dtype) for scored_turn in scored_turns], 1
    )


def in_turn_columns(
    values: Float[Tensor, "B T"], columns: slice, loss_weights: Float[Tensor, "B S"]
) -> Float[Tensor, "B S"]:
    """Values of one turn in its columns of credit, 0 elsewhere.

    >>> in_turn_columns(torch.ones(1, 2), slice(1, 3), torch.zeros(1, 4))
    tensor([[0., 1., 1., 0.]])
    """
    before, behind = loss_weights[:, : columns.start], loss_weights[:, columns.stop :]
    return torch.cat([torch.zeros_like(before), values, torch.zeros_like(behind)], 1)
