from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from algorithms.drawn_and_answered import ANSWERS, TwoTables, tables, two_turns
from torch import Tensor

from sightloop.algorithms.sft import SFT, paper
from sightloop.algorithms.turn_objectives import TurnObjective, TurnObjectives
from sightloop.types import Rollout, Tokens, Turn

ALL = paper(SFT())
BOTH = TurnObjectives()


def labeled(policy: TwoTables, right: list[float], *, totals: list[float] | None = None) -> Rollout:
    """Drawings and true answers; `right` says whether the model's own answer told all facts."""
    rollout = two_turns(policy, right if totals is None else totals, [5, 5, 2, 2])
    answer = rollout.turns[1]
    truth = Tokens(ids=answer.tokens.ids, mask=answer.tokens.mask)
    return replace(
        rollout,
        turns=(rollout.turns[0], replace(answer, tokens=truth)),
        reward_parts={"all_facts": torch.tensor(right)},
    )


def total(algorithm: SFT, policy: TwoTables, rollout: Rollout) -> Tensor:
    credit = algorithm.credit(policy, rollout)
    return (algorithm.loss(policy, rollout, credit).per_token * credit.loss_weights).sum()


def test_the_loss_is_the_mean_negative_log_likelihood_of_the_answer() -> None:
    policy = tables()
    rollout = labeled(policy, [0.0] * 4)
    log_probs = policy.score(rollout.turns[1]).log_probs
    wanted = -(log_probs.sum(1) / ANSWERS.sum(1)).mean()
    torch.testing.assert_close(total(ALL, policy, rollout), wanted)
    total(ALL, policy, rollout).backward()
    assert policy.answer.grad is not None and policy.answer.grad.abs().max() > 0
    assert policy.picture.grad is None


def test_the_drawing_side_trains_on_its_own_drawings_with_its_weight() -> None:
    policy = tables()
    rollout = labeled(policy, [0.0] * 4)
    objectives = TurnObjectives(drawing=TurnObjective(weight=1.0), answering=TurnObjective(weight=3.0))
    drawn = -policy.score(rollout.turns[0]).log_probs.mean()
    wanted = 0.25 * drawn + 0.75 * total(ALL, policy, rollout)
    torch.testing.assert_close(total(replace(ALL, objectives=objectives), policy, rollout), wanted)


def test_drawings_may_be_scored_in_other_orders() -> None:
    policy = tables()
    rollout = labeled(policy, [0.0] * 4)

    def first_code(turn: Turn) -> list[Turn]:
        mask = torch.zeros_like(turn.tokens.mask)
        mask[:, :1] = True
        return [replace(turn, tokens=replace(turn.tokens, mask=mask))]

    objectives = TurnObjectives(answering=TurnObjective(weight=0), unmasking=first_code)
    wanted = -policy.score(rollout.turns[0]).log_probs[:, 0].mean()
    torch.testing.assert_close(total(replace(ALL, objectives=objectives), policy, rollout), wanted)


def test_by_default_no_side_learns_from_a_drawing_whose_answer_was_wrong() -> None:
    policy = tables()
    rollout = labeled(policy, [1.0, 0.0, 0.0, 1.0])
    algorithm = SFT(objectives=BOTH)
    credit = algorithm.credit(policy, rollout)
    assert (credit.loss_weights[[1, 2]] == 0).all() and (credit.advantages[[1, 2]] == 0).all()
    torch.testing.assert_close(credit.loss_weights.sum(), torch.tensor(1.0))
    assert credit.metrics == {"filter/accepted": 0.5}
    log_probs = policy.score(rollout.turns[1]).log_probs.sum(1) / ANSWERS.sum(1)
    answers = SFT()
    torch.testing.assert_close(total(answers, policy, rollout), -(log_probs[0] + log_probs[3]) / 2)
    assert ALL.credit(policy, rollout).metrics == {"filter/accepted": 1.0}


def test_the_best_of_a_group_are_kept_with_ties() -> None:
    policy = tables()
    rollout = labeled(policy, [0.0] * 4, totals=[1.0, 3.0, 2.0, 2.0])
    credit = SFT(filter="best_of_group").credit(policy, rollout)
    assert (credit.loss_weights.sum(1) > 0).tolist() == [False, True, True, True]


def test_a_batch_without_a_right_answer_teaches_nothing() -> None:
    policy = tables()
    rollout = labeled(policy, [0.0] * 4)
    loss = total(SFT(), policy, rollout)
    loss.backward()
    assert loss == 0 and policy.answer.grad is not None and policy.answer.grad.abs().max() == 0


def test_filters_need_a_judged_rollout() -> None:
    policy = tables()
    rollout = replace(labeled(policy, [0.0] * 4), reward_parts={})
    with pytest.raises(ValueError, match="by the reward 'all_facts'; the rollout has none"):
        SFT().credit(policy, rollout)
    with pytest.raises(ValueError, match="nothing was judged"):
        SFT(filter="best_of_group").credit(policy, rollout)
    with pytest.raises(ValueError, match="filter is 'best'"):
        SFT(filter=cast("Any", "best"))


