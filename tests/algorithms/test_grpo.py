import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from algorithms.drawn_and_answered import ANSWERS, TwoTables, tables, two_turns
from torch import Tensor

from sightloop.algorithms.grpo import GRPO, grpo_method
from sightloop.algorithms.methods import METHODS
from sightloop.algorithms.ratios import clipped_ratio, kl_to_reference
from sightloop.algorithms.turn_objectives import TurnObjective, TurnObjectives
from sightloop.types import Credit, Prompt, Rollout, Sampling, Tokens, Turn

WARM = Sampling(max_tokens=4, temperature=2.0)
PLAIN = GRPO(kl_weight=0)
LENGTHS = TurnObjectives(
    average_over="length", drawing=TurnObjective(max_length=4), answering=TurnObjective(max_length=8)
)


def gradients(algorithm: GRPO, policy: TwoTables, rollout: Rollout, *, size: int = 99) -> list[Tensor]:
    """Gradients of both tables when the rows are processed `size` at a time."""
    credit = algorithm.credit(policy, rollout)
    policy.zero_grad()
    for index in torch.arange(len(rollout)).split(size):
        part = credit.rows(index)
        (algorithm.loss(policy, rollout.rows(index), part).per_token * part.loss_weights).sum().backward()
    grads = [policy.picture.grad, policy.answer.grad]
    return [torch.zeros(1) if grad is None else grad.clone() for grad in grads]


def total(algorithm: GRPO, policy: TwoTables, rollout: Rollout, credit: Credit | None = None) -> Tensor:
    credit = algorithm.credit(policy, rollout) if credit is None else credit
    return (algorithm.loss(policy, rollout, credit).per_token * credit.loss_weights).sum()


def four(policy: TwoTables, *, law: Sampling | None = None) -> Rollout:
    """Two groups of two; advantages without the deviation are -1, 1, -2, 2."""
    return two_turns(policy, [1.0, 3.0, 0.0, 4.0], [5, 5, 2, 2], law=law)


# Credit.


def test_every_token_of_both_turns_gets_its_samples_advantage() -> None:
    policy = tables()
    credit = replace(PLAIN, divide_by_std=False).credit(policy, four(policy))
    counts = torch.cat([torch.ones(4, 4, dtype=torch.bool), ANSWERS], 1)
    wanted = torch.tensor([-1.0, 1.0, -2.0, 2.0])[:, None] * counts
    torch.testing.assert_close(credit.advantages, wanted)
    scaled = PLAIN.credit(policy, four(policy)).advantages
    # Deviations (n - 1) are sqrt(2) and 2 sqrt(2).
    torch.testing.assert_close(scaled, torch.sign(wanted) / math.sqrt(2), atol=1e-4, rtol=0)
    alone = replace(PLAIN, divide_by_std=False, leave_one_out=True).credit(policy, four(policy))
    torch.testing.assert_close(alone.advantages, 2 * wanted)


def test_each_side_is_a_mean_over_its_own_tokens_and_the_weights_are_relative() -> None:
    policy = tables()
    objectives = TurnObjectives(drawing=TurnObjective(weight=3.0), answering=TurnObjective(weight=1.0))
    loss_weights = replace(PLAIN, objectives=objectives).credit(policy, four(policy)).loss_weights
    torch.testing.assert_close(loss_weights[:, :4], torch.full((4, 4), 0.75 / 16))
    answers = torch.tensor([[1 / 8, 1 / 8, 0], [1 / 12, 1 / 12, 1 / 12], [1 / 4, 0, 0], [1 / 8, 1 / 8, 0]])
    torch.testing.assert_close(loss_weights[:, 4:], 0.25 * answers)
    by_token = (
        replace(PLAIN, objectives=replace(objectives, average_over="token"))
        .credit(policy, four(policy))
        .loss_weights
    )
    torch.testing.assert_close(by_token[:, 4:], 0.25 * ANSWERS / 8)
    by_length = replace(PLAIN, objectives=LENGTHS).credit(policy, four(policy)).loss_weights
    torch.testing.assert_close(by_length[:, 4:], 0.5 * ANSWERS / 32)


