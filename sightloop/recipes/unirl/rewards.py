"""What judges answers and drawings in the UniRL recipes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from sightloop.algorithms.methods import METHODS
from sightloop.late import late
from sightloop.models.precision import DTYPES
from sightloop.quizzes.grammar import Quiz
from sightloop.recipes.unirl.choices import asks_anyone
from sightloop.recipes.unirl.config import GrpoConfig, UniConfig
from sightloop.rewards.answers import (
    FactReward,
    JudgedAnswer,
    NegativeAnswers,
    ObjectIdentification,
    SubtractBlindBaseline,
    all_facts,
    points,
    share,
)
from sightloop.rewards.combine import Scale, combine
from sightloop.rewards.loading import Loading
from sightloop.training import distributed
from sightloop.types import Images, Judge, Reward

# Loaded where a configuration asks for them.
_open_check = late("sightloop.evaluators.image_checks:open_check")
_load_rewards = late("sightloop.rewards.custom:load_rewards")
_text_judge = late("sightloop.evaluators.text_judge:text_judge")


@dataclass(frozen=True, kw_only=True)
class Judges:
    """What judges a rollout."""

    answers: dict[str, Reward]
    weights: dict[str, float]
    judge: Judge | None
    image: Callable[[Images, Sequence[Quiz]], Tensor] | None


def rewards_of(config: UniConfig, *, in_world: bool) -> Judges:
    """The rewards that have a weight; facts told are always measured where answers are judged.

    Raises:
        ValueError: no reward has a weight, one lacks the model it needs, or a setting of the judge is of no
            use.
    """
    rewards, weights = answer_rewards(config)
    image = None
    if config.rewards.detector:
        check = _open_check(
            config.judge.detector, config.judge.colors, in_world=in_world, device=config.device
        )
        if check is None:
            raise ValueError("rewards.detector has a weight and judge.detector is empty; name a Mask2Former")
        image = check.share
    if not any(weights.values()) and image is None:
        raise ValueError("every reward weight is 0; give at least one a weight")
    judge = combine(rewards, weights, scale=reward_scale(config)) if rewards else None
    return Judges(answers=rewards, weights=weights, judge=judge, image=image)


def reward_scale(config: UniConfig) -> Scale:
    """How rewards are scaled before they are weighed."""
    separate = isinstance(config, GrpoConfig) and METHODS[config.algorithm].separate_rewards
    return "group" if separate else config.judge.scale


def answer_rewards(config: UniConfig) -> tuple[dict[str, Reward], dict[str, float]]:
    """Rewards of answers by name and their weights; `all_facts` is measured even with weight 0."""
    given = config.rewards
    grades = {"points": points, "share": share, "all_facts": all_facts}
    how = Loading(text="prompt", dtype=DTYPES[config.dtype], device=distributed.device(config.device))
    rewards: dict[str, Reward] = {}
    for name, grade in grades.items():
        if getattr(given, name):
            reward: Reward = FactReward(grade=grade)
            rewards[name] = (
                SubtractBlindBaseline(reward=reward) if config.judge.subtract_blind_baseline else reward
            )
    if given.negative_questions:
        rewards["negative_questions"] = NegativeAnswers()
    if given.object_identification:
        rewards["object_identification"] = ObjectIdentification()
    if given.text_judge:
        judge = _text_judge(config.judge.text_model, dtype=how.dtype, device=how.device)
        rewards["text_judge"] = JudgedAnswer(judge=judge)
    weights = {name: float(getattr(given, name)) for name in rewards}
    taken = (*grades, "negative_questions", "object_identification", "text_judge", "image")
    own, own_weights = _load_rewards(config.custom_rewards, taken=taken, how=how)
    rewards, weights = rewards | own, weights | own_weights
    if asks_anyone(config):
        # Supervised training filters by it, and the log tells how many answers are wholly right.
        rewards.setdefault("all_facts", FactReward(grade=all_facts))
        weights.setdefault("all_facts", 0.0)
    return rewards, weights
