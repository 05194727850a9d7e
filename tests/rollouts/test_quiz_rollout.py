from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from rollouts.painter import COLORS, Painter, batch
from torch import Tensor

from sightloop.algorithms.grpo import GRPO
from sightloop.algorithms.sft import SFT, paper
from sightloop.algorithms.turn_objectives import TurnObjective, TurnObjectives
from sightloop.quizzes.grammar import Quiz
from sightloop.quizzes.negative_questions import NegativeQuestions
from sightloop.rewards.answers import FactReward, NegativeAnswers, SubtractBlindBaseline, all_facts
from sightloop.rewards.combine import combine
from sightloop.rollouts.quiz import MovingAverage, QuizCollector
from sightloop.types import Images, Rollout, Sampling, Tokens

JUDGE = combine(
    {"points": FactReward(), "all_facts": FactReward(grade=all_facts)}, {"points": 1.0, "all_facts": 0.0}
)
LAW, TALK = Sampling(max_tokens=2), Sampling(max_tokens=2)
COLLECT = QuizCollector(drawing=LAW, answering=TALK, judge=JUDGE, per_prompt=4)


def seen(images: Images, quizzes: Sequence[Quiz]) -> Tensor:
    """Share of the image in the color that was asked for."""
    wanted = torch.tensor([COLORS.index(str(quiz.include[0].color)) for quiz in quizzes])
    rows = images.pixels[torch.arange(len(quizzes)), wanted]
    return (rows == 255).float().mean((1, 2))


def test_every_prompt_is_drawn_asked_about_and_judged_several_times() -> None:
    painter = Painter()
    rollout = COLLECT(painter, batch())
    drawing, answer = rollout.turns
    assert drawing.prompt.texts == [f"a photo of {'a'} {c} car" for c in COLORS for _ in range(4)]
    assert answer.prompt.texts == painter.asked and "color" in answer.prompt.texts[0]
    assert isinstance(answer.prompt.images, Tokens)
    assert torch.equal(answer.prompt.images.ids, drawing.tokens.ids)
    assert rollout.group.tolist() == [10] * 4 + [11] * 4 + [12] * 4
    assert rollout.sources == drawing.prompt.texts
    assert rollout.references == [c for c in COLORS for _ in range(4)]
    said = ["".join(row) for row in rollout.pieces]
    assert rollout.answers == said and rollout.drawn is None
    right = [float(a == b) for a, b in zip(said, rollout.references, strict=True)]
    assert rollout.rewards.sum(1).tolist() == right and 0 < sum(right) < 12
    assert rollout.reward_parts["points"].tolist() == right
    # The reward sits on the last token: the end, or the word if the end was drawn first.
    last = answer.tokens.mask.sum(1) - 1
    assert rollout.rewards.gather(1, last[:, None])[:, 0].tolist() == right


def test_samples_of_a_prompt_differ_and_every_sample_can_be_drawn_again() -> None:
    once, again = COLLECT(Painter(), batch()), COLLECT(Painter(), batch())
    assert torch.equal(once.turns[0].tokens.ids, again.turns[0].tokens.ids)
    assert once.pieces == again.pieces
    assert len({tuple(row) for row in once.turns[0].tokens.ids[:4].tolist()}) > 1
    further = replace(COLLECT, first=2, per_prompt=2)(Painter(), batch())
    both = torch.tensor([2, 3, 6, 7, 10, 11])
    assert torch.equal(further.turns[0].tokens.ids, once.turns[0].tokens.ids[both])
    assert further.pieces == [once.pieces[i] for i in both.tolist()]


@pytest.mark.parametrize("second_turn", ["answer", "truth"])
def test_chunks_change_nothing(second_turn: Any) -> None:
    whole = replace(COLLECT, second_turn=second_turn, show=True)
    one, other = whole(Painter(), batch()), replace(whole, chunk=5)(Painter(), batch())
    for mine, theirs in zip(one.turns, other.turns, strict=True):
        assert torch.equal(mine.tokens.ids, theirs.tokens.ids)
        assert mine.prompt.texts == theirs.prompt.texts and mine.prompt.seeds == theirs.prompt.seeds
    assert torch.equal(one.rewards, other.rewards) and one.pieces == other.pieces
    assert one.drawn is not None and other.drawn is not None
    assert torch.equal(one.drawn.pixels, other.drawn.pixels)
    index = torch.tensor([5, 0])
    few = one.rows(index)
    assert few.references == ["green", "red"] and few.answers == [one.answers[5], one.answers[0]]
    assert few.drawn is not None and torch.equal(few.drawn.pixels, one.drawn.pixels[index])