def test_silent_groups_are_skipped_counted_and_the_rest_shares_everything() -> None:
    policy = tables()
    rollout = two_turns(policy, [2.0, 2.0, 0.0, 4.0], [5, 5, 2, 2])
    credit = replace(PLAIN, drop_zero_variance_groups=True).credit(policy, rollout)
    assert credit.loss_weights[:2].abs().max() == 0
    torch.testing.assert_close(credit.loss_weights.sum(), torch.tensor(1.0))
    assert credit.metrics == {"groups/all": 2, "groups/zero_variance": 1}
    kept = PLAIN.credit(policy, rollout)
    assert kept.loss_weights[:2].sum() > 0 and kept.advantages[:2].abs().max() == 0
    assert kept.metrics == credit.metrics
    silent = two_turns(policy, [2.0, 2.0, 4.0, 4.0], [5, 5, 2, 2])
    nothing = replace(PLAIN, drop_zero_variance_groups=True)
    assert nothing.credit(policy, silent).loss_weights.abs().max() == 0
    assert all(grad.abs().max() == 0 for grad in gradients(nothing, policy, silent))


def test_a_group_of_one_is_refused() -> None:
    policy = tables()
    with pytest.raises(ValueError, match="group 2 has a single sample"):
        PLAIN.credit(policy, two_turns(policy, [1.0, 2.0, 3.0], [5, 5, 2]))


def test_answers_of_another_model_are_refused_unless_their_side_weighs_nothing() -> None:
    policy = tables()
    rollout = four(policy)
    answer = rollout.turns[1]
    given = replace(answer, tokens=replace(answer.tokens, log_probs=None))
    rollout = replace(rollout, turns=(rollout.turns[0], given))
    with pytest.raises(ValueError, match="answering side carry no log-probabilities"):
        PLAIN.credit(policy, rollout)
    only_drawing = replace(PLAIN, objectives=TurnObjectives(answering=TurnObjective(weight=0)))
    picture, words = gradients(only_drawing, policy, rollout)
    assert picture.abs().max() > 0 and words.abs().max() == 0
    assert "text" not in policy.calls


# Loss.


def test_without_an_old_policy_the_gradient_is_the_policy_gradient() -> None:
    policy = tables()
    rollout = four(policy)
    credit = PLAIN.credit(policy, rollout)
    found = gradients(PLAIN, policy, rollout)
    log_probs = torch.cat([policy.score(turn).log_probs for turn in rollout.turns], 1)
    policy.zero_grad()
    (-log_probs * credit.advantages * credit.loss_weights).sum().backward()
    for grad, parameter in zip(found, (policy.picture, policy.answer), strict=True):
        assert parameter.grad is not None and grad.abs().max() > 0
        torch.testing.assert_close(grad, parameter.grad)
    # In value the ratio is 1.
    loss = PLAIN.loss(policy, rollout, credit).per_token
    torch.testing.assert_close(loss, -credit.advantages)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_size_of_the_pieces_leaves_every_methods_gradient_unchanged(name) -> None:
    policy = tables()
    rollout = four(policy)
    given = GRPO(reference=tables(), objectives=LENGTHS if name == "dr_grpo" else TurnObjectives())
    algorithm = grpo_method(name, given)
    whole, pieces = gradients(algorithm, policy, rollout), gradients(algorithm, policy, rollout, size=1)
    for one, other in zip(whole, pieces, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other)


def test_the_reference_pulls_where_nothing_was_learned() -> None:
    policy, reference = tables(), tables()
    rollout = two_turns(policy, [2.0, 2.0, 4.0, 4.0], [5, 5, 2, 2])
    algorithm = GRPO(reference=reference, kl_weight=0.2)
    credit = algorithm.credit(policy, rollout)
    new = torch.cat([policy.score(turn).log_probs for turn in rollout.turns], 1)
    old = torch.cat([reference.score(turn).log_probs for turn in rollout.turns], 1)
    wanted = 0.2 * (kl_to_reference(new, old) * credit.loss_weights).sum()
    torch.testing.assert_close(total(algorithm, policy, rollout, credit), wanted)
    picture, words = gradients(algorithm, policy, rollout)
    assert picture.abs().max() > 0 and words.abs().max() > 0
    assert reference.picture.grad is None


def test_a_reference_that_is_the_policy_is_refused() -> None:
    policy = tables()
    with pytest.raises(ValueError, match="the policy itself"):
        GRPO(reference=policy).credit(policy, four(policy))


def test_each_side_is_scored_under_its_own_law_by_policy_and_reference() -> None:
    policy, reference = tables(), tables()
    rollout = four(policy, law=WARM)
    algorithm = GRPO(reference=reference, objectives=TurnObjectives(drawing=TurnObjective(under=WARM)))
    out = algorithm.loss(policy, rollout, algorithm.credit(policy, rollout))
    kl = [
        kl_to_reference(policy.score(turn, law).log_probs, reference.score(turn, law).log_probs)
        for turn, law in zip(rollout.turns, (WARM, None), strict=True)
    ]
    torch.testing.assert_close(out.metrics["drawing/kl"][:, :4], 2 * kl[0].detach())
    torch.testing.assert_close(out.metrics["answering/kl"][:, 4:], 2 * kl[1].detach())


