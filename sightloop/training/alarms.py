"""Plain sentences about runs that go wrong, from the history of their figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

Record = dict[str, float]
"""One line of metrics.jsonl: the step and its figures."""


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Something a person should look at."""

    step: int
    name: str
    message: str


@dataclass(frozen=True, kw_only=True)
class History:
    """Train and evaluation records so far, oldest first."""

    train: Sequence[Record]
    evals: Sequence[Record]
    watched: str | None
    """Evaluation figure of a judge that is never a reward; higher is better."""


_WINDOW = 20


def hacking(history: History) -> str | None:
    """The reward rises while the held-out judge has fallen well below its best."""
    if history.watched is None:
        return None
    held_out = [record for record in history.evals if history.watched in record]
    if len(held_out) < 2:
        return None
    best = max(held_out, key=lambda record: record[history.watched or ""])
    now = held_out[-1]
    fall = best[history.watched] - now[history.watched]
    if fall <= max(0.02, 0.1 * abs(best[history.watched])):
        return None
    then = _around(history.train, best["step"])
    recent = history.train[-_WINDOW:]
    if not then or not recent:
        return None
    rise = mean(r["reward/total"] for r in recent) - mean(r["reward/total"] for r in then)
    if rise <= 0:
        return None
    return (
        f"the reward rose by {rise:.2f} since step {best['step']:.0f} while {history.watched} fell from "
        f"{best[history.watched]:.3f} to {now[history.watched]:.3f}: the policy may be gaming its rewards"
    )


def lost_ends(history: History) -> str | None:
    """Captions run into the length limit."""
    shares = [record["tokens/ended"] for record in history.train if "tokens/ended" in record]
    if len(shares) < 2 * _WINDOW:
        return None
    first, last = mean(shares[:_WINDOW]), mean(shares[-_WINDOW:])
    if last >= 0.8 * first:
        return None
    return f"only {last:.0%} of captions end by themselves, {first:.0%} did at the start"


def fewer_words(history: History) -> str | None:
    """The captions of a batch use ever fewer distinct words."""
    shares = [record["tokens/distinct"] for record in history.train if "tokens/distinct" in record]
    if len(shares) < 2 * _WINDOW:
        return None
    first, last = mean(shares[:_WINDOW]), mean(shares[-_WINDOW:])
    lengths = [record["tokens/length"] for record in history.train if "tokens/length" in record]
    # Longer captions repeat more of a small vocabulary without anything being wrong.
    growth = max(1.0, mean(lengths[-_WINDOW:]) / mean(lengths[:_WINDOW]))
    if last * growth >= 0.5 * first:
        return None
    return f"distinct words fell from {first:.3f} to {last:.3f} of all words: captions are becoming alike"


def useless_critic(history: History) -> str | None:
    """The critic predicts worse than a constant for long."""
    values = [r["critic/explained_variance"] for r in history.train if "critic/explained_variance" in r]
    if len(values) < 3 * _WINDOW or max(values[-2 * _WINDOW :]) >= 0:
        return None
    return f"the critic's explained variance has been below zero for {2 * _WINDOW} steps (now {values[-1]:.2f})"


def _around(train: Sequence[Record], step: float) -> list[Record]:
    near = [record for record in train if step - _WINDOW < record["step"] <= step]
    return near or list(train[:_WINDOW])


CHECKS: dict[str, Callable[[History], str | None]] = {
    "hacking": hacking,
    "lost_ends": lost_ends,
    "fewer_words": fewer_words,
    "useless_critic": useless_critic,
}


class Watch:
    """Raises each alarm once an episode: again only after it has been silent."""

    def __init__(self) -> None:
        self._ringing: set[str] = set()

    def look(self, step: int, history: History) -> list[Alarm]:
        """Alarms that start now."""
        messages = {name: check(history) for name, check in CHECKS.items()}
        fresh = [
            Alarm(step=step, name=name, message=message)
            for name, message in messages.items()
            if message is not None and name not in self._ringing
        ]
        self._ringing = {name for name, message in messages.items() if message is not None}
        return fresh
