"""Which of VLRM's settings belong to which choice."""

from __future__ import annotations

from typing import Any

from sightloop.recipes.choices import Choice
from sightloop.recipes.vlrm.algorithms import ALGORITHMS


def _is_evaluated(config: Any) -> bool:
    """Whether held-out images are captioned: those that are named, or the embedded world's."""
    return bool(config.held_out.images) or not config.data.images


CHOICES = (
    Choice(
        settings=("gamma",),
        made=lambda c: "gamma" in ALGORITHMS[c.algorithm].takes,
        name=f"--algorithm {' or '.join(name for name, row in ALGORITHMS.items() if 'gamma' in row.takes)}",
    ),
    Choice(
        settings=("critic", "schedule.critic_learning_rate"),
        made=lambda c: ALGORITHMS[c.algorithm].has_critic,
        name=f"--algorithm {' or '.join(name for name, row in ALGORITHMS.items() if row.has_critic)}",
    ),
    Choice(
        settings=("judge.model", "judge.max_text_tokens", "judge.reuse_tower"),
        made=lambda c: c.rewards.similarity,
        name="the reward similarity, whose weight is 0",
    ),
    Choice(
        settings=("judge.reference_model", "judge.reference_includes_end"),
        made=lambda c: c.rewards.reference,
        name="the reward reference, whose weight is 0",
    ),
    Choice(
        settings=("judge.retrieval_clip", "judge.contrast", "judge.logit_scale"),
        made=lambda c: c.rewards.retrieval,
        name="the reward retrieval, whose weight is 0",
    ),
    Choice(
        settings=("judge.phrases", "judge.extra_phrases"),
        made=lambda c: c.rewards.bad_phrases,
        name="the reward bad_phrases, whose weight is 0",
    ),
    Choice(
        settings=("judge.exempt_words",),
        made=lambda c: c.rewards.repeats,
        name="the reward repeats, whose weight is 0",
    ),
    Choice(
        settings=("keep_features",),
        made=lambda c: c.captioner.reuse_features,
        name="captioners that reuse the tower's features (captioner.reuse_features)",
    ),
    Choice(settings=("draw.top_k",), made=lambda c: c.draw.temperature > 0, name="draw.temperature above 0"),
    Choice(
        settings=("data.image_root", "data.split"),
        made=lambda c: c.data.images.endswith(".json"),
        name="a Karpathy JSON in data.images",
    ),
    Choice(settings=("data.column",), made=lambda c: c.data.images, name="parquet files in data.images"),
    Choice(
        settings=("held_out.image_root", "held_out.split"),
        made=lambda c: c.held_out.images.endswith(".json"),
        name="a Karpathy JSON in held_out.images",
    ),
    Choice(
        settings=("held_out.column",),
        made=lambda c: c.held_out.images,
        name="parquet files in held_out.images",
    ),
    Choice(
        settings=tuple(
            f"held_out.{name}"
            for name in (
                *("limit", "clip", "fit", "beams", "no_repeat_ngram", "min_tokens", "max_tokens"),
                "draw_batch",
            )
        ),
        made=_is_evaluated,
        name="an evaluation; name its images with --held-out.images",
    ),
    Choice(
        settings=("schedule.gradient_clip_at",),
        made=lambda c: c.schedule.gradient_clip != "none",
        name="--gradient-clip value or norm",
    ),
)