def test_the_answers_loss_reaches_the_drawing_through_straight_through_codes() -> None:
    policy = tables()
    rollout = labeled(policy, [0.0] * 4)
    drawing, answer = rollout.turns
    soft = policy.picture.softmax(-1).expand(4, -1, -1)
    hard = torch.nn.functional.one_hot(drawing.tokens.ids, 3).float()
    codes = replace(drawing.tokens, one_hot=hard + soft - soft.detach())
    rollout = replace(
        rollout,
        turns=(
            replace(drawing, tokens=codes),
            replace(answer, prompt=replace(answer.prompt, images=codes)),
        ),
    )
    total(ALL, policy, rollout).backward()
    assert policy.picture.grad is not None and policy.picture.grad.abs().max() > 0


def test_each_side_reports_its_own_mean() -> None:
    policy = tables()
    rollout = labeled(policy, [0.0] * 4)
    algorithm = replace(ALL, objectives=TurnObjectives(answering=TurnObjective(weight=7.0)))
    credit = algorithm.credit(policy, rollout)
    metrics = algorithm.loss(policy, rollout, credit).metrics
    means = {name: float((value * credit.loss_weights).sum()) for name, value in metrics.items()}
    drawn = policy.score(rollout.turns[0]).log_probs.detach()
    assert means["drawing/loss"] == pytest.approx(-float(drawn.mean()), rel=1e-5)
    assert means["drawing/probability"] == pytest.approx(float(drawn.exp().mean()), rel=1e-5)
    assert means["answering/loss"] == pytest.approx(float(total(ALL, policy, rollout).detach()), rel=1e-5)


@pytest.mark.parametrize("algorithm", [replace(ALL, objectives=BOTH), SFT(objectives=BOTH)])
def test_the_size_of_the_pieces_leaves_the_loss_unchanged(algorithm: SFT) -> None:
    policy = tables()
    rollout = labeled(policy, [1.0, 0.0, 1.0, 1.0])
    credit = algorithm.credit(policy, rollout)
    pieces = torch.zeros(())
    for row in torch.arange(4).split(1):
        part = credit.rows(row)
        pieces = (
            pieces + (algorithm.loss(policy, rollout.rows(row), part).per_token * part.loss_weights).sum()
        )
    torch.testing.assert_close(pieces, total(algorithm, policy, rollout))


def test_a_table_learns_the_true_answers() -> None:
    policy = tables(0.0)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.3)
    rollout = labeled(policy, [0.0] * 4)
    truth = policy.encode(["312"] * 4)
    turns = (rollout.turns[0], replace(rollout.turns[1], tokens=truth))
    rollout = replace(rollout, turns=turns)
    for _ in range(15):
        optimizer.zero_grad()
        total(ALL, policy, rollout).backward()
        optimizer.step()
    assert policy.answer.argmax(1).tolist() == [3, 1, 2]
    assert total(ALL, policy, rollout) < 0.2


def near(policy: TwoTables, **changes: Any) -> SFT:
    """Supervised training that holds a policy near where it was."""
    start = tables()
    start.load_state_dict(
        {name: value + 0.3 * torch.randn_like(value) for name, value in policy.state_dict().items()}
    )
    return replace(ALL, reference=start, kl_weight=2.0, **changes)


def test_the_divergence_is_added_on_joint_with_its_weight() -> None:
    policy = tables()
    rollout = labeled(policy, [0.0] * 4)
    algorithm = near(policy, objectives=BOTH)
    plain = total(replace(algorithm, kl_weight=0.0, reference=None), policy, rollout)
    wanted = torch.tensor(0.0)
    assert algorithm.reference is not None
    for turn in rollout.turns:
        mask = turn.tokens.mask
        mine, theirs = (each.score(turn).log_probs for each in (policy, algorithm.reference))
        kl = ((theirs - mine).exp() - (theirs - mine) - 1) * mask
        wanted = wanted + 0.5 * (kl.sum(1) / mask.sum(1)).mean()
    assert bool(wanted > 1e-3)
    torch.testing.assert_close(total(algorithm, policy, rollout) - plain, 2.0 * wanted)


def test_end_to_end_drawings_may_be_held_without_being_learned() -> None:
    policy = tables()
    rollout = labeled(policy, [0.0] * 4)
    algorithm = near(policy, objectives=BOTH, learns_drawings=False)
    credit = algorithm.credit(policy, rollout)
    metrics = algorithm.loss(policy, rollout, credit).metrics
    assert not metrics["drawing/loss"].any() and metrics["drawing/kl"].any()
    assert metrics["answering/loss"].any() and metrics["answering/kl"].any()
    total(algorithm, policy, rollout).backward()
    assert policy.picture.grad is not None and policy.picture.grad.abs().max() > 0


def test_a_penalty_without_a_reference_and_a_side_without_a_loss_are_refused() -> None:
    with pytest.raises(ValueError, match=r"kl_weight is 0\.5; use 0, or a positive weight together with"):
        SFT(kl_weight=0.5)
    with pytest.raises(ValueError, match="the drawing side has no loss; give it weight 0"):
        SFT(objectives=BOTH, learns_drawings=False)
    policy = tables()
    with pytest.raises(ValueError, match="the reference is the policy itself"):
        replace(ALL, reference=policy, kl_weight=1.0).credit(policy, labeled(policy, [0.0] * 4))
