"""Which of UniRL's settings belong to which choice."""

from __future__ import annotations

from typing import Any

from sightloop.algorithms.methods import METHODS
from sightloop.models.families import FAMILIES, family_named
from sightloop.recipes.choices import Choice

_CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


def asks_anyone(config: Any) -> bool:
    """Whether questions are asked: answers are judged or learned."""
    given = config.rewards
    judged = (
        given.points,
        given.share,
        given.all_facts,
        given.negative_questions,
        given.object_identification,
        given.text_judge,
    )
    return any((*judged, *config.custom_rewards)) or config.objectives.answering > 0


def _in_world(config: Any) -> bool:
    """Whether images are those of the embedded world, whose checker is exact."""
    chosen = config.quizzes.vocabulary
    return not config.policy if chosen == "auto" else chosen == "shapes"


def _draws_code_by_code(config: Any) -> bool:
    """Whether the policy is a Janus, as far as its folder says so."""
    return family_named(config.policy, config.world_model) is FAMILIES["janus"]


def _is_evaluated(config: Any) -> bool:
    """Whether drawings are evaluated: there are some, and something judges them."""
    return config.joint.per_category > 0 and (_in_world(config) or bool(config.joint.detector))


def _reads_codes(config: Any) -> bool:
    return asks_anyone(config) and not _draws_code_by_code(config) and not config.model.tower


SHARED = (
    Choice(
        settings=("world_model",),
        made=lambda c: not c.policy,
        name="the embedded world's models, and policy names another",
    ),
    Choice(
        settings=("model.lora_rank", "model.lora_alpha"),
        made=lambda c: c.model.trained == "lora",
        name="--model.trained lora",
    ),
    Choice(
        settings=tuple(f"quizzes.{name}" for name in _CATEGORIES),
        made=lambda c: not c.quizzes.file,
        name="quizzes made by the grammar, and quizzes.file names others",
    ),
    Choice(
        settings=("quizzes.geneval_prompts",),
        made=lambda c: not _in_world(c),
        name="quizzes of real words (--quizzes.vocabulary real)",
    ),
    Choice(
        settings=("answer.answerer", "answer.temperature", "answer.input"),
        made=asks_anyone,
        name="questions about the drawings, and no answer is judged or learned",
    ),
    Choice(
        settings=("answer.input",),
        made=_reads_codes,
        name="a Show-o that reads the codes it drew; others see the image anyway",
    ),
    Choice(
        settings=("answer.max_tokens",),
        made=lambda c: asks_anyone(c) or _is_evaluated(c),
        name="questions about the drawings, and none are asked",
    ),
    Choice(
        settings=("answer.decay",),
        made=lambda c: c.answer.answerer == "average" and asks_anyone(c),
        name="--answer.answerer average",
    ),
    Choice(
        settings=("judge.detector", "judge.colors"),
        made=lambda c: c.rewards.detector,
        name="the reward detector, whose weight is 0",
    ),
    Choice(
        settings=("judge.text_model",),
        made=lambda c: c.rewards.text_judge,
        name="the reward text_judge, whose weight is 0",
    ),
    Choice(
        settings=("judge.subtract_blind_baseline",),
        made=lambda c: c.rewards.points or c.rewards.share or c.rewards.all_facts,
        name="the rewards points, share and all_facts, whose weights are 0",
    ),
    Choice(
        settings=tuple(
            f"joint.{name}" for name in ("file", "detector", "colors", "fixed", "seed", "draw_batch")
        ),
        made=lambda c: c.joint.per_category > 0,
        name="an evaluation, and joint.per_category is 0",
    ),
    Choice(
        settings=("joint.per_category",),
        made=lambda c: not c.joint.quiz_file or c.joint.per_category == 0,
        name="quizzes made by the grammar, and joint.quiz_file names others",
    ),
    Choice(
        settings=("objectives.per_turn_every",),
        made=lambda c: c.drawing_weight > 0 and c.objectives.answering > 0,
        name="training of both sides, and one of them weighs 0",
    ),
    Choice(
        settings=("schedule.gradient_clip_at",),
        made=lambda c: c.schedule.gradient_clip != "none",
        name="--gradient-clip value or norm",
    ),
)


def _likelihood(is_scored: Any) -> tuple[Choice, ...]:
    return (
        Choice(
            settings=("likelihood.unmasking", "likelihood.guided"),
            made=is_scored,
            name="the likelihood of drawings, which is not trained here (objectives.drawing)",
        ),
        Choice(
            settings=("likelihood.number",),
            made=lambda c: is_scored(c) and c.likelihood.unmasking != "trajectory",
            name="--likelihood.unmasking subsampled or remasked",
        ),
    )


GRPO_CHOICES = (
    *SHARED,
    Choice(
        settings=("judge.scale",),
        made=lambda c: not METHODS[c.algorithm].separate_rewards,
        name="methods that do not standardize each reward anyway",
    ),
    *_likelihood(lambda c: c.drawing_weight > 0),
    Choice(
        settings=("clip_low", "clip_high"),
        made=lambda c: METHODS[c.algorithm].old_policy,
        name=f"--algorithm {' or '.join(name for name, row in METHODS.items() if row.old_policy)}",
    ),
)
SFT_CHOICES = (
    *SHARED,
    *_likelihood(lambda c: c.drawing_weight > 0 or c.kl_weight > 0),
    Choice(settings=("relaxation",), made=lambda c: c.end_to_end, name="--end-to-end"),
)
