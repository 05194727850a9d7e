"""The update: the same gradient however the rows are split, and a clear end when numbers break."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_run import LAW, SCHEDULE, Collector, Numbers, ToyPolicy, experiment_of, run_in

from sightloop.training.experiment import Experiment
from sightloop.training.loop import train, update, valued
from sightloop.training.micro_batches import by_length, trimmed
from sightloop.training.optimizer import make_optimizer
from sightloop.types import Algorithm, Credit, LossOutput, Policy, Prompt, Rollout, Tokens, Turn

BATCH = 11
LOOSE = replace(SCHEDULE, gradient_clip="none", warmup_steps=0)


def gradients(experiment: Experiment[ToyPolicy, list[int]], micro_batch: int) -> list[Tensor]:
    experiment = replace(experiment, schedule=replace(experiment.schedule, micro_batch=micro_batch))
    rollout = Collector(noise=())(experiment.policy, list(range(BATCH)))
    rollout, of_critic = valued(experiment, rollout)
    credit = experiment.algorithm.credit(experiment.policy, rollout)
    optimizer = make_optimizer(experiment.trainable, experiment.schedule)
    update(experiment, optimizer, rollout, credit, critic_gradients=of_critic)
    found = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
    assert all(gradient is not None for gradient in found)
    return [gradient.clone() for gradient in found if gradient is not None]


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 7])
def test_micro_batches_of_any_size_give_the_gradient_of_the_whole_batch(micro_batch: int) -> None:
    whole = gradients(experiment_of(LOOSE), BATCH)
    split = gradients(experiment_of(LOOSE), micro_batch)
    assert len(whole) == 2 and all(bool(gradient.abs().max() > 1e-3) for gradient in whole)
    for one, other in zip(whole, split, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-7)


def test_the_gradient_is_that_of_the_sum_of_losses_times_shares() -> None:
    experiment = experiment_of(LOOSE)
    rollout = Collector(noise=())(experiment.policy, list(range(BATCH)))
    rollout, _ = valued(experiment, rollout)
    credit = experiment.algorithm.credit(experiment.policy, rollout)
    output = experiment.algorithm.loss(experiment.policy, rollout, credit)
    (expected,) = torch.autograd.grad(
        (output.per_token * credit.loss_weights).sum(), [experiment.policy.table]
    )
    torch.testing.assert_close(gradients(experiment_of(LOOSE), 4)[0], expected, rtol=1e-5, atol=1e-7)


def test_the_critics_gradients_join_those_of_the_loss() -> None:
    experiment = experiment_of(LOOSE)
    rollout = Collector(noise=())(experiment.policy, list(range(BATCH)))
    rollout, of_critic = valued(experiment, rollout)
    credit = experiment.algorithm.credit(experiment.policy, rollout)
    table = experiment.policy.table
    optimizer = make_optimizer(experiment.trainable, experiment.schedule)
    (alone,) = [
        gradient for gradient in gradients(experiment_of(LOOSE), BATCH) if gradient.shape == table.shape
    ]
    more = dict(of_critic) | {table: torch.full_like(table, 0.25)}
    update(experiment, optimizer, rollout, credit, critic_gradients=more)
    torch.testing.assert_close(table.grad, alone + 0.25)


def test_a_gradient_of_the_critic_that_is_not_finite_updates_nothing() -> None:
    experiment = experiment_of(LOOSE)
    rollout = Collector(noise=())(experiment.policy, list(range(BATCH)))
    rollout, of_critic = valued(experiment, rollout)
    credit = experiment.algorithm.credit(experiment.policy, rollout)
    table, optimizer = experiment.policy.table, make_optimizer(experiment.trainable, LOOSE)
    before = table.detach().clone()
    more = dict(of_critic) | {table: torch.full_like(table, torch.inf)}
    measured = update(experiment, optimizer, rollout, credit, critic_gradients=more)
    assert measured.problem is not None and "gradient is not finite" in measured.problem
    assert torch.equal(table, before)


def test_rows_of_like_length_share_a_micro_batch() -> None:
    loss_weights = torch.tensor([[0.1, 0.1, 0.1], [0.1, 0, 0], [0.1, 0.1, 0], [0.1, 0, 0]])
    assert [rows.tolist() for rows in by_length(loss_weights, 2)] == [[1, 3], [2, 0]]


def test_rows_without_a_share_cost_no_pass_but_one_stays_where_all_are_silent() -> None:
    loss_weights = torch.tensor([[0.1, 0.1], [0.0, 0.0], [0.1, 0.0], [0.0, 0.0]])
    assert [rows.tolist() for rows in by_length(loss_weights, 4)] == [[2, 0]]
    assert [rows.tolist() for rows in by_length(torch.zeros(3, 2), 1)] == [[2]]


def turn_of(mask: Tensor, *, wants: str = "text", decode_step: Tensor | None = None) -> Turn:
    ids = torch.arange(mask.numel()).view(mask.shape)
    tokens = Tokens(ids=ids, mask=mask, log_probs=-ids.float(), decode_step=decode_step)
    return Turn(
        prompt=Prompt(texts=["?"] * len(mask), wants="image" if wants == "image" else "text"), tokens=tokens
    )


def judged(turns: tuple[Turn, ...]) -> tuple[Rollout, Credit]:
    last, width = turns[-1].tokens.mask, sum(turn.tokens.mask.shape[1] for turn in turns)
    numbers = torch.arange(len(last) * width).view(len(last), width).float()
    rollout = Rollout(
        turns=turns, rewards=last.float(), reward_parts={}, group=torch.arange(len(last)), values=last + 0.5
    )
    return rollout, Credit(advantages=numbers, loss_weights=numbers + 100, returns=numbers + 200)


def test_columns_that_no_caption_uses_are_cut_from_tokens_rewards_and_credit() -> None:
    mask = torch.tensor([[True, True, False, False], [True, False, False, False]])
    rollout, credit = trimmed(*judged((turn_of(mask),)))
    tokens = rollout.turns[0].tokens
    assert (tokens.ids.tolist(), tokens.mask.tolist()) == ([[0, 1], [4, 5]], [[True, True], [True, False]])
    assert tokens.log_probs is not None and tokens.log_probs.tolist() == [[0, -1], [-4, -5]]
    assert rollout.rewards.tolist() == [[1, 1], [1, 0]]
    assert credit.advantages.tolist() == [[0, 1], [4, 5]]
    assert credit.returns is not None and credit.returns.tolist() == [[200, 201], [204, 205]]
    assert rollout.values is not None and rollout.values.tolist() == [[1.5, 1.5], [1.5, 0.5]]


def test_a_column_before_the_last_used_one_stays_even_if_nothing_counts_there() -> None:
    rollout, _ = trimmed(*judged((turn_of(torch.tensor([[True, False, True, False]])),)))
    assert rollout.turns[0].tokens.mask.tolist() == [[True, False, True]]


def test_codes_of_an_image_stay_and_the_answer_after_them_is_cut() -> None:
    picture = turn_of(torch.tensor([[True, False, False], [False, True, False]]), wants="image")
    answer = turn_of(torch.tensor([[True, False], [True, False]]))
    rollout, credit = trimmed(*judged((picture, answer)))
    assert [turn.tokens.mask.shape[1] for turn in rollout.turns] == [3, 1]
    assert credit.loss_weights.tolist() == [[100, 101, 102, 103], [105, 106, 107, 108]]
    assert rollout.rewards.tolist() == [[1], [1]]


def test_text_that_is_decoded_in_rounds_is_not_cut() -> None:
    mask = torch.tensor([[True, False]])
    rollout, _ = trimmed(*judged((turn_of(mask, decode_step=torch.tensor([[0, 1]])),)))
    assert rollout.turns[0].tokens.ids.shape == (1, 2)


@dataclass(frozen=True, kw_only=True)
class Breaking:
    """An algorithm whose loss or gradient is not finite for the sample with the most tokens 2."""

    what: str
    samples: Tensor

    def credit(self, policy: Policy, rollout: Rollout) -> Credit:
        """All tokens alike."""
        mask = rollout.turns[0].tokens.mask.float()
        return Credit(advantages=self.samples[:, None] * mask, loss_weights=mask / mask.sum())

    def loss(self, policy: Policy, rollout: Rollout, credit: Credit) -> LossOutput:
        """Infinite for a marked sample, or finite with an infinite slope."""
        log_probs = policy.score(rollout.turns[0]).log_probs
        if self.what == "loss":
            return LossOutput(per_token=log_probs / (1 - credit.advantages), metrics={})
        # The square root has no slope at 0.
        nothing = (log_probs - log_probs.detach()).abs()
        return LossOutput(per_token=log_probs + (nothing + 1 - credit.advantages).sqrt(), metrics={})


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_names_its_sample_and_updates_nothing(what: str, tmp_path: Path) -> None:
    marked = torch.tensor([0.0, 0, 0, 0, 0, 1, 0, 0])
    toy = experiment_of(replace(SCHEDULE, micro_batch=1))
    experiment = Experiment(
        policy=toy.policy,
        trainable={"policy": toy.policy},
        batches=Numbers(8),
        collect=Collector(noise=()),
        algorithm=Breaking(what=what, samples=marked),
        evaluators={},
        schedule=toy.schedule,
    )
    before = toy.policy.table.detach().clone()
    with pytest.raises(ValueError, match=rf"step 1: the {what} is not finite on 1 sample: image 5 \(reward "):
        train(experiment, run_in(tmp_path / "run", toy.schedule))
    assert torch.equal(toy.policy.table, before)
    alarms = [json.loads(line) for line in (tmp_path / "run" / "alarms.jsonl").read_text().splitlines()]
    assert [(alarm["step"], alarm["name"]) for alarm in alarms] == [(1, "not_finite")]
    assert "image 5" in alarms[0]["message"] and "learning rate" in alarms[0]["message"]


@dataclass(frozen=True, kw_only=True)
class Weighing:
    """A2C, but in some steps nothing weighs anything, as if a filter had kept no sample."""

    inner: Algorithm
    nothing_in: tuple[int, ...]
    seen: list[list[Tensor]]
    """Weights and optimizer state before each step."""
    look: Callable[[], list[Tensor]]

    def credit(self, policy: Policy, rollout: Rollout) -> Credit:
        """Credit of the inner algorithm, its shares all 0 in those steps."""
        self.seen.append(self.look())
        credit = self.inner.credit(policy, rollout)
        if len(self.seen) not in self.nothing_in:
            return credit
        return replace(credit, loss_weights=0 * credit.loss_weights)

    def loss(self, policy: Policy, rollout: Rollout, credit: Credit) -> LossOutput:
        """The inner algorithm's."""
        return self.inner.loss(policy, rollout, credit)