def test_figures_of_a_side_sum_up_to_its_mean() -> None:
    policy = tables()
    rollout = four(policy)
    algorithm = replace(PLAIN, objectives=TurnObjectives(drawing=TurnObjective(weight=5.0)))
    credit = algorithm.credit(policy, rollout)
    out = algorithm.loss(policy, rollout, credit)
    means = {name: float((value * credit.loss_weights).sum()) for name, value in out.metrics.items()}
    log_probs = policy.score(rollout.turns[1]).log_probs.detach()
    wanted = float((log_probs.sum(1) / ANSWERS.sum(1)).mean())
    assert means["answering/log_prob"] == pytest.approx(wanted, rel=1e-5)
    drawn = float(policy.score(rollout.turns[0]).log_probs.detach().mean())
    assert means["drawing/log_prob"] == pytest.approx(drawn, rel=1e-5)
    assert sorted(means) == [
        f"{objective}/{name}"
        for objective in ("answering", "drawing")
        for name in ("entropy", "log_prob", "loss")
    ]
    assert not any(value.requires_grad for value in out.metrics.values())


def test_a_rollout_of_one_turn_is_a_policys() -> None:
    policy = tables()
    rollout = four(policy)
    single = replace(rollout, turns=rollout.turns[1:])
    credit = PLAIN.credit(policy, single)
    out = PLAIN.loss(policy, single, credit)
    assert "policy/loss" in out.metrics
    torch.testing.assert_close(credit.loss_weights.sum(), torch.tensor(1.0))
    with pytest.raises(ValueError, match="only turns of weight 0"):
        replace(PLAIN, objectives=TurnObjectives(answering=TurnObjective(weight=0))).credit(policy, single)


# Several updates from one rollout.


def test_the_first_of_several_updates_is_the_policy_gradient_and_later_ones_are_clipped() -> None:
    policy = tables()
    rollout = four(policy)
    algorithm = replace(PLAIN, old="rescored", clip_low=0.1, clip_high=0.1)
    for one, other in zip(
        gradients(algorithm, policy, rollout), gradients(PLAIN, policy, rollout), strict=True
    ):
        torch.testing.assert_close(one, other)
    credit = algorithm.credit(policy, rollout)
    optimizer = torch.optim.SGD(policy.parameters(), lr=30.0)
    clipped: list[float] = []
    for _ in range(3):
        optimizer.zero_grad()
        out = algorithm.loss(policy, rollout, credit)
        clipped.append(float((out.metrics["drawing/clipped"] * credit.loss_weights).sum()))
        (out.per_token * credit.loss_weights).sum().backward()
        optimizer.step()
    assert clipped[0] == 0 and max(clipped[1:]) > 0
    # The same ratios by hand, from the log-probabilities of the start.
    worth = credit.advantages[:, 4:]
    new = policy.score(rollout.turns[1]).log_probs
    old = credit.old_log_probs[1][:, 0]
    found = algorithm.loss(policy, rollout, credit).per_token[:, 4:]
    torch.testing.assert_close(found, clipped_ratio(new, old, worth, low=0.1, high=0.1) * ANSWERS)


def test_old_log_probs_may_be_the_recorded_ones_of_the_law_that_is_named() -> None:
    policy = tables()
    rollout = four(policy, law=WARM)
    objectives = TurnObjectives(drawing=TurnObjective(under=WARM), answering=TurnObjective(under=WARM))
    recorded = replace(PLAIN, old="recorded", objectives=objectives).credit(policy, rollout).old_log_probs
    rescored = (
        replace(PLAIN, old="rescored", objectives=objectives, score_batch=3)
        .credit(policy, rollout)
        .old_log_probs
    )
    for one, other in zip(recorded, rescored, strict=True):
        assert one.shape[1] == 1
        torch.testing.assert_close(one, other)
    with pytest.raises(ValueError, match="of each trained side"):
        replace(PLAIN, old="recorded")


def test_a_cut_answer_meets_its_own_old_log_probs() -> None:
    policy = tables()
    rollout = four(policy)
    algorithm = replace(PLAIN, old="rescored")
    credit = algorithm.credit(policy, rollout)
    row = torch.tensor([0])
    part, worth = rollout.rows(row), credit.rows(row)
    words = part.turns[1].tokens
    cut = Tokens(ids=words.ids[:, :2], mask=words.mask[:, :2], log_probs=None)
    narrow = replace(part, turns=(part.turns[0], replace(part.turns[1], tokens=cut)))
    less = replace(worth, advantages=worth.advantages[:, :6], loss_weights=worth.loss_weights[:, :6])
    torch.testing.assert_close(total(algorithm, policy, narrow, less), total(algorithm, policy, part, worth))


