import math
from dataclasses import replace

import pytest
import torch
from algorithms.captions_of_a_table import TableCritic, TablePolicy, rollout_of

from sightloop.algorithms.a2c import A2C, policy_gradient, probability_gradient, value_error
from sightloop.types import Credit, Rollout, Sampling

MASK = torch.tensor([[True, True, False], [True, True, True]])
REWARDS = torch.tensor([[-1.0, 3.0, 0.0], [0.0, 0.0, 2.0]])
IDS = torch.tensor([[0, 1, 0], [2, 2, 1]])


def policy() -> TablePolicy:
    return TablePolicy(torch.randn(3, 4))


def credited(algorithm: A2C, rollout: Rollout, actor: TablePolicy | None = None) -> tuple[Rollout, Credit]:
    """The rollout with the critic's values, and its credit."""
    valued = replace(rollout, values=algorithm.critic_pass(rollout).values)
    return valued, algorithm.credit(actor or policy(), valued)


def gradients(algorithm: A2C, actor: TablePolicy, critic: TableCritic, *, size: int) -> list[torch.Tensor]:
    """Gradients of actor and critic when the rows are processed `size` at a time."""
    algorithm = replace(algorithm, critic_batch=size)
    rollout, credit = credited(algorithm, rollout_of(REWARDS, MASK, ids=IDS), actor)
    of_critic = algorithm.critic_pass(rollout).gradients
    actor.zero_grad()
    for index in torch.arange(len(rollout)).split(size):
        rows = credit.rows(index)
        (algorithm.loss(actor, rollout.rows(index), rows).per_token * rows.loss_weights).sum().backward()
    # The critic's gradient comes of its own pass; the loss does not reach the critic.
    assert actor.logits.grad is not None and critic.values.grad is None
    return [actor.logits.grad.clone(), of_critic[critic.values].clone()]


def test_credit_is_the_standardized_difference_of_returns_and_values() -> None:
    critic = TableCritic(torch.tensor([[1.0, 0.0, 9.0], [2.0, 1.0, 5.0]]))
    rollout, credit = credited(A2C(critic=critic), rollout_of(REWARDS, MASK))
    assert credit.returns is not None and rollout.values is not None
    assert credit.returns.tolist() == [[2, 3, 0], [2, 2, 2]]
    assert rollout.values.tolist() == [[1, 0, 0], [2, 1, 5]]
    # Differences 1, 3, 0, 1, -3: mean .4, sum of squares 20, so variance (20 - 5 * .16) / 4 = 4.8.
    wanted = torch.tensor([[0.6, 2.6, 0], [-0.4, 0.6, -3.4]]) / math.sqrt(4.8)
    torch.testing.assert_close(credit.advantages, wanted)
    torch.testing.assert_close(credit.loss_weights, torch.tensor([[1 / 4, 1 / 4, 0], [1 / 6, 1 / 6, 1 / 6]]))
    assert not credit.advantages.requires_grad and not rollout.values.requires_grad


def test_constant_advantages_become_0() -> None:
    critic = TableCritic(torch.tensor([[2.0, 3.0, 0.0], [2.0, 2.0, 2.0]]) - 0.75)
    _, credit = credited(A2C(critic=critic), rollout_of(REWARDS, MASK))
    assert credit.advantages.abs().max() < 1e-3


def test_one_caption_of_one_token_gives_no_nan() -> None:
    rollout = rollout_of(torch.tensor([[4.0]]), torch.tensor([[True]]))
    algorithm = A2C(critic=TableCritic(torch.zeros(1, 1)))
    _, credit = credited(algorithm, rollout, TablePolicy(torch.zeros(1, 2)))
    assert credit.advantages.tolist() == [[0]] and credit.loss_weights.tolist() == [[1]]


def test_the_printed_objective_pushes_the_probability_and_the_other_its_logarithm() -> None:
    log_probs = torch.log(torch.tensor([[0.2, 0.5]])).requires_grad_()
    advantages = torch.tensor([[2.0, -1.0]])
    torch.testing.assert_close(probability_gradient(log_probs, advantages), torch.tensor([[-0.4, 0.5]]))
    wanted = torch.tensor([[-2 * math.log(0.2), math.log(0.5)]])
    torch.testing.assert_close(policy_gradient(log_probs, advantages), wanted)
    # d(p) = p d(log p): the improbable token gets the smaller push.
    (slope,) = torch.autograd.grad(probability_gradient(log_probs, advantages).sum(), log_probs)
    torch.testing.assert_close(slope, torch.tensor([[-0.4, 0.5]]))


def test_the_value_error_is_squared() -> None:
    assert value_error(torch.tensor([[1.0, 5.0]]), torch.tensor([[4.0, 3.0]])).tolist() == [[9, 4]]


@pytest.mark.parametrize("objective", ["probability", "log_probability"])
@pytest.mark.parametrize("average_over", ["caption", "token"])
def test_the_size_of_the_pieces_leaves_the_gradient_unchanged(objective, average_over) -> None:
    actor, critic = policy(), TableCritic(torch.randn(2, 3))
    algorithm = A2C(critic=critic, objective=objective, average_over=average_over)
    whole = gradients(algorithm, actor, critic, size=2)
    pieces = gradients(algorithm, actor, critic, size=1)
    for one, other in zip(whole, pieces, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other)


