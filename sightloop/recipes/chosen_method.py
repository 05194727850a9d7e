"""The method that a configuration names, with what else it says about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sightloop.algorithms.grpo import GRPO, grpo_method
from sightloop.algorithms.methods import METHODS
from sightloop.types import Policy


def chosen_method(given: GRPO, config: Any, *, usual_kl: float, reference: Callable[[], Policy]) -> GRPO:
    """`given` as the method of `config.algorithm`, changed where its settings are not None; `usual_kl` is the
    weight of the divergence in methods that have one.
    """
    found = grpo_method(config.algorithm, given)
    usual = usual_kl if METHODS[config.algorithm].penalty else 0.0
    weight = usual if config.kl_weight is None else config.kl_weight
    if weight > 0:
        found = replace(found, kl_weight=weight, reference=reference())
    if config.advantages is not None:
        found = replace(
            found,
            divide_by_std=config.advantages == "standardized",
            leave_one_out=config.advantages == "leave-one-out",
        )
    named = ("drop_zero_variance_groups", "clip_low", "clip_high")
    return replace(found, **{name: value for name in named if (value := getattr(config, name)) is not None})
