"""Plain sentences about runs that go wrong, from the history of their figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

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
_QUIET = 50
"""Steps without trouble after which the same trouble is worth another sentence."""


_SMALL_FALL, _GREAT_FALL = 0.1, 0.25
"""Of the watched figure, as shares of its best."""


@dataclass(frozen=True, kw_only=True)
class _Fall:
    """The held-out judge below its best, and the rewards around both steps."""

    sentence: str
    step: float
    share: float
    """Of the best figure."""
    then: float
    recent: float
    rise: float
    """Of the reward."""
    noise: float
    """Standard error of the rise."""


def _fall_of(history: History) -> _Fall | None:
    watched = history.watched
    if watched is None:
        return None
    held_out = [record for record in history.evals if math.isfinite(record.get(watched, math.nan))]
    if len(held_out) < 2:
        return None
    best, now = max(held_out, key=lambda record: record[watched]), held_out[-1]
    fall = best[watched] - now[watched]
    then = [record["reward/total"] for record in _around(history.train, best["step"])]
    recent = [record["reward/total"] for record in history.train[-_WINDOW:]]
    if fall <= 0.02 or not then or not recent:
        return None
    return _Fall(
        sentence=f"{watched} fell from {best[watched]:.3f} to {now[watched]:.3f}",
        step=best["step"],
        share=fall / abs(best[watched]) if best[watched] else math.inf,
        then=fmean(then),
        recent=fmean(recent),
        rise=fmean(recent) - fmean(then),
        noise=math.hypot(pstdev(then) / len(then) ** 0.5, pstdev(recent) / len(recent) ** 0.5),
    )


def hacking(history: History) -> str | None:
    """The reward rises, beyond its noise, while the held-out judge has fallen well below its best."""
    fall = _fall_of(history)
    if fall is None or fall.share <= _SMALL_FALL or not fall.rise > 2 * fall.noise:
        return None
    return (
        f"the reward rose from {fall.then:.2f} around step {fall.step:.0f} to {fall.recent:.2f} while "
        f"{fall.sentence}: the policy may be gaming its rewards; compare the samples of both steps, and "
        "prefer the checkpoint of the former"
    )


def blind_reward(history: History) -> str | None:
    """The held-out judge has fallen far below its best and the reward has not noticed."""
    fall = _fall_of(history)
    if fall is None or fall.share <= _GREAT_FALL or not abs(fall.rise) <= 2 * fall.noise:
        return None
    return (
        f"{fall.sentence} while the reward stayed where it was ({fall.then:.2f} around step {fall.step:.0f}, "
        f"now {fall.recent:.2f}): it does not see what went wrong; compare the samples of both steps, and "
        "prefer the checkpoint of the former"
    )


def lost_ends(history: History) -> str | None:
    """Captions run into the length limit."""
    ends = _first_and_last(history.train, "tokens/ended")
    if ends is None or ends[1] >= 0.8 * ends[0]:
        return None
    return (
        f"only {ends[1]:.0%} of captions end by themselves, {ends[0]:.0%} did at the start: raise the "
        "price of a missing end, or lower the temperature of the draws"
    )


def fewer_words(history: History) -> str | None:
    """The captions of a batch use ever fewer distinct words."""
    shares = _first_and_last(history.train, "tokens/distinct")
    lengths = _first_and_last(history.train, "tokens/length")
    if shares is None or lengths is None:
        return None
    # Longer captions repeat more of a small vocabulary without anything being wrong.
    growth = max(1.0, lengths[1] / max(lengths[0], 1e-9))
    if shares[1] * growth >= 0.5 * shares[0]:
        return None
    return (
        f"distinct words fell from {shares[0]:.3f} to {shares[1]:.3f} of all words: captions are becoming "
        "alike; look at the latest samples, and lower the learning rate"
    )


def useless_critic(history: History) -> str | None:
    """The critic predicts worse than a constant for long."""
    name, span = "critic/explained_variance", 2 * _WINDOW
    if len(history.train) < 3 * _WINDOW:
        return None
    values = [record.get(name, math.nan) for record in history.train[-span:]]
    if not all(value < 0 for value in values):
        return None
    return (
        f"the critic's explained variance has been below zero for {span} steps (now {values[-1]:.2f}): "
        "advantages carry more noise than rewards do; raise the critic's learning rate"
    )


def skipped_updates(history: History) -> str | None:
    """Nothing of the latest batch was learned from."""
    if not history.train or not history.train[-1].get("update/skipped"):
        return None
    step, recent = history.train[-1]["step"], history.train[-_WINDOW:]
    count = sum(bool(record.get("update/skipped")) for record in recent)
    return (
        f"nothing was updated at step {step:.0f}: no sample of the batch has a weight in the loss, because a "
        f"filter kept none or no group had two different rewards ({count} of the last {len(recent)} steps); "
        "with many such steps draw more samples a step, or filter less"
    )


def not_a_number(history: History) -> str | None:
    """A figure of the latest records is not finite."""
    latest = [*history.train[-1:], *history.evals[-1:]]
    step = max((record["step"] for record in latest), default=0)
    broken = [
        name
        for record in latest
        if record["step"] == step
        for name, value in record.items()
        if not math.isfinite(value)
    ]
    return f"not a finite number at step {step:.0f}: {', '.join(broken)}" if broken else None


def _first_and_last(train: Sequence[Record], name: str) -> tuple[float, float] | None:
    """Means over the first and the last window; None if there are too few records or they lack the figure."""
    if len(train) < 2 * _WINDOW:
        return None
    first, last = (
        [record.get(name, math.nan) for record in part] for part in (train[:_WINDOW], train[-_WINDOW:])
    )
    return (fmean(first), fmean(last)) if all(map(math.isfinite, [*first, *last])) else None


def _around(train: Sequence[Record], step: float) -> list[Record]:
    near = [record for record in train if step - _WINDOW < record["step"] <= step]
    return near or list(train[:_WINDOW])


CHECKS: dict[str, Callable[[History], str | None]] = {
    "hacking": hacking,
    "blind_reward": blind_reward,
    "lost_ends": lost_ends,
    "fewer_words": fewer_words,
    "useless_critic": useless_critic,
    "skipped_updates": skipped_updates,
    "not_a_number": not_a_number,
}


class Watch:
    """Raises each alarm once an episode: again only after so many steps without it."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def look(self, step: int, history: History) -> list[Alarm]:
        """Alarms that start now."""
        messages = {name: check(history) for name, check in CHECKS.items()}
        fresh = [
            Alarm(step=step, name=name, message=message)
            for name, message in messages.items()
            if message is not None and step - self._seen.get(name, -_QUIET - 1) > _QUIET
        ]
        self._seen |= {name: step for name, message in messages.items() if message is not None}
        return fresh

    def relive(self, records: Sequence[Mapping[str, float | str]], watched: str | None) -> None:
        """Look at every record of an interrupted run again, so that nothing is told twice."""
        train: list[Record] = []
        evals: list[Record] = []
        for record in records:
            figures = {name: float(value) for name, value in record.items() if not isinstance(value, str)}
            (train if record["kind"] == "train" else evals).append(figures)
            self.look(int(figures["step"]), History(train=train, evals=evals, watched=watched))
