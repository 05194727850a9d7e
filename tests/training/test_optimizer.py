"""Learning rates, clipping, and what may be trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sightloop.training.optimizer import clip_gradients, make_optimizer, set_learning_rate
from sightloop.training.schedule import CriticSchedule, Schedule

SCHEDULE = CriticSchedule(learning_rate=0.4, critic_learning_rate=0.8, warmup_steps=4)


def two_parts() -> dict[str, nn.Module]:
    return {"policy": nn.Linear(2, 1, bias=False), "critic": nn.Linear(1, 1, bias=False)}


def rates(step: int, schedule: Schedule = SCHEDULE) -> list[float]:
    optimizer = make_optimizer(two_parts(), schedule)
    set_learning_rate(optimizer, step, schedule)
    return [group["lr"] for group in optimizer.param_groups]


def test_rates_rise_evenly_to_their_peaks_and_stay() -> None:
    assert rates(1) == pytest.approx([0.1, 0.2])
    assert rates(3) == pytest.approx([0.3, 0.6])
    assert rates(4) == rates(5) == rates(700) == [0.4, 0.8]


def test_rates_may_fall_in_a_line_or_as_a_cosine_from_the_peak_to_what_would_be_0_after_the_last_step() -> (
    None
):
    linear = replace(SCHEDULE, steps=8, decay="linear")
    assert [rates(step, linear)[0] for step in range(4, 9)] == pytest.approx([0.4, 0.4, 0.3, 0.2, 0.1])
    cosine = replace(SCHEDULE, steps=8, warmup_steps=0, decay="cosine")
    assert [rates(step, cosine)[0] for step in (1, 3, 5, 7)] == pytest.approx(
        [0.4, 0.2 * (1 + 0.5**0.5), 0.2, 0.2 * (1 - 0.5**0.5)]
    )


def test_no_warm_up_starts_at_the_peak_and_one_rate_serves_both() -> None:
    assert rates(1, replace(SCHEDULE, warmup_steps=0, critic_learning_rate=None)) == [0.4, 0.4]


def clipped(clip: str) -> tuple[dict[str, float], list[list[float]]]:
    parts = two_parts()
    optimizer = make_optimizer(parts, SCHEDULE)
    policy, critic = (group["params"][0] for group in optimizer.param_groups)
    policy.grad, critic.grad = torch.tensor([[3.0, -4.0]]), torch.tensor([[0.5]])
    norms = clip_gradients(optimizer, clip, 1.0)  # pyright: ignore[reportArgumentType]
    return norms, [policy.grad.flatten().tolist(), critic.grad.flatten().tolist()]


def test_norms_are_those_before_clipping() -> None:
    for clip in ("value", "norm", "none"):
        assert clipped(clip)[0] == pytest.approx({"policy": 5.0, "critic": 0.5})


def test_clipping_by_value_clamps_every_element() -> None:
    assert clipped("value")[1] == [[1.0, -1.0], [0.5]]


def test_clipping_by_norm_scales_a_part_without_touching_the_other() -> None:
    (policy, critic) = clipped("norm")[1]
    assert policy == pytest.approx([0.6, -0.8], abs=1e-5)
    assert critic == [0.5]


def test_no_clipping_leaves_gradients_alone() -> None:
    assert clipped("none")[1] == [[3.0, -4.0], [0.5]]


def test_a_part_that_the_loss_does_not_reach_is_an_error() -> None:
    parts = two_parts()
    optimizer = make_optimizer(parts, SCHEDULE)
    optimizer.param_groups[0]["params"][0].grad = torch.ones(1, 2)
    with pytest.raises(ValueError, match="'critic' received no gradient"):
        clip_gradients(optimizer, "none", 1.0)


def test_half_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'policy' is not in float32.*\.float\(\)"):
        make_optimizer({"policy": nn.Linear(2, 1).bfloat16()}, SCHEDULE)


def test_a_frozen_part_is_refused() -> None:
    with pytest.raises(ValueError, match="'policy' has no parameter that requires a gradient"):
        make_optimizer({"policy": nn.Linear(2, 1).requires_grad_(False)}, SCHEDULE)


def test_only_what_requires_a_gradient_is_optimized() -> None:
    layer = nn.Linear(2, 1)
    layer.bias.requires_grad_(False)
    (group,) = make_optimizer({"policy": layer}, SCHEDULE).param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(layer.weight)]
    assert group["weight_decay"] == 0


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"micro_batch": 0}, {"keep_checkpoints": 0}, {"warmup_steps": -1}, {"learning_rate": 0.0}],
)
def test_a_schedule_that_cannot_work_names_the_value(wrong: dict[str, float]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        replace(SCHEDULE, **wrong)