def test_one_pass_of_the_critic_gives_the_gradients_of_the_papers_two_updates() -> None:
    actor, critic = policy(), TableCritic(torch.randn(2, 3))
    algorithm = A2C(critic=critic, value_weight=0.7)
    rollout, credit = credited(algorithm, rollout_of(REWARDS, MASK, ids=IDS), actor)
    assert credit.returns is not None
    critic_loss = (0.7 * value_error(critic(rollout.turns[0]), credit.returns) * credit.loss_weights).sum()
    (wanted_critic,) = torch.autograd.grad(critic_loss, critic.values)
    log_probs = actor.score(rollout.turns[0]).log_probs
    policy_loss = (probability_gradient(log_probs, credit.advantages) * credit.loss_weights).sum()
    (wanted_policy,) = torch.autograd.grad(policy_loss, actor.logits)
    got_policy, got_critic = gradients(algorithm, actor, critic, size=2)
    torch.testing.assert_close(got_policy, wanted_policy)
    torch.testing.assert_close(got_critic, wanted_critic)


def test_masked_tokens_have_no_loss_and_no_metrics() -> None:
    actor, critic = policy(), TableCritic(torch.randn(2, 3) + 5)
    algorithm = A2C(critic=critic)
    rollout, credit = credited(algorithm, rollout_of(REWARDS, MASK, ids=IDS), actor)
    out = algorithm.loss(actor, rollout, credit)
    names = ["critic/loss", "policy/entropy", "policy/loss", "policy/probability"]
    assert sorted(out.metrics) == names
    for values in [out.per_token, *out.metrics.values()]:
        assert (values[~MASK] == 0).all() and (values[MASK] != 0).all()
    assert all(not values.requires_grad for values in out.metrics.values())


def test_the_law_to_score_under_reaches_the_policy() -> None:
    actor, critic = policy(), TableCritic(torch.zeros(2, 3))
    under = Sampling(max_tokens=3, temperature=2.0)
    algorithm = A2C(critic=critic, under=under)
    rollout, credit = credited(algorithm, rollout_of(REWARDS, MASK, ids=IDS), actor)
    out = algorithm.loss(actor, rollout, credit)
    wanted = actor.score(rollout.turns[0], under).log_probs.exp().masked_fill(~MASK, 0)
    torch.testing.assert_close(out.metrics["policy/probability"], wanted.detach())


def test_the_critic_may_see_few_rows_at_once() -> None:
    critic = TableCritic(torch.randn(5, 3))
    rollout = rollout_of(torch.randn(5, 3), torch.ones(5, 3, dtype=torch.bool))
    whole = A2C(critic=critic).critic_pass(rollout)
    pieces = A2C(critic=critic, critic_batch=2).critic_pass(rollout)
    assert critic.sizes == [5, 2, 2, 1]
    torch.testing.assert_close(pieces.values, whole.values)
    torch.testing.assert_close(pieces.gradients[critic.values], whole.gradients[critic.values])
    assert whole.gradients[critic.values].abs().max() > 0 and critic.values.grad is None


def test_a_critic_without_trained_parameters_learns_nothing() -> None:
    critic = TableCritic(torch.ones(2, 3)).requires_grad_(False)
    found = A2C(critic=critic).critic_pass(rollout_of(REWARDS, MASK))
    assert not found.gradients and found.values.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_credit_asks_no_critic_and_needs_one_to_have_been_asked() -> None:
    critic = TableCritic(torch.zeros(2, 3))
    algorithm = A2C(critic=critic)
    with pytest.raises(ValueError, match="no critic has valued the rollout; give the experiment"):
        algorithm.credit(policy(), rollout_of(REWARDS, MASK))
    credited(algorithm, rollout_of(REWARDS, MASK))
    assert critic.sizes == [2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": 1.5}, "gamma is 1.5"),
        ({"value_weight": 0.0}, "use a positive weight, or SCST"),
        ({"critic_batch": 0}, "critic_batch is 0"),
        ({"under": Sampling(max_tokens=1, temperature=0.0)}, "greedy tokens have no gradient"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        A2C(critic=TableCritic(torch.zeros(1, 1)), **changes)


def test_a_rollout_of_two_turns_is_refused() -> None:
    rollout = rollout_of(REWARDS, MASK)
    twice = replace(rollout, turns=rollout.turns * 2)
    with pytest.raises(ValueError, match="2 turns"):
        A2C(critic=TableCritic(torch.zeros(2, 3))).credit(policy(), twice)


def test_credit_of_another_algorithm_is_refused() -> None:
    credit = Credit(advantages=torch.zeros(2, 3), loss_weights=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="no returns"):
        A2C(critic=TableCritic(torch.zeros(2, 3))).loss(policy(), rollout_of(REWARDS, MASK), credit)


@pytest.mark.parametrize("objective", ["probability", "log_probability"])
def test_a_table_learns_to_draw_the_rewarded_token(objective) -> None:
    actor, critic = TablePolicy(torch.zeros(2, 3)), TableCritic(torch.zeros(64, 2))
    algorithm = A2C(critic=critic, objective=objective)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=0.1)
    mask = torch.ones(64, 2, dtype=torch.bool)
    for _ in range(40):
        with torch.no_grad():
            ids = torch.multinomial(actor.logits.softmax(-1), 64, replacement=True).T
        drawn = rollout_of((ids == 2).float(), mask, ids=ids)
        rollout, credit = credited(algorithm, drawn, actor)
        optimizer.zero_grad()
        critic.values.grad = algorithm.critic_pass(drawn).gradients[critic.values]
        (algorithm.loss(actor, rollout, credit).per_token * credit.loss_weights).sum().backward()
        optimizer.step()
    assert (actor.logits.softmax(-1)[:, 2] > 0.8).all()
