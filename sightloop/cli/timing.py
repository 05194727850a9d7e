"""Options of `train` that are no settings: about time, and the names under which trackers keep a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sightloop.process.time_limit import REWARD_SECONDS, reward_timeout
from sightloop.training.progress import LOG_SECONDS, logged_every
from sightloop.training.tracking import TrackedAs, tracked_as


@contextmanager
def timing_given(words: list[str]) -> Iterator[list[str]]:
    """Inside, what the words say about time and trackers holds; the other words.

    Raises:
        ValueError: one of them is no number of seconds.
    """
    log, rest = _seconds("--log-every-seconds", words, LOG_SECONDS)
    reward, rest = _seconds("--reward-timeout-seconds", rest, REWARD_SECONDS)
    names: dict[str, str] = {}
    for field in ("project", "group", "name", "tags"):
        value, rest = taken(f"--track-{field}", rest)
        if value is not None:
            names[field] = value
    tags = tuple(filter(None, (tag.strip() for tag in names.pop("tags", "").split(","))))
    with logged_every(log), reward_timeout(reward), tracked_as(TrackedAs(tags=tags, **names)):
        yield rest


def taken(option: str, words: list[str]) -> tuple[str | None, list[str]]:
    """The value of an option, None if it is not there, and the words without both."""
    for place, word in enumerate(words):
        name, equal, value = word.partition("=")
        if name.replace("_", "-") == option:
            value = value if equal else "".join(words[place + 1 : place + 2])
            return value, words[:place] + words[place + (1 if equal else 2) :]
    return None, words


def _seconds(option: str, words: list[str], usual: float) -> tuple[float, list[str]]:
    given, rest = taken(option, words)
    try:
        return usual if given is None else float(given), rest
    except ValueError:
        raise ValueError(f"{option} is {given!r}; give a number of seconds") from None
