"""Which of the recipe's settings belong to which choice."""

from __future__ import annotations

from typing import Any

from sightloop.algorithms.methods import METHODS
from sightloop.recipes.choices import Choice


def _is_evaluated(config: Any) -> bool:
    """Whether held-out rows are answered: those that are named, or the embedded world's."""
    return bool(config.held_out.rows) or not config.data.rows


CHOICES = (
    Choice(
        settings=("clip_low", "clip_high"),
        made=lambda c: METHODS[c.algorithm].old_policy,
        name=f"--algorithm {' or '.join(name for name, row in METHODS.items() if row.old_policy)}",
    ),
    Choice(
        settings=("keep_features",),
        made=lambda c: c.captioner.reuse_features,
        name="captioners that reuse the tower's features (captioner.reuse_features)",
    ),
    Choice(
        settings=tuple(
            f"data.{name}"
            for name in (
                *("split", "image_root", "column", "prompt_column", "reference_column", "frames"),
                "allow_text",
            )
        ),
        made=lambda c: c.data.rows,
        name="rows of your own; name them with --rows",
    ),
    Choice(settings=("held_out.limit",), made=_is_evaluated, name="an evaluation; name --held-out.rows"),
    Choice(
        settings=("held_out.split",),
        made=lambda c: c.held_out.rows,
        name="an evaluation of rows of your own; name --held-out.rows",
    ),
    Choice(
        settings=("schedule.gradient_clip_at",),
        made=lambda c: c.schedule.gradient_clip != "none",
        name="--gradient-clip value or norm",
    ),
)
