"""Gradients of drawing and answering apart, and several updates from one rollout."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from algorithms.drawn_and_answered import TwoTables, tables, two_turns
from torch import Tensor, nn
from toy_run import SCHEDULE, Numbers, experiment_of, run_in

from sightloop.algorithms.grpo import GRPO, grpo_method
from sightloop.algorithms.turn_objectives import TurnObjective, TurnObjectives
from sightloop.training.experiment import Experiment
from sightloop.training.gradients import PlainGradients
from sightloop.training.loop import train, update
from sightloop.training.metrics import UpdateResult
from sightloop.training.optimizer import make_optimizer
from sightloop.training.schedule import Schedule
from sightloop.training.turn_gradients import Comparison, TurnGradients
from sightloop.types import Modality, Prompt, Rollout, Tokens, Turn

LOOSE = replace(
    SCHEDULE, gradient_clip="none", warmup_steps=0, learning_rate=0.1, best_metric=None, micro_batch=4
)
REWARDS, GROUP = [1.0, 3.0, 0.0, 4.0], [5, 5, 2, 2]


class Shared(TwoTables):
    """Both tables grow from the same numbers, so that the two gradients can agree or fight."""

    def __init__(self) -> None:
        super().__init__(torch.randn(4, 3), torch.randn(3, 4))
        self.common = nn.Parameter(torch.tensor(0.3))

    def law(self, prompt: Any, under: Any) -> Tensor:
        """The table times a number that both have."""
        table = self.picture if prompt.wants == "image" else self.answer
        return (self.common * table).log_softmax(-1)


def experiment(
    policy: TwoTables, algorithm: GRPO, *, schedule: Schedule = LOOSE, **more: Any
) -> Experiment[TwoTables, list[int]]:
    def collect(policy: TwoTables, _: list[int]) -> Rollout:
        return two_turns(policy, REWARDS, GROUP)

    return Experiment(
        policy=policy,
        trainable={"policy": policy},
        batches=Numbers(4),
        collect=collect,
        algorithm=algorithm,
        evaluators={},
        schedule=schedule,
        **more,
    )


def updated(
    *, apart: bool, balance: bool = False, micro_batch: int = 4, weights: tuple[float, float] = (1, 1)
) -> tuple[UpdateResult, list[Tensor]]:
    """One update of the same policy on the same rollout; what it measured, and the gradients."""
    torch.manual_seed(4)
    policy = Shared()
    drawing, answering = (TurnObjective(weight=weight) for weight in weights)
    algorithm = GRPO(kl_weight=0, objectives=TurnObjectives(drawing=drawing, answering=answering))
    made = experiment(policy, algorithm, schedule=replace(LOOSE, micro_batch=micro_batch))
    rollout = made.collect(policy, [])
    credit = algorithm.credit(policy, rollout)
    gradients = TurnGradients(list(policy.parameters()), balance=balance) if apart else None
    optimizer = make_optimizer(made.trainable, made.schedule)
    measured = update(made, optimizer, rollout, credit, gradients=gradients)
    return measured, [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]


def widths(drawing: int, answering: int) -> Rollout:
    """One sample of a drawing and an answer with so many tokens."""
    turns: list[Turn] = []
    kinds: list[tuple[int, Modality]] = [(drawing, "image"), (answering, "text")]
    for width, wants in kinds:
        tokens = Tokens(
            ids=torch.zeros(1, width, dtype=torch.long), mask=torch.ones(1, width, dtype=torch.bool)
        )
        turns.append(Turn(prompt=Prompt(texts=[""], wants=wants), tokens=tokens))
    return Rollout(
        turns=tuple(turns),
        rewards=torch.zeros(1, answering),
        reward_parts={},
        group=torch.zeros(1, dtype=torch.long),
    )


def test_norms_and_cosine_are_those_of_the_two_gradients() -> None:
    picture, answer = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([5.0]))
    gradients = TurnGradients([picture, answer])
    for _ in range(2):
        # Drawing: (3, 4) and 0. Answering: (3, 0) and 4. Two micro-batches double both.
        losses = torch.stack([3 * picture[0], 4 * picture[1], 3 * picture[0] + 4 * answer[0]])[None]
        gradients.backward(losses, widths(2, 1))
        assert picture.grad is None and answer.grad is None
    figures = gradients.join()
    assert figures == pytest.approx({"norm_drawing": 10, "norm_answering": 10, "cosine": 9 / 25})
    assert picture.grad is not None and picture.grad.tolist() == [12, 8]
    assert answer.grad is not None and answer.grad.tolist() == [8]


def test_balanced_turns_have_the_mean_of_their_norms() -> None:
    picture, answer = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    gradients = TurnGradients([picture, answer], balance=True)
    gradients.backward(torch.stack([30 * picture[0], -2 * answer[0]])[None], widths(1, 1))
    assert gradients.join() == {"norm_drawing": 30, "norm_answering": 2, "cosine": 0}
    assert (picture.grad, answer.grad) == (torch.tensor([16.0]), torch.tensor([-16.0]))


def test_a_turn_without_a_gradient_stays_as_it_is_and_has_no_angle() -> None:
    picture, answer = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    gradients = TurnGradients([picture, answer], balance=True)
    gradients.backward(torch.stack([6 * picture[0], torch.zeros(1)[0]])[None], widths(1, 1))
    assert gradients.join() == {"norm_drawing": 6, "norm_answering": 0}
    assert picture.grad is not None and picture.grad.tolist() == [6] and answer.grad is None


def test_gradients_that_belong_to_no_turn_are_added_unscaled() -> None:
    weight = nn.Parameter(torch.zeros(1))
    gradients = TurnGradients([weight], balance=True)
    gradients.backward(torch.stack([6 * weight[0], 2 * weight[0]])[None], widths(1, 1))
    weight.grad = torch.tensor([0.5])
    gradients.join()
    assert weight.grad.tolist() == [8.5]


def test_the_sum_of_joint_is_the_plain_gradient() -> None:
    plain, apart = updated(apart=False), updated(apart=True)
    for one, other in zip(plain[1], apart[1], strict=True):
        torch.testing.assert_close(other, one)
    assert plain[0].gradient_metrics == {}
    assert plain[0].gradient_norms == pytest.approx(apart[0].gradient_norms)
    figures = apart[0].gradient_metrics
    # |a + b|^2 = |a|^2 + |b|^2 + 2 |a| |b| cos: the three figures tell the norm of the sum.
    a, b, cosine = (figures[name] for name in ("norm_drawing", "norm_answering", "cosine"))
    assert apart[0].gradient_norms["policy"] == pytest.approx(math.sqrt(a * a + b * b + 2 * a * b * cosine))
    assert 0.001 < abs(cosine) < 1


def test_balance_changes_lengths_and_no_directions() -> None:
    figures = updated(apart=True)[0].gradient_metrics
    measured, gradients = updated(apart=True, balance=True)
    # Of the tables only one side each has a part, so that they show how it was scaled.
    plain = updated(apart=False)[1]
    wanted = (figures["norm_drawing"] + figures["norm_answering"]) / 2
    for index, name in ((0, "norm_drawing"), (1, "norm_answering")):
        torch.testing.assert_close(gradients[index], plain[index] * wanted / figures[name])
    assert measured.gradient_metrics == figures


@pytest.mark.parametrize("balance", [False, True])
def test_micro_batches_leave_figures_and_gradients_unchanged(balance: bool) -> None:
    whole, split = (updated(apart=True, balance=balance, micro_batch=size) for size in (4, 1))
    assert whole[0].gradient_metrics == pytest.approx(split[0].gradient_metrics, rel=1e-5)
    for one, other in zip(whole[1], split[1], strict=True):
        torch.testing.assert_close(other, one)


def test_the_weights_of_the_sides_show_in_their_norms() -> None:
    even, drawn = (updated(apart=True, weights=w)[0].gradient_metrics for w in ((1, 1), (3, 1)))
    assert drawn["norm_drawing"] == pytest.approx(1.5 * even["norm_drawing"])
    assert drawn["norm_answering"] == pytest.approx(0.5 * even["norm_answering"])
    assert drawn["cosine"] == pytest.approx(even["cosine"])


def test_two_turns_of_one_kind_are_refused() -> None:
    rollout = two_turns(tables(), REWARDS, GROUP)
    twice = replace(rollout, turns=(rollout.turns[0], rollout.turns[0]))
    with pytest.raises(ValueError, match="two turns of the rollout are drawing"):
        TurnGradients([]).backward(torch.zeros(4, 8), twice)


def test_turns_are_compared_when_due_and_always_when_balanced() -> None:
    every = Comparison(every=3)
    apart = [isinstance(every([], step, 0), TurnGradients) for step in range(1, 7)]
    assert apart == [False, False, True, False, False, True]
    assert isinstance(every([], 3, 1), PlainGradients)
    assert isinstance(Comparison(balance=True, every=3)([], 1, 1), TurnGradients)
    with pytest.raises(ValueError, match="compare_every is 0"):
        Comparison(every=0)


# -- several updates


def trained(
    folder: Path, make: Callable[[], TwoTables] = Shared, *, balance: bool = False, **more: Any
) -> tuple[TwoTables, list[dict[str, float]]]:
    torch.manual_seed(4)
    policy, steps = make(), replace(LOOSE, steps=1)
    made = experiment(policy, schedule=steps, gradients=Comparison(balance=balance, every=1), **more)
    logged: list[dict[str, float]] = []
    run = run_in(folder, steps)
    write = run.log
    run.log = lambda step, kind, metrics: (logged.append(dict(metrics)), write(step, kind, metrics))[1]
    train(made, run)
    return policy, logged


def test_the_second_update_has_real_ratios_and_the_first_has_not(tmp_path: Path) -> None:
    algorithm = grpo_method("grpo", GRPO(kl_weight=0))
    _, once = trained(tmp_path / "once", algorithm=algorithm)
    _, twice = trained(tmp_path / "twice", algorithm=algorithm, updates=2)
    assert once[0]["drawing/ratio"] == pytest.approx(1) and once[0]["drawing/clipped"] == 0
    # The step of Adam is .1 for every number of the tables: some ratios leave the bounds of .2.
    assert abs(twice[0]["drawing/ratio"] - 1) > 1e-3
    assert twice[0]["drawing/clipped"] + twice[0]["answering/clipped"] > 0
    # What the first update saw of the sides is logged, whatever later ones do.
    for name in ("norm_drawing", "norm_answering", "cosine"):
        assert twice[0][f"gradient/{name}"] == once[0][f"gradient/{name}"]


def test_two_updates_are_what_two_updates_by_hand_give(tmp_path: Path) -> None:
    algorithm = grpo_method("grpo", GRPO(kl_weight=0))
    policy, _ = trained(tmp_path / "run", algorithm=algorithm, updates=2)
    torch.manual_seed(4)
    twin = Shared()
    made = experiment(twin, algorithm)
    torch.manual_seed(SCHEDULE.seed)
    rollout = made.collect(twin, [])
    credit, optimizer = algorithm.credit(twin, rollout), make_optimizer(made.trainable, made.schedule)
    for _ in range(2):
        optimizer.zero_grad()
        (algorithm.loss(twin, rollout, credit).per_token * credit.loss_weights).sum().backward()
        optimizer.step()
    for one, other in zip(policy.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("balance", [False, True])
def test_every_update_is_balanced_and_not_the_first_alone(tmp_path: Path, balance: bool) -> None:
    algorithm = grpo_method("grpo", GRPO(kl_weight=0))
    policy, _ = trained(tmp_path / "run", tables, balance=balance, algorithm=algorithm, updates=2)
    # Each table belongs to one side; the gradients are those of the last update.
    assert policy.picture.grad is not None and policy.answer.grad is not None
    drawing, answering = float(policy.picture.grad.norm()), float(policy.answer.grad.norm())
    assert (drawing == pytest.approx(answering, rel=1e-5)) == balance


def test_updates_that_a_rollout_cannot_serve_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="updates is 0; use at least 1"):
        experiment(tables(), GRPO(kl_weight=0), updates=0)
    with pytest.raises(
        ValueError, match="updates is 2, but relaxed drawings and a critic's gradients serve one"
    ):
        train(replace(experiment_of(SCHEDULE), updates=2), run_in(tmp_path / "critic"))


# -- what is kept besides trained weights


def kept_run(folder: Path, extra_state: dict[str, Tensor], *, steps: int, resume: bool = False) -> None:
    """Two kept tensors that move by one a batch."""
    schedule = replace(LOOSE, steps=steps, save_every=1)
    torch.manual_seed(4)
    made = experiment(Shared(), GRPO(kl_weight=0), schedule=schedule, extra_state=extra_state)

    def collect(policy: TwoTables, batch: list[int]) -> Rollout:
        for value in extra_state.values():
            value += 1
        return made.collect(policy, batch)

    train(replace(made, collect=collect), run_in(folder, schedule, resume=resume))


def start() -> dict[str, Tensor]:
    return {"average.a": torch.tensor([0.25, -1.0]), "average.b": torch.zeros(2, 2, dtype=torch.bfloat16)}


def test_kept_tensors_are_saved_and_put_back_in_place(tmp_path: Path) -> None:
    whole, cut, later = start(), start(), start()
    kept_run(tmp_path / "whole", whole, steps=3)
    kept_run(tmp_path / "cut", cut, steps=1)
    places = {name: value.data_ptr() for name, value in later.items()}
    kept_run(tmp_path / "cut", later, steps=3, resume=True)
    for name, value in whole.items():
        assert torch.equal(later[name], value) and later[name].dtype == value.dtype
        assert later[name].data_ptr() == places[name] and float(value.flatten()[0]) > 2
    last = "checkpoints/step_000003"
    for file in ("kept.safetensors", "trainable.safetensors"):
        assert (tmp_path / "cut" / last / file).read_bytes() == (
            tmp_path / "whole" / last / file
        ).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"average.b": None}, r"keeps other things than this run: 1 tensors .* 'average.b'"),
        ({"average.c": torch.zeros(1)}, r"1 tensors are in only one of them, as 'average.c'"),
        ({"average.a": torch.zeros(1)}, r"'average.a' is \(2,\) in .*; this run has \(1,\)"),
    ],
)
def test_kept_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    kept_run(tmp_path / "run", start(), steps=1)
    other = {name: value for name, value in {**start(), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        kept_run(tmp_path / "run", other, steps=2, resume=True)
