"""Which settings of a run may change when it goes on. Light: the command line imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sightloop.recipes.choices import leaves_of, value_of

MAY_CHANGE = (
    *("schedule.steps", "schedule.learning_rate", "schedule.critic_learning_rate", "schedule.micro_batch"),
    *("schedule.save_every", "schedule.eval_every", "schedule.sample_every", "schedule.keep_checkpoints"),
    "schedule.shard_optimizer",
    *("device", "draw_batch", "gradient_checkpointing", "keep_features", "shard"),
    *("held_out.draw_batch", "joint.draw_batch", "data.workers", "track"),
)
"""How long, how fast, how often and on what a run learns; all else would make it another experiment."""


def changed_settings(before: Any, after: Any, *, run: Path) -> dict[str, Any]:
    """The settings that a run is to go on with, where they are others than it had.

    Raises:
        ValueError: one would make it another experiment; it is named.
    """
    changed = {
        setting: value_of(after, setting)
        for setting in leaves_of(after)
        if value_of(after, setting) != value_of(before, setting)
    }
    for setting, value in changed.items():
        splits_contrast = setting == "draw_batch" and after.rewards.retrieval > 0
        if setting not in MAY_CHANGE or splits_contrast:
            known = [name.removeprefix("schedule.") for name in MAY_CHANGE if name in set(leaves_of(after))]
            why = (
                "captions judged together would be others" if splits_contrast else "it is another experiment"
            )
            raise ValueError(
                f"{setting} is {value!r}, and {run} was trained with {value_of(before, setting)!r}: {why}. "
                f"Leave it out, or start a new run; what may change is {', '.join(known)}"
            )
    return changed
