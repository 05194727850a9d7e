"""How long and how fast a run learns, and when it looks around. Light: the command line imports it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sightloop.ranges import Count, CountOrNone, Positive, Rate, Seed, require_ranges


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Steps, learning rates and the rhythm of saving and evaluating."""

    steps: Count = 700
    """Optimizer steps."""
    micro_batch: Count = 64
    """Samples a backward pass; any size gives the same gradient."""
    learning_rate: Rate = 1e-5
    """The optimizer's rate after the warm-up."""
    warmup_steps: CountOrNone = 20
    """Steps over which the rates rise from 0, linearly."""
    decay: Literal["none", "linear", "cosine"] = "none"
    """How the rates fall to 0 after the warm-up."""
    gradient_clip: Literal["value", "norm", "none"] = "value"
    """Clamp every gradient element, or scale the gradient of each trainable part."""
    gradient_clip_at: Positive = 1.0
    """Where the gradient is clamped, or the norm it is scaled to."""
    save_every: Count = 50
    """Steps between checkpoints."""
    eval_every: Count = 50
    """Steps between evaluations; the first is before training."""
    sample_every: Count = 50
    """Steps between galleries of samples in the run folder."""
    seed: Seed = 0
    """Everything random follows from it."""
    keep_checkpoints: Count = 2
    """Newest checkpoints that stay, beside the best one."""
    shard_optimizer: bool = False
    """With several ranks each keeps Adam's moments, 8 bytes a trained number, of a part of what is trained,
    and updates that part for all. The figures are the same.
    """
    best_metric: str | None = "held_out/recall@1"
    """The checkpoint that is best by this metric is kept besides the newest ones."""

    def __post_init__(self) -> None:
        require_ranges(self)

    def learning_rate_of(self, part: str) -> float:
        """The highest rate of a trainable part."""
        del part
        return self.learning_rate


@dataclass(frozen=True, kw_only=True)
class CriticSchedule(Schedule):
    """VLRM's: the same beside a critic, which may learn at a rate of its own."""

    steps: Count = 700
    """Optimizer steps (Paper: about 700, on 3 million images)."""
    learning_rate: Rate | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """The optimizer's rate after the warm-up; None = 1e-5 (Paper: section 3.6), and 1e-4 for adapters, which
    captioners without a Q-Former learn by.
    """
    warmup_steps: CountOrNone = 20
    """Steps over which the rates rise from 0, linearly (Paper: section 3.6)."""
    decay: Literal["none", "linear", "cosine"] = "none"
    """How the rates fall to 0 after the warm-up (Paper: none)."""
    gradient_clip: Literal["value", "norm", "none"] = "value"
    """Clamp every gradient element, or scale the gradient of each trainable part (Paper: "clamp")."""
    critic_learning_rate: Rate | None = None
    """None = as the policy's."""

    def learning_rate_of(self, part: str) -> float:
        """The highest rate of a trainable part."""
        rate = self.critic_learning_rate if part == "critic" else None
        rate = self.learning_rate if rate is None else rate
        assert rate is not None, "a run settles its rate before it starts"
        return rate
