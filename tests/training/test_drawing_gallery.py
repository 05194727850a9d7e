"""What the gallery of a batch of drawings holds, with and without questions about them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from sightloop.training.gallery import GALLERY_SIZE, gallery_samples
from sightloop.types import Credit, Images, Prompt, Rollout, Tokens, Turn

CODES = 3


def drawings(groups: list[int], *, asked: bool = True) -> Rollout:
    """Drawings of three codes, each with an answer of one word and an end token if `asked`."""
    size = len(groups)
    codes = Tokens(
        ids=torch.zeros(size, CODES, dtype=torch.long),
        mask=torch.ones(size, CODES, dtype=torch.bool),
        log_probs=torch.tensor([[-1.0, -2.0, -6.0]]).repeat(size, 1),
    )
    prompts = [f"a photo of {group}" for group in groups]
    turns = [Turn(prompt=Prompt(texts=prompts, wants="image"), tokens=codes)]
    if asked:
        words = Tokens(
            ids=torch.zeros(size, 3, dtype=torch.long), mask=torch.tensor([[True, True, False]] * size)
        )
        turns.append(Turn(prompt=Prompt(texts=["What is it?"] * size, images=codes), tokens=words))
    rewards = torch.tensor([[0.0, 2.0, 0.0]]).repeat(size, 1)
    return Rollout(
        turns=tuple(turns),
        rewards=rewards,
        reward_parts={"facts": rewards.sum(1)},
        group=torch.tensor(groups),
        pieces=[["red"]] * size if asked else [[]] * size,
        sources=prompts,
        references=["blue"] * size,
        answers=["red"] * size if asked else [],
        drawn=Images(pixels=torch.arange(size, dtype=torch.uint8)[:, None, None, None].expand(size, 3, 2, 2)),
    )


def credit_of(rollout: Rollout) -> Credit:
    """Advantages 0, 1, 2 ... along each row; everything counts."""
    width = sum(turn.tokens.mask.shape[1] for turn in rollout.turns)
    advantages = torch.arange(float(width)).repeat(len(rollout), 1)
    return Credit(advantages=advantages, loss_weights=torch.ones_like(advantages))


def test_a_drawing_comes_with_question_answer_truth_and_both_credits(tmp_path: Path) -> None:
    rollout = drawings([7, 7])
    sample = gallery_samples(tmp_path, rollout, credit_of(rollout))[1]
    with Image.open(tmp_path / sample.pop("image")) as kept:
        assert kept.getpixel((0, 0)) == (1, 1, 1)
    assert sample == {
        "source": "a photo of 7",
        "question": "What is it?",
        "truth": "blue",
        "answer": "red",
        "pieces": ["red", ""],
        "rewards": [0.0, 2.0],
        "credit": [3.0, 4.0],
        "values": None,
        "ended": True,
        "reward": 2.0,
        "parts": {"facts": 2.0},
        "group": 7,
        "group_size": 2,
        "drawing_credit": 1.0,
        "drawing_log_prob": -3.0,
    }


def test_a_drawing_that_nobody_was_asked_about_has_no_words(tmp_path: Path) -> None:
    rollout = drawings([4], asked=False)
    (sample,) = gallery_samples(tmp_path, rollout, credit_of(rollout))
    assert (sample["question"], sample["answer"], sample["pieces"], sample["credit"]) == ("", "", [], [])
    assert (sample["reward"], sample["drawing_credit"], sample["truth"]) == (2.0, 1.0, "blue")


def test_codes_that_do_not_count_have_no_part_in_the_credit(tmp_path: Path) -> None:
    rollout = drawings([4])
    credit = credit_of(rollout)
    last = replace(credit, loss_weights=torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0, 0.0]]))
    none = replace(credit, loss_weights=torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0, 0.0]]))
    assert gallery_samples(tmp_path, rollout, last)[0]["drawing_credit"] == 2.0
    assert gallery_samples(tmp_path, rollout, none)[0]["drawing_credit"] == 0.0


def test_drawings_without_pixels_or_likelihoods_are_told_without(tmp_path: Path) -> None:
    rollout = drawings([4])
    turn = rollout.turns[0]
    bare = replace(turn, tokens=replace(turn.tokens, log_probs=None))
    rollout = replace(rollout, turns=(bare, rollout.turns[1]), drawn=None)
    (sample,) = gallery_samples(tmp_path, rollout, credit_of(rollout))
    assert (sample["image"], sample["drawing_log_prob"]) == ("", None)


@pytest.mark.parametrize(
    ("groups", "shown"),
    [
        ([0] * 6 + [1] * 6 + [2] * 6, [0] * 6 + [1] * 6),
        ([0, 1, 2] * 8, [0] * 8 + [1] * 8),
        ([5] * 24, [5] * GALLERY_SIZE),
        ([3, 3, 1], [3, 3, 1]),
    ],
)
def test_whole_groups_stand_side_by_side(tmp_path: Path, groups: list[int], shown: list[int]) -> None:
    rollout = drawings(groups)
    samples = gallery_samples(tmp_path, rollout, credit_of(rollout))
    assert [sample["group"] for sample in samples] == shown
    assert [sample["group_size"] for sample in samples] == [groups.count(group) for group in shown]
