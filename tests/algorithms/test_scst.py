import pytest
import torch
from algorithms.captions_of_a_table import TablePolicy, rollout_of

from sightloop.algorithms.a2c import require_choices
from sightloop.algorithms.baselines import SCST, GreedyBaseline, GroupBaseline

MASK = torch.tensor([[True, True, False], [True, True, True], [True, False, False], [True, True, False]])
REWARDS = torch.tensor([[-1.0, 3.0, 0.0], [0.0, 0.0, 6.0], [1.0, 0.0, 0.0], [0.0, 5.0, 0.0]])


def policy() -> TablePolicy:
    return TablePolicy(torch.randn(3, 4))


def test_self_critical_credit_is_the_total_minus_the_greedy_captions() -> None:
    baseline = torch.tensor([1.0, 8.0, 1.0, 4.0])
    credit = SCST().credit(policy(), rollout_of(REWARDS, MASK, baseline=baseline))
    wanted = [[1, 1, 0], [-2, -2, -2], [0, 0, 0], [1, 1, 0]]
    assert credit.advantages.tolist() == wanted
    torch.testing.assert_close(credit.loss_weights, MASK / 8)


def test_scst_is_the_published_gradient_up_to_the_tokens_a_caption() -> None:
    actor = policy()
    rewards, baseline = REWARDS.sum(1), torch.tensor([1.0, 8.0, 1.0, 4.0])
    rollout = rollout_of(REWARDS, MASK, baseline=baseline)
    credit = SCST().credit(actor, rollout)
    (SCST().loss(actor, rollout, credit).per_token * credit.loss_weights).sum().backward()
    found = actor.logits.grad
    actor.logits.grad = None
    summed = (actor.score(rollout.turns[0]).log_probs * MASK).sum(1)
    (-(rewards - baseline) * summed).mean().backward()
    assert found is not None and actor.logits.grad is not None
    torch.testing.assert_close(found * MASK.sum() / len(MASK), actor.logits.grad)


def test_the_greedy_baseline_pushes_probabilities_with_standardized_advantages() -> None:
    actor = policy()
    rollout = rollout_of(REWARDS, MASK, baseline=torch.tensor([0.0, 9.0, 0.0, 9.0]))
    algorithm = GreedyBaseline()
    credit = algorithm.credit(actor, rollout)
    first = credit.advantages[:, 0]
    assert float(first.mean()) == pytest.approx(0, abs=1e-6) and float(first.std()) == pytest.approx(1)
    wanted = -actor.score(rollout.turns[0]).log_probs.exp() * credit.advantages
    torch.testing.assert_close(algorithm.loss(actor, rollout, credit).per_token, wanted)
    torch.testing.assert_close(credit.loss_weights.sum(1), torch.full((4,), 0.25))


def test_a_caption_as_good_as_the_greedy_one_earns_exactly_0() -> None:
    rollout = rollout_of(REWARDS, MASK, baseline=REWARDS.sum(1))
    assert SCST().credit(policy(), rollout).advantages.abs().max() == 0


def test_a_rollout_without_a_greedy_baseline_is_refused() -> None:
    with pytest.raises(ValueError, match="no baseline"):
        SCST().credit(policy(), rollout_of(REWARDS, MASK))


def test_standardized_self_critical_credit_counts_captions_not_tokens() -> None:
    baseline = REWARDS.sum(1) - torch.tensor([1.0, -1.0, 3.0, 1.0])
    credit = GreedyBaseline().credit(policy(), rollout_of(REWARDS, MASK, baseline=baseline))
    # Of the captions 1, -1, 3, 1: mean 1, variance (0 + 4 + 4 + 0) / 3.
    unit = (3 / 8) ** 0.5
    wanted = torch.tensor([[0.0], [-2.0], [2.0], [0.0]]) * unit * MASK
    torch.testing.assert_close(credit.advantages, wanted)


def test_one_sample_standardizes_to_0() -> None:
    rollout = rollout_of(REWARDS[:1], MASK[:1], baseline=torch.zeros(1))
    assert GreedyBaseline().credit(policy(), rollout).advantages.tolist() == [[0, 0, 0]]


def test_group_credit_is_the_return_minus_the_other_captions_total() -> None:
    rollout = rollout_of(REWARDS, MASK, per_image=2)
    credit = GroupBaseline(standardized=False).credit(policy(), rollout)
    # Totals 2, 6 | 1, 5.
    assert credit.advantages.tolist() == [[2 - 6, 3 - 6, 0], [6 - 2, 4, 4], [1 - 5, 0, 0], [5 - 1, 4, 0]]


def test_group_credit_may_use_the_mean_of_all_captions() -> None:
    rollout = rollout_of(REWARDS, MASK, per_image=2)
    credit = GroupBaseline(standardized=False, leave_one_out=False).credit(policy(), rollout)
    assert credit.advantages.tolist() == [[-2, -1, 0], [2, 2, 2], [-2, 0, 0], [2, 2, 0]]


def test_group_credit_is_standardized_over_all_tokens() -> None:
    credit = GroupBaseline().credit(policy(), rollout_of(REWARDS, MASK, per_image=2))
    kept = credit.advantages[MASK]
    assert kept.mean() == pytest.approx(0, abs=1e-6) and kept.std() == pytest.approx(1, abs=1e-6)
    assert (credit.advantages[~MASK] == 0).all()


@pytest.mark.parametrize("leave_one_out", [True, False])
def test_an_image_with_a_single_caption_has_no_group(leave_one_out: bool) -> None:
    with pytest.raises(ValueError, match="single sample"):
        GroupBaseline(leave_one_out=leave_one_out).credit(policy(), rollout_of(REWARDS, MASK, per_image=3))


def test_the_loss_pushes_the_log_probability_of_good_captions_up() -> None:
    actor = policy()
    rollout = rollout_of(REWARDS, MASK, baseline=torch.tensor([0.0, 9.0, 0.0, 9.0]))
    algorithm = SCST()
    credit = algorithm.credit(actor, rollout)
    out = algorithm.loss(actor, rollout, credit)
    wanted = -actor.score(rollout.turns[0]).log_probs * credit.advantages
    torch.testing.assert_close(out.per_token, wanted)
    assert sorted(out.metrics) == ["policy/entropy", "policy/loss", "policy/probability"]


@pytest.mark.parametrize(
    "algorithm", [SCST(), GreedyBaseline(average_over="token"), GroupBaseline(average_over="token")]
)
def test_the_size_of_the_pieces_leaves_the_gradient_unchanged(algorithm) -> None:
    actor = policy()
    rollout = rollout_of(REWARDS, MASK, baseline=torch.tensor([0.0, 9.0, 0.0, 9.0]), per_image=2)
    credit = algorithm.credit(actor, rollout)
    found = []
    for size in (4, 1):
        actor.zero_grad()
        for index in torch.arange(4).split(size):
            rows = credit.rows(index)
            (algorithm.loss(actor, rollout.rows(index), rows).per_token * rows.loss_weights).sum().backward()
        assert actor.logits.grad is not None
        found.append(actor.logits.grad.clone())
    assert found[0].abs().max() > 0
    torch.testing.assert_close(found[0], found[1])


def test_an_unknown_objective_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="probability, log_probability"):
        require_choices(objective="likelihood", average_over="token", gamma=1.0, under=None)