def test_true_answers_take_the_place_of_drawn_ones() -> None:
    rollout = replace(COLLECT, second_turn="truth")(Painter(), batch())
    tokens = rollout.turns[1].tokens
    assert ["".join(row) for row in rollout.pieces] == rollout.references
    assert tokens.log_probs is None and rollout.answers != rollout.references
    right = [float(a == b) for a, b in zip(rollout.answers, rollout.references, strict=True)]
    assert rollout.rewards[:, 1].tolist() == right and rollout.rewards[:, 0].abs().max() == 0
    unjudged = replace(COLLECT, second_turn="truth", answering=None, judge=None)(Painter(), batch())
    assert unjudged.rewards.abs().max() == 0 and unjudged.reward_parts == {} and unjudged.answers == []


def test_an_exact_judge_of_images_needs_no_answers() -> None:
    painter = Painter()
    collect = QuizCollector(drawing=LAW, image_judge=seen, image_weight=2.0, per_prompt=4)
    rollout = collect(painter, batch())
    assert len(rollout.turns) == 1 and painter.asked == []
    ids = rollout.turns[0].tokens.ids
    wanted = (ids == torch.arange(3).repeat_interleave(4)[:, None]).float().mean(1)
    assert torch.equal(rollout.reward_parts["image"], wanted)
    assert torch.equal(rollout.rewards[:, 1], 2 * wanted)
    both = replace(COLLECT, image_judge=seen)(Painter(), batch())
    assert sorted(both.reward_parts) == ["all_facts", "image", "points"]
    torch.testing.assert_close(both.rewards.sum(1), both.reward_parts["points"] + both.reward_parts["image"])
    with pytest.raises(ValueError, match="image judge says nan about 'a photo of a red car'"):
        replace(collect, image_judge=lambda images, quizzes: seen(images, quizzes) / 0 * 0)(
            Painter(), batch()
        )


def test_answers_of_another_grader_cannot_be_mistaken_for_the_policys() -> None:
    blind = Painter(eyes=0.0)
    painter = Painter()
    rollout = replace(COLLECT, answerer=lambda policy: blind)(painter, batch())
    assert painter.asked == [] and len(blind.asked) == 12
    assert rollout.turns[1].tokens.log_probs is None
    with pytest.raises(ValueError, match="answering side carry no log-probabilities"):
        GRPO(kl_weight=0).credit(painter, rollout)
    GRPO(kl_weight=0, objectives=TurnObjectives(answering=TurnObjective(weight=0))).credit(painter, rollout)


def test_a_moving_average_follows_the_policy_and_shares_what_is_frozen() -> None:
    painter = Painter()
    answerer = MovingAverage(painter, decay=0.75)
    with torch.no_grad():
        painter.see.add_(4.0)
    before = answerer.average.get_parameter("see").clone()
    followed = answerer(painter)
    assert isinstance(followed, Painter) and isinstance(before, Tensor)
    torch.testing.assert_close(followed.see, before + 1.0)
    assert followed is not painter and followed.frame is painter.frame
    assert not any(p.requires_grad for p in answerer.parameters())
    rollout = replace(COLLECT, answerer=answerer)(painter, batch())
    assert rollout.turns[1].tokens.log_probs is None and len(followed.asked) == 12
    with pytest.raises(ValueError, match="decay is 2"):
        MovingAverage(painter, decay=2.0)


def test_negative_questions_and_blank_images_reach_the_judge() -> None:
    negatives = NegativeQuestions(nouns=("cat", "dog", "car"), colors=COLORS)
    judge = combine(
        {"denied": NegativeAnswers(), "seen": SubtractBlindBaseline(reward=FactReward())},
        {"denied": 1.0, "seen": 1.0},
    )
    painter = Painter()
    with torch.no_grad():
        # Of a grey image it always says red, so that red is worth nothing.
        painter.see[3, 0] = 5.0
    rollout = replace(COLLECT, judge=judge, negative=negatives, blind=True)(painter, batch())
    asked = [text for text in painter.asked if text.startswith("Is the object")]
    assert len(asked) == 12 and len(painter.asked) == 36
    right = torch.tensor([float(a == b) for a, b in zip(rollout.answers, rollout.references, strict=True)])
    prior = torch.tensor([1.0] * 4 + [0.0] * 8)
    torch.testing.assert_close(rollout.reward_parts["seen"], right - prior)
    assert 0 < rollout.reward_parts["denied"].sum() < 12


