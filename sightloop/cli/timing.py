"""Options of `train` that are no settings: about time, and the names under which trackers keep a run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from sightloop.process.long_work import LOG_SECONDS
from sightloop.process.ranks import RANK_SECONDS, watch
from sightloop.process.time_limit import REWARD_SECONDS, reward_timeout
from sightloop.ranges import Range
from sightloop.recipes.words import taken
from sightloop.training.progress import logged_every
from sightloop.training.tracking import TrackedAs, tracked_as

RANK_RANGE = Range(least=2, most=86400)


@contextmanager
def timing_given(words: list[str]) -> Iterator[list[str]]:
    """Inside, what the words say about time and trackers holds; the other words.

    Raises:
        ValueError: one of them is no number of seconds.
    """
    log, rest = _seconds("--log-every-seconds", words, LOG_SECONDS)
    reward, rest = _seconds("--reward-timeout-seconds", rest, REWARD_SECONDS)
    silence, rest = _seconds("--rank-timeout-seconds", rest, RANK_SECONDS)
    if not RANK_RANGE.holds(silence):
        raise ValueError(f"--rank-timeout-seconds is {silence:g}; use {RANK_RANGE}")
    others = watch()
    if others is not None:
        others.timeout = silence
        others.patience = 0.0 if reward == REWARD_SECONDS else reward or math.inf
    names: dict[str, str] = {}
    for field in ("project", "group", "name", "tags"):
        value, rest = taken(f"--track-{field}", rest)
        if value is not None:
            names[field] = value
    tags = tuple(filter(None, (tag.strip() for tag in names.pop("tags", "").split(","))))
    with logged_every(log), reward_timeout(reward), tracked_as(TrackedAs(tags=tags, **names)):
        yield rest


def _seconds(option: str, words: list[str], usual: float) -> tuple[float, list[str]]:
    given, rest = taken(option, words)
    try:
        return usual if given is None else float(given), rest
    except ValueError:
        raise ValueError(f"{option} is {given!r}; give a number of seconds") from None
