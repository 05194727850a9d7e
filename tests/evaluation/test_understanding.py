"""Drawing and understanding side by side, by hand."""

from __future__ import annotations

import pytest

from sightloop.evaluation.imbalance import Outcomes, imbalance, outcomes_of

DRAWN = [True, True, True, False, False, False, False, False]
TOLD = [True, True, False, True, False, False, False, False]
PROMPTS = ["a", "b", "c", "d", "e", "f", "g", "h"]


def test_the_table_keeps_all_four_outcomes() -> None:
    found = outcomes_of(DRAWN, TOLD)
    assert found == Outcomes(both=2, only_drawn=1, only_answered=1, neither=4)
    assert found.total == 8


def test_every_share_is_that_of_its_own_images() -> None:
    found = imbalance(DRAWN, TOLD, prompts=PROMPTS, resamples=200)
    assert found.answered_if_drawn is not None and found.drawn_if_answered is not None
    values = {
        "drawn": found.drawn.value,
        "answered": found.answered.value,
        "both": found.both.value,
        "only_drawn": found.only_drawn.value,
        "only_answered": found.only_answered.value,
        "answered_if_drawn": found.answered_if_drawn.value,
        "drawn_if_answered": found.drawn_if_answered.value,
        "gap": found.gap.value,
    }
    assert values == pytest.approx(
        {
            "drawn": 3 / 8,
            "answered": 3 / 8,
            "both": 2 / 8,
            "only_drawn": 1 / 8,
            "only_answered": 1 / 8,
            "answered_if_drawn": 2 / 3,
            "drawn_if_answered": 2 / 3,
            "gap": 0.0,
        }
    )


def test_the_gap_is_paired_by_image_and_drawn_by_prompt() -> None:
    # Of every two images of a prompt both are told right and one is drawn right: no doubt about the gap.
    drawn, told = [True, False] * 20, [True, True] * 20
    prompts = [index // 2 for index in range(40)]
    gap = imbalance(drawn, told, prompts=prompts, resamples=200).gap
    assert (gap.value, gap.low, gap.high) == (0.5, 0.5, 0.5)
    # Each image as its own prompt: now some draws hold more of one kind.
    alone = imbalance(drawn, told, prompts=list(range(40)), resamples=2000).gap
    assert alone.low < 0.4 and alone.high > 0.6


def test_a_share_of_no_images_is_no_number() -> None:
    found = imbalance([False] * 4, [True] * 4, prompts=[0, 1, 2, 3], resamples=10)
    assert found.answered_if_drawn is None
    assert found.drawn_if_answered is not None and found.drawn_if_answered.value == 0
    assert found.gap.value == 1


def test_lists_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="give one answer an image"):
        outcomes_of([True], [True, False])
    with pytest.raises(ValueError, match="1 prompts for 2 images"):
        imbalance([True, False], [True, False], prompts=[0])
    with pytest.raises(ValueError, match="list of at least one"):
        imbalance([], [], prompts=[])
