"""A language model's opinion of an answer as a reward; loaded where it has a weight."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from sightloop.evaluation.answer_matching import Answered, TextModelComparison
from sightloop.evaluation.text_model import TextModel
from sightloop.rewards.answers import TextJudge


def text_judge(name: str, *, dtype: torch.dtype, device: torch.device) -> TextJudge:
    """Asks a language model whether an answer says the same as the true one.

    Raises:
        ValueError: no model is named.
    """
    if not name:
        raise ValueError(
            "rewards.text_judge has a weight and judge.text_model is empty; name a language model"
        )
    return same_or_not(TextModel.from_pretrained(name, dtype=dtype, device=device), name)


def same_or_not(ask: Callable[[str], str], name: str) -> TextJudge:
    """1 for an answer that says the same as the true one in the opinion of a text model, else 0.

    Equal answers are asked about once. The judge raises ValueError on a reply that is neither.
    """
    judge = TextModelComparison(ask)

    @cache
    def score(question: str, truth: str, answer: str) -> float:
        (verdict,) = judge.verdicts([Answered(question=question, truth=truth, answer=answer)])
        if verdict is None:
            raise ValueError(
                f"{name} replied neither 'same' nor 'not same'; use a model that follows instructions"
            )
        return float(verdict)

    return score