class SecretBlue(Painter):
    """Its blue looks green to everybody else."""

    def pixels(self, tokens: Tokens) -> Images:
        """Red, green, green or grey."""
        return super().pixels(replace(tokens, ids=tokens.ids.where(tokens.ids != 2, 1)))


def test_codes_that_only_the_policy_can_read_earn_nothing_where_images_are_read_anew() -> None:
    painter, blue = SecretBlue(eyes=50.0), slice(8, 12)
    with torch.no_grad():
        painter.draw[range(3), range(3)] = 9.0
    trusting = COLLECT(painter, batch())
    assert trusting.rewards[blue].sum() == 4
    strict = replace(
        COLLECT, encode_anew=True, object_identification=lambda quiz: (quiz.question, quiz.facts)
    )
    rollout = strict(painter, batch())
    assert rollout.rewards[blue].sum() == 0 and rollout.rewards[:8].sum() == 8
    assert torch.equal(rollout.turns[0].tokens.ids, trusting.turns[0].tokens.ids)
    read = rollout.turns[1].prompt.images
    assert isinstance(read, Tokens) and not (read.ids == 2).any()


def test_only_the_drawing_keeps_a_gradient_and_only_when_it_is_relaxed() -> None:
    painter = Painter()
    plain = COLLECT(painter, batch())
    assert plain.turns[0].tokens.one_hot is None
    soft = replace(COLLECT, drawing=replace(LAW, relaxation=1.0), second_turn="truth")
    rollout = soft(painter, batch())
    codes = rollout.turns[1].prompt.images
    assert isinstance(codes, Tokens) and codes.one_hot is not None and codes.one_hot.requires_grad
    algorithm = paper(SFT())
    credit = algorithm.credit(painter, rollout)
    (algorithm.loss(painter, rollout, credit).per_token * credit.loss_weights).sum().backward()
    assert painter.draw.grad is not None and painter.draw.grad.abs().max() > 0
    assert torch.equal(rollout.turns[0].tokens.ids, plain.turns[0].tokens.ids)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_prompt": 0}, "per_prompt is 0"),
        ({"chunk": 0}, "chunk is 0"),
        ({"second_turn": "both"}, "second_turn is 'both'"),
        ({"judge": None}, "nothing is judged"),
        ({"answering": None, "blind": True}, "nobody is asked"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(COLLECT, **changes)


def learn(painter: Painter, collect: QuizCollector, algorithm: Any, *, steps: int) -> list[Rollout]:
    optimizer = torch.optim.Adam([painter.draw, painter.see], lr=0.15)
    rollouts: list[Rollout] = []
    for step in range(steps):
        quizzes = batch()
        rollout = collect(painter, replace(quizzes, seeds=[s + 7919 * step for s in quizzes.seeds]))
        credit = algorithm.credit(painter, rollout)
        optimizer.zero_grad()
        (algorithm.loss(painter, rollout, credit).per_token * credit.loss_weights).sum().backward()
        optimizer.step()
        rollouts.append(rollout)
    return rollouts


def test_twenty_updates_of_grpo_raise_the_reward_of_drawing_and_answering() -> None:
    painter, reference = Painter(), Painter().requires_grad_(False)
    collect = replace(COLLECT, per_prompt=16)
    rollouts = learn(painter, collect, GRPO(reference=reference, kl_weight=0.01), steps=20)
    rewards = [float(rollout.rewards.sum(1).mean()) for rollout in rollouts]
    assert sum(rewards[:3]) / 3 < 0.4 and sum(rewards[-3:]) / 3 > 0.75
    # It draws what was asked for: a judge that was no reward agrees.
    codes = painter.draw.softmax(-1)[range(3), range(3)]
    assert (codes > 0.5).all()


def test_supervised_training_end_to_end_makes_the_drawings_right() -> None:
    painter = Painter()
    collect = replace(COLLECT, per_prompt=16, drawing=replace(LAW, relaxation=1.0), second_turn="truth")
    with torch.no_grad():
        before = painter.draw.softmax(-1)[range(3), range(3)].mean()
    learn(painter, collect, paper(SFT()), steps=20)
    assert painter.draw.softmax(-1)[range(3), range(3)].mean() > before + 0.3


def test_rejection_sampling_trains_joint_on_what_was_right() -> None:
    painter = Painter()
    collect = replace(COLLECT, per_prompt=16, second_turn="truth")
    learn(painter, collect, SFT(objectives=TurnObjectives()), steps=20)
    assert (painter.draw.softmax(-1)[range(3), range(3)] > 0.5).all()
    assert (painter.see.softmax(-1)[range(3), range(3)] > 0.7).all()
