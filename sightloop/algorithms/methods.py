"""GRPO's relatives by name: one row says all that a method changes. Light to import: settings read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Method:
    """What a method changes of `grpo.GRPO`; everything else stays as it is given."""

    old_policy: bool = False
    """Ratios are real, to the policy that drew: they can be clipped, and a rollout serves several updates."""
    penalty: bool = True
    """The policy is held near a frozen reference, unless the user says otherwise."""
    average_over: Literal["sample", "token", "length"] | None = None
    """What weighs the same in the loss; `length` needs the longest drawing and answer
    (`TurnObjective.max_length`)."""
    separate_rewards: bool = False
    """Each reward is standardized in its group before they are added up: whoever judges sees to it."""
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields of GRPO with their values."""


_CLIPS = {"clip_low": 0.2, "clip_high": 0.2}

METHODS: dict[str, Method] = {
    "unirl": Method(),
    # arXiv 2402.03300
    "grpo": Method(old_policy=True, changes=_CLIPS),
    # arXiv 2503.20783
    "dr_grpo": Method(
        old_policy=True, penalty=False, average_over="length", changes={**_CLIPS, "divide_by_std": False}
    ),
    # arXiv 2503.14476; groups without signal are left out, not drawn again
    "dapo": Method(
        old_policy=True,
        penalty=False,
        average_over="token",
        changes={"clip_low": 0.2, "clip_high": 0.28, "drop_zero_variance_groups": True},
    ),
    # arXiv 2507.18071
    "gspo": Method(old_policy=True, changes={"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4}),
    # arXiv 2601.05242
    "gdpo": Method(
        old_policy=True,
        separate_rewards=True,
        changes={**_CLIPS, "divide_by_std": False, "standardize_batch": True},
    ),
    # arXiv 2402.14740
    "rloo": Method(changes={"divide_by_std": False, "leave_one_out": True}),
}
"""A further relative is one more row: the command line, checks and plans read nothing else."""


def require_method(name: str, *, updates: int) -> None:
    """Refuse a name that is no method's, and several updates from one rollout where it has no old policy.

    Raises:
        ValueError: either; the methods that would do are told.
    """
    if name not in METHODS:
        raise ValueError(f"algorithm is {name!r}; there are: {', '.join(METHODS)}")
    if updates > 1 and not METHODS[name].old_policy:
        others = ", ".join(other for other, method in METHODS.items() if method.old_policy)
        raise ValueError(
            f"updates is {updates}, but algorithm {name!r} has no old policy; use 1, or one of {others}"
        )