def test_a_step_in_which_nothing_weighs_anything_moves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizers: list[torch.optim.Adam] = []

    def remembered(*args: Any) -> torch.optim.Adam:
        optimizers.append(make_optimizer(*args))
        return optimizers[0]

    monkeypatch.setattr("sightloop.training.loop.make_optimizer", remembered)

    def look() -> list[Tensor]:
        parameters = [p for group in optimizers[0].param_groups for p in group["params"]]
        states = [value for p in parameters for value in optimizers[0].state.get(p, {}).values()]
        return [value.detach().clone() for value in [*parameters, *states]]

    toy = experiment_of(replace(SCHEDULE, steps=6, warmup_steps=0))
    algorithm = Weighing(inner=toy.algorithm, nothing_in=(4, 5), seen=[], look=look)
    train(replace(toy, algorithm=algorithm), run_in(tmp_path / "run", toy.schedule))
    steps = [*algorithm.seen, look()]

    def same(one: list[Tensor], other: list[Tensor]) -> bool:
        return len(one) == len(other) and all(map(torch.equal, one, other))

    # Momentum from the first three steps would move the weights in the fourth and fifth.
    assert [same(*pair) for pair in pairwise(steps)] == [False, False, False, True, True, False]
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    skipped = [record["step"] for record in records if record.get("update/skipped")]
    assert skipped == [4, 5]
    alarms = [json.loads(line) for line in (tmp_path / "run" / "alarms.jsonl").read_text().splitlines()]
    assert [(alarm["step"], alarm["name"]) for alarm in alarms] == [(4, "skipped_updates")]
    assert "nothing was updated at step 4" in alarms[0]["message"]