def test_a_sequence_ratio_moves_all_tokens_of_a_sequence_alike() -> None:
    policy = tables()
    rollout = four(policy)
    algorithm = replace(PLAIN, old="rescored", ratio="sequence", clip_low=0.5, clip_high=0.5)
    credit = algorithm.credit(policy, rollout)
    with torch.no_grad():
        policy.answer.add_(0.3 * torch.randn(3, 4))
    new, old = policy.score(rollout.turns[1]).log_probs, credit.old_log_probs[1][:, 0]
    ratio = ((new - old).sum(1) / ANSWERS.sum(1)).exp()
    wanted = -torch.minimum(ratio * credit.advantages[:, 4], ratio.clamp(0.5, 1.5) * credit.advantages[:, 4])
    found = algorithm.loss(policy, rollout, credit).per_token[:, 4:]
    torch.testing.assert_close(found, wanted[:, None] * ANSWERS)


# Settings.


def test_named_methods_change_what_their_papers_change() -> None:
    given = GRPO(reference=tables(), kl_weight=0.2)
    assert grpo_method("unirl", given) == given and given.old == "none"
    dapo = grpo_method("dapo", given)
    assert (dapo.clip_low, dapo.clip_high, dapo.objectives.average_over, dapo.drop_zero_variance_groups) == (
        0.2,
        0.28,
        "token",
        True,
    )
    assert dapo.reference is None and dapo.kl_weight == 0 and dapo.divide_by_std
    doctor = grpo_method("dr_grpo", replace(given, objectives=LENGTHS))
    assert not doctor.divide_by_std and doctor.objectives.average_over == "length" and doctor.kl_weight == 0
    gspo = grpo_method("gspo", given)
    assert (gspo.ratio, gspo.clip_low, gspo.clip_high, gspo.old) == ("sequence", 3e-4, 4e-4, "rescored")
    assert grpo_method("rloo", given).leave_one_out
    with pytest.raises(ValueError, match="unknown method 'ppo'"):
        grpo_method("ppo", given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl_weight": 0.2}, "without a reference"),
        ({"kl_weight": -1.0}, "kl_weight is -1.0"),
        ({"clip_low": 0.2}, 'old is "none"'),
        ({"clip_low": 1.5, "old": "rescored"}, "clip_low is 1.5"),
        ({"clip_high": 0.0, "old": "rescored"}, "clip_high is 0.0"),
        ({"old": "stored"}, "old is 'stored'"),
        ({"score_batch": 0}, "score_batch is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **changes)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_learns_to_draw_and_say_the_rewarded(name) -> None:
    policy, reference = tables(0.0), tables(0.0)
    algorithm = grpo_method(
        name,
        GRPO(
            reference=reference, kl_weight=0.01, objectives=LENGTHS if name == "dr_grpo" else TurnObjectives()
        ),
    )
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.2)
    prompts = [Prompt(texts=[""] * 64, wants="image"), Prompt(texts=[""] * 64)]
    for _ in range(15):
        turns = [
            Turn(prompt=prompt, tokens=policy.sample(prompt, Sampling(max_tokens=4))) for prompt in prompts
        ]
        earned = torch.zeros(64, 3)
        earned[:, -1] = sum((turn.tokens.ids == 1).float().mean(1) for turn in turns)
        group = torch.arange(64) // 4
        rollout = Rollout(turns=tuple(turns), rewards=earned, reward_parts={}, group=group)
        credit = algorithm.credit(policy, rollout)
        for _ in range(2 if algorithm.old == "rescored" else 1):
            optimizer.zero_grad()
            total(algorithm, policy, rollout, credit).backward()
            optimizer.step()
    for table in (policy.picture, policy.answer):
        assert (table.softmax(-1)[:, 1] > 0.6).all()


def test_gdpo_gives_the_advantages_of_the_batch_deviation_one() -> None:
    policy = tables()
    # Less their group's mean: 1, -1, 3, -3; the deviation of the four is sqrt(20 / 3).
    rollout = two_turns(policy, [2.0, 0.0, 7.0, 1.0], [5, 5, 2, 2])
    credit = grpo_method("gdpo", GRPO(kl_weight=0, std_eps=0)).credit(policy, rollout)
    wanted = torch.tensor([1.0, -1.0, 3.0, -3.0]) / (20 / 3) ** 0.5
    torch.testing.assert_close(credit.advantages[:, 0], wanted)
