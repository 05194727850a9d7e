"""Alarms on histories written by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sightloop.training.alarms import (
    History,
    Record,
    Watch,
    blind_reward,
    fewer_words,
    hacking,
    lost_ends,
    not_a_number,
    useless_critic,
)

JUDGE = "held_out/recall@1"


def trained(name: str, values: Sequence[float], **others: Sequence[float]) -> list[Record]:
    """Train records from step 1 on; a keyword's _ stands for /."""
    columns = {name: values, **{key.replace("_", "/"): column for key, column in others.items()}}
    return [
        {"step": float(k + 1), **{key: column[k] for key, column in columns.items()}}
        for k in range(len(values))
    ]


def history(train: list[Record], evals: dict[int, float] | None = None) -> History:
    """Train records and the judge's figures by step."""
    return History(
        train=train, evals=[{"step": float(k), JUDGE: v} for k, v in (evals or {}).items()], watched=JUDGE
    )


def rising(steps: int) -> list[Record]:
    return trained("reward/total", [k / 50 for k in range(1, steps + 1)])


def test_a_rising_reward_with_a_falling_judge_is_hacking_told_with_both_figures() -> None:
    message = hacking(history(rising(100), {0: 0.3, 50: 0.6, 100: 0.4}))
    # Means of the rewards of steps 31 to 50 and 81 to 100.
    assert message is not None
    assert "rose from 0.81 around step 50 to 1.81" in message
    assert f"{JUDGE} fell from 0.600 to 0.400" in message


def test_a_judge_that_rises_or_barely_falls_is_no_hacking() -> None:
    assert hacking(history(rising(100), {0: 0.3, 50: 0.6, 100: 0.7})) is None
    assert hacking(history(rising(100), {0: 0.3, 50: 0.6, 100: 0.55})) is None


def test_a_falling_judge_with_a_falling_reward_is_no_hacking() -> None:
    falling = trained("reward/total", [-k / 100 for k in range(100)])
    assert hacking(history(falling, {0: 0.3, 50: 0.6, 100: 0.3})) is None


def test_a_rise_within_the_noise_of_the_reward_is_no_hacking() -> None:
    # Spread 1, so the difference of two means of 20 has a standard error of 0.32; the rise is 0.1.
    noisy = trained("reward/total", [(-1.0) ** k + (0.1 if k >= 50 else 0.0) for k in range(100)])
    assert hacking(history(noisy, {0: 0.3, 50: 0.6, 100: 0.3})) is None


def test_a_judge_that_falls_far_while_the_reward_stays_is_told_with_both_figures() -> None:
    level = trained("reward/total", [0.5 + 0.1 * (-1) ** k for k in range(100)])
    message = blind_reward(history(level, {0: 0.3, 50: 0.6, 100: 0.3}))
    assert message is not None
    assert f"{JUDGE} fell from 0.600 to 0.300 while the reward stayed" in message
    assert "0.50 around step 50, now 0.50" in message
    assert blind_reward(history(level, {0: 0.3, 50: 0.6, 100: 0.5})) is None
    still = trained("reward/total", [0.5] * 100)
    assert blind_reward(history(still, {0: 0.3, 50: 0.6, 100: 0.3})) is not None


def test_a_fall_is_one_alarm_only_and_none_where_the_reward_fell_too() -> None:
    far = {0: 0.3, 50: 0.6, 100: 0.1}
    assert hacking(history(rising(100), far)) and blind_reward(history(rising(100), far)) is None
    falling = trained("reward/total", [-k / 100 for k in range(100)])
    assert blind_reward(history(falling, far)) is None


def test_a_judge_that_could_not_be_measured_is_left_out() -> None:
    assert hacking(history(rising(100), {0: 0.3, 50: 0.6, 100: math.nan})) is None
    assert hacking(History(train=rising(100), evals=[], watched=None)) is None
    assert hacking(history([], {0: 0.6, 1: 0.1})) is None


def test_captions_that_stop_ending_are_told_with_their_shares() -> None:
    message = lost_ends(history(trained("tokens/ended", [0.9] * 30 + [0.5] * 20)))
    assert message is not None and "only 50% of captions end by themselves, 90% did at the start" in message
    assert lost_ends(history(trained("tokens/ended", [0.9] * 30 + [0.8] * 20))) is None
    assert lost_ends(history(trained("tokens/ended", [0.9] * 19 + [0.1] * 20))) is None


def test_captions_that_become_alike_are_told() -> None:
    same_length = [10.0] * 40
    message = fewer_words(
        history(trained("tokens/distinct", [0.20] * 20 + [0.05] * 20, tokens_length=same_length))
    )
    assert message is not None and "fell from 0.200 to 0.050" in message


def test_longer_captions_with_as_many_distinct_words_are_fine() -> None:
    lengths = [10.0] * 20 + [40.0] * 20
    longer = trained("tokens/distinct", [0.20] * 20 + [0.05] * 20, tokens_length=lengths)
    assert fewer_words(history(longer)) is None


def test_a_critic_below_zero_for_forty_steps_is_told() -> None:
    name = "critic/explained_variance"
    message = useless_critic(history(trained(name, [0.1] * 20 + [-0.5] * 39 + [-0.25])))
    assert message is not None and "below zero for 40 steps (now -0.25)" in message
    assert useless_critic(history(trained(name, [0.1] * 21 + [-0.5] * 39))) is None
    assert useless_critic(history(trained(name, [-0.5] * 59))) is None
    assert useless_critic(history(trained("reward/total", [1.0] * 80))) is None


def test_figures_that_are_not_finite_are_named_once_they_appear() -> None:
    train = [{"step": 4.0, "a": 1.0}, {"step": 5.0, "a": math.nan, "b": 2.0, "c": math.inf}]
    assert not_a_number(history(train)) == "not a finite number at step 5: a, c"
    assert not_a_number(history([*train, {"step": 6.0, "a": 1.0}])) is None
    assert not_a_number(history([])) is None


def told(values: Sequence[float]) -> list[int]:
    """Steps at which the alarm about ends is raised."""
    watch, train, steps = Watch(), trained("tokens/ended", values), []
    for k in range(1, len(train) + 1):
        steps += [alarm.step for alarm in watch.look(k, history(train[:k]))]
    return steps


def test_an_episode_is_told_once_and_a_later_one_again() -> None:
    # The mean of the last 20 falls below 0.72 with the eighth 0.4 (0.7), at step 48, and stays there.
    assert told([0.9] * 40 + [0.4] * 60) == [48]
    # Trouble ends with step 72, when eight of the last 20 are 0.4; the next one comes 76 steps later.
    assert told([0.9] * 40 + [0.4] * 20 + [0.9] * 80 + [0.4] * 20) == [48, 148]


def test_a_flicker_is_one_episode() -> None:
    # Trouble pauses for 14 steps at a time.
    assert told([0.9] * 40 + ([0.4] * 10 + [0.9] * 20) * 4) == [48]


def test_a_resumed_run_does_not_tell_an_episode_twice() -> None:
    train = trained("tokens/ended", [0.9] * 40 + [0.4] * 15)
    records = [{**record, "kind": "train"} for record in train]
    late, early = Watch(), Watch()
    late.relive(records[:50], JUDGE)
    assert [late.look(k, history(train[:k])) for k in (51, 52, 53)] == [[], [], []]
    early.relive(records[:46], JUDGE)
    assert [len(early.look(k, history(train[:k]))) for k in (47, 48, 49)] == [0, 1, 0]