def test_a_relaxed_rollout_must_fit_in_one_micro_batch() -> None:
    experiment = experiment_of(replace(SCHEDULE, micro_batch=2))
    rollout = Collector(noise=())(experiment.policy, [1, 2, 3])
    rollout, _ = valued(experiment, rollout)
    credit = experiment.algorithm.credit(experiment.policy, rollout)
    codes = torch.zeros(*rollout.rewards.shape, 5, requires_grad=True)
    turn = replace(rollout.turns[0], tokens=replace(rollout.turns[0].tokens, one_hot=codes))
    optimizer = make_optimizer(experiment.trainable, experiment.schedule)
    with pytest.raises(ValueError, match="raise micro_batch from 2 to 3"):
        update(experiment, optimizer, replace(rollout, turns=(turn,)), credit)


def test_batches_that_end_early_are_an_error_with_the_step(tmp_path: Path) -> None:
    class Few(Numbers):
        def __next__(self) -> list[int]:
            if self.position >= 16:
                raise StopIteration
            return super().__next__()

    experiment = replace(experiment_of(), batches=Few(8))
    with pytest.raises(ValueError, match="the batches ended before step 3"):
        train(experiment, run_in(tmp_path / "run"))


def test_the_best_metric_must_belong_to_an_evaluator() -> None:
    with pytest.raises(ValueError, match="best_metric is 'recall/recall@1', but no evaluator"):
        experiment_of(replace(SCHEDULE, best_metric="recall/recall@1"))


def test_the_best_metric_must_be_measured(tmp_path: Path) -> None:
    schedule = replace(SCHEDULE, best_metric="held_out/red")
    with pytest.raises(ValueError, match="best_metric is held_out/red, but 'held_out' measures blue"):
        train(experiment_of(schedule), run_in(tmp_path / "run", schedule))


def test_a_policy_learns_what_is_paid_for(tmp_path: Path) -> None:
    schedule = replace(SCHEDULE, steps=60, micro_batch=32, eval_every=60, save_every=60)
    experiment = experiment_of(schedule, batch_size=32, collector=Collector(noise=()))
    blue = experiment.policy.law()[0, 2].exp().item()
    train(experiment, run_in(tmp_path / "run", schedule))
    assert experiment.policy.law()[0, 2].exp().item() > 3 * blue
    assert experiment.policy.sample(Prompt(texts=[""], seeds=[0]), LAW).ids.shape == (1, 6)
