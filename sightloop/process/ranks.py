"""Ranks that watch each other: whatever ends one of them ends all, and one of them says why.

Every second a thread of each rank writes into a store that all reach what the rank does, whether it waits for
others and which signals it was sent, and reads the same of the others. The first rank that fails, gives no
sign any more or keeps the others waiting is noted there once, so that all ranks name the same. Rank 0 speaks;
where it is the lost one, rank 1 does. The thread wakes the main one by a signal; what is stuck where no
signal is heard ends after a while all the same.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

from sightloop.terminal import one_line

RANK_SECONDS = 45.0
_BEAT_SECONDS, _LOST_BEATS = 1.0, 5
_PATIENCE = 3
"""How many times the others' own time a rank may take, if that is longer than the time limit."""
_AGREED_SECONDS = 2.0
"""After a signal, what waits for another rank is completed if all still take part."""
_TELLING_SECONDS, _STUCK_SECONDS = 15.0, 10.0
_OTHERS_CODE = 2
"""The exit code of a rank that ends because another one did."""
_STORE_ERRORS = (RuntimeError, OSError, ValueError)
"""What torch raises of a store that is gone."""
_FIRST, _FIRST_WORDS, _TOLD = "first", "first words", "told"


class Store(Protocol):
    """What all ranks write to and read from, such as `torch.distributed.TCPStore`."""

    def set(self, key: str, value: str, /) -> None: ...

    def get(self, key: str, /) -> bytes: ...

    def check(self, keys: list[str], /) -> bool: ...

    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes: ...


class Dropped(BaseException):
    """The work in flight is given up; no error, so that nothing that catches errors keeps it."""


class RankFailedError(Exception):
    """Another rank ended the run."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What ended the run, as all ranks know it."""

    rank: int
    kind: Literal["failed", "ended", "silent", "slow"]
    phase: str
    seconds: float = 0.0

    def sentence(self) -> str:
        """What is known without the rank's own words."""
        where = f"rank {self.rank} (last seen: {self.phase})"
        return {
            "failed": f"{where} failed without a word",
            "ended": f"{where} ended without a word, as if it was killed or its memory was full",
            "silent": f"{where} gave no sign for {self.seconds:.0f} s, as if it was stopped or its computer "
            "was gone; allow more with --rank-timeout-seconds",
            "slow": f"{where} has kept the others waiting for {self.seconds:.0f} s; mend what it does, or "
            "allow more with --rank-timeout-seconds",
        }[self.kind]


@dataclass(frozen=True, kw_only=True)
class _Sign:
    count: int = 0
    phase: str = "it starts"
    shared: bool = False
    waits: bool = False
    heard: tuple[int, ...] = ()
    done: bool = False


class RankWatch:
    """One rank's eye on the others."""

    def __init__(self, stores: tuple[Store, Store], rank: int, num_ranks: int) -> None:
        """One store for the thread and one for the caller: a call may wait."""
        self._far, self._near = stores
        self.rank, self.num_ranks = rank, num_ranks
        self.timeout = RANK_SECONDS
        self.patience = 0.0
        """Seconds that others may be waited for in any case: a reward may take so long."""
        self.problem: Problem | None = None
        self.heard: set[int] = set()
        """Signals that this rank was sent, itself or by way of another rank."""
        self.dropping_since: float | None = None
        """Since when what is in flight is to be dropped."""
        self.committed = False
        """All ranks have agreed to end the step in flight."""
        self.apart = False
        """The ranks do not take part in common operations any more."""
        self.how_to_go_on = ""
        self._phase, self._shared = _Sign.phase, False
        self._woke = self._worked_since = time.monotonic()
        self._waits_since: float | None = None
        self._others = [other for other in range(num_ranks) if other != rank]
        self._seen = {other: (_Sign(), self._woke) for other in self._others}
        self._count, self._found_at, self._is_unwinding = 0, 0.0, False
        self._news, self._closed = threading.Event(), threading.Event()
        self._store_is_gone = False
        self._publish()
        self._thread = threading.Thread(target=self._watch, name="sightloop-ranks", daemon=True)
        self._thread.start()

    def doing(self, phase: str, *, shared: bool = False) -> None:
        """What this rank does from now on; `shared`: all do the same, and it takes each as long."""
        self._phase, self._shared = phase, shared
        self._news.set()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what needs the other ranks."""
        self._waits_since = time.monotonic()
        try:
            yield
        finally:
            self._waits_since, self._worked_since = None, time.monotonic()

    def look(self) -> None:
        """Called again and again by whoever waits for the others.

        Raises:
            RankFailedError: one of them cannot come.
            Dropped: a signal has ended what it was for.
        """
        if self.problem is None and time.monotonic() - self._woke > self.timeout + _LOST_BEATS:
            # The store itself does not answer; rank 0 or the launcher has it.
            self._store_is_gone = True
            self.problem = Problem(rank=0, kind="silent", phase=self._seen_phase(0), seconds=self.timeout)
        if self.problem is not None:
            raise RankFailedError(self.problem.sentence())
        since = self.dropping_since
        if since is not None and not self.committed and time.monotonic() - since > _AGREED_SECONDS:
            raise Dropped

    def explain(self) -> None:
        """A connection to another rank broke: wait until it is known why, which is raised as by `look`."""
        self.find_lost()
        until = time.monotonic() + _STUCK_SECONDS
        while time.monotonic() < until:
            self.look()
            time.sleep(self._beat / 10)

    def fail(self, sentence: str) -> None:
        """Note that this rank fails, so that the others need not wait for it; more may be said later."""
        self._is_unwinding = True
        self._declare(Problem(rank=self.rank, kind="failed", phase=self._phase))
        self._write(f"{_FIRST_WORDS}/{self.rank}", json.dumps([sentence, _OTHERS_CODE]))

    def find_lost(self) -> None:
        """A connection broke, or torchrun sent a signal: look whether a rank gives no more signs."""
        start = time.monotonic()
        while self.problem is None and time.monotonic() - start < (_LOST_BEATS + 1) * self._beat:
            # What was read since may have been written before.
            if all(at > start + self._beat or sign.done for sign, at in self._seen.values()):
                return
            time.sleep(self._beat / 10)
        written = start + self._beat
        lost = [rank for rank, (sign, at) in self._seen.items() if at <= written and not sign.done]
        if lost and self.problem is None:
            self._declare(Problem(rank=lost[0], kind="ended", phase=self._seen_phase(lost[0])))

    def conclude(self, sentence: str, code: int, *, say: Callable[[str], None], said: bool = False) -> int:
        """At the end of the command: say what ended the run if it is for this rank to say; the exit code.

        `sentence` is what went wrong here, "" if a signal came or the user has read it (`said`).
        """
        self._is_unwinding = True
        if sentence:
            self._declare(Problem(rank=self.rank, kind="failed", phase=self._phase))
            self._write(f"{_TOLD}/{self.rank}", json.dumps([sentence, code]))
        elif not said:
            self.find_lost()
        if self.problem is None:
            if self.rank == 0:
                self._write(_TOLD, "yes")
            elif said:
                self._wait_for(_TOLD)
            self._publish(done=True)
            return code
        if not sentence:
            code = _OTHERS_CODE
        if self.rank != self._speaker(self.problem):
            self._wait_for(_TOLD)
            return code
        text, code = self._text_of(self.problem, sentence, code)
        say("; ".join(filter(None, (text, self.how_to_go_on))))
        self._write(_TOLD, "yes")
        return code

    def close(self) -> None:
        """This rank is done; nobody waits for it."""
        self._publish(done=True)
        if self.rank == 0:
            # It may be the one that has the store.
            until = time.monotonic() + _TELLING_SECONDS
            while time.monotonic() < until and not self.problem and not self._store_is_gone:
                if all(sign.done for sign, _ in self._seen.values()):
                    break
                time.sleep(self._beat / 10)
        self._closed.set()
        self._news.set()
        self._thread.join(_STUCK_SECONDS)

    @property
    def _beat(self) -> float:
        return min(_BEAT_SECONDS, self.timeout / _LOST_BEATS)

    def _watch(self) -> None:
        while True:
            self._news.wait(self._beat)
            self._news.clear()
            if self._closed.is_set():
                return
            now = time.monotonic()
            if now - self._woke > self.timeout / 2:
                # This process itself was stopped for a while.
                self._seen = {rank: (sign, now) for rank, (sign, _) in self._seen.items()}
            self._woke = now
            try:
                self._publish()
                self._read()
            except _STORE_ERRORS:
                if self._closed.is_set() or self._seen.get(0, (_Sign(done=True), 0))[0].done:
                    return
                self._store_is_gone = True
                self._found(Problem(rank=0, kind="ended", phase=self._seen_phase(0)))
            if self.problem is None:
                self._judge(time.monotonic())
            elif not self._is_unwinding and now - self._found_at > _STUCK_SECONDS:
                self._end_from_here(self.problem)

    def _publish(self, *, done: bool = False) -> None:
        self._count += 1
        sign = _Sign(
            count=self._count,
            phase=self._phase,
            shared=self._shared,
            waits=self._waits_since is not None,
            heard=tuple(sorted(self.heard)),
            done=done,
        )
        store = self._near if done else self._far
        with suppress(*(_STORE_ERRORS if done else ())):
            store.set(f"sign/{self.rank}", json.dumps(asdict(sign)))

    def _read(self) -> None:
        for rank in self._others:
            key = f"sign/{rank}"
            if not self._far.check([key]):
                continue
            message = json.loads(self._far.get(key))
            sign = _Sign(**{**message, "heard": tuple(message["heard"])})
            before, _ = self._seen[rank]
            if sign.count != before.count:
                self._seen[rank] = (sign, time.monotonic())
            for number in set(sign.heard) - self.heard:
                self.heard.add(number)
                self._wake(number)
        if self.problem is None and self._far.check([_FIRST]):
            self._found(Problem(**json.loads(self._far.get(_FIRST))))

    def _judge(self, now: float) -> None:
        for rank, (sign, at) in self._seen.items():
            if not sign.done and now - at > self.timeout:
                phase = sign.phase
                return self._declare(
                    Problem(rank=rank, kind="silent", phase=phase, seconds=now - at), store=self._far
                )
        since = self._waits_since
        if since is None:
            return
        waited, worked = now - since, since - self._worked_since
        if waited <= max(self.timeout, self.patience, _PATIENCE * worked):
            return
        for rank, (sign, _) in self._seen.items():
            if sign.shared and not sign.waits and not sign.done:
                return self._declare(
                    Problem(rank=rank, kind="slow", phase=sign.phase, seconds=waited), store=self._far
                )

    def _declare(self, problem: Problem, *, store: Store | None = None) -> None:
        if self.problem is not None:
            return
        known = json.dumps(asdict(problem))
        with suppress(*_STORE_ERRORS):
            if not self._store_is_gone:
                known = (store or self._near).compare_set(_FIRST, "", known).decode()
        self._found(Problem(**json.loads(known)))

    def _found(self, problem: Problem) -> None:
        self.problem, self._found_at = problem, time.monotonic()
        self.apart = True
        if threading.current_thread() is self._thread:
            self._wake(signal.SIGUSR1)

    def _wake(self, number: int) -> None:
        main = threading.main_thread().ident
        if main is not None and callable(signal.getsignal(number)):
            signal.pthread_kill(main, number)

    def _end_from_here(self, problem: Problem) -> None:
        """The main thread is stuck where it hears no signals."""

        def write(text: str) -> None:
            with suppress(OSError, ValueError):
                os.write(sys.stderr.fileno(), f"sightloop: {one_line(text)}\n".encode())

        self._near = self._far
        os._exit(self.conclude("", _OTHERS_CODE, say=write))

    def _speaker(self, problem: Problem) -> int:
        return 1 if problem.rank == 0 and problem.kind != "failed" else 0

    def _text_of(self, problem: Problem, own: str, code: int) -> tuple[str, int]:
        if problem.rank == self.rank and own:
            return own, code
        key, before = f"{_TOLD}/{problem.rank}", f"{_FIRST_WORDS}/{problem.rank}"
        if problem.kind == "failed" and not self._wait_for(key):
            # What it would say at the end takes long.
            key = before if self._wait_for(before) else ""
        if problem.kind != "failed" or not key:
            return problem.sentence(), code
        sentence, code = json.loads(self._near.get(key))
        # A mistake that all ranks see is nobody's own.
        return (sentence if sentence == own else f"rank {problem.rank}: {sentence}"), code

    def _seen_phase(self, rank: int) -> str:
        return self._seen[rank][0].phase if rank in self._seen else self._phase

    def _write(self, key: str, value: str) -> None:
        if not self._store_is_gone:
            with suppress(*_STORE_ERRORS):
                self._near.set(key, value)

    def _wait_for(self, key: str) -> bool:
        until = time.monotonic() + _TELLING_SECONDS
        with suppress(*_STORE_ERRORS):
            while not self._store_is_gone and time.monotonic() < until:
                if self._near.check([key]):
                    return True
                time.sleep(0.05)
        return False


_WATCH: list[RankWatch] = []


def start_watch(stores: tuple[Store, Store], rank: int, num_ranks: int) -> RankWatch:
    """RankWatch the other ranks from now on."""
    _WATCH[:] = [RankWatch(stores, rank, num_ranks)]
    return _WATCH[0]


def watch() -> RankWatch | None:
    """This rank's eye on the others; None where there are none, or none were met yet."""
    return _WATCH[0] if _WATCH else None


def is_other_rank() -> bool:
    """Whether another process of this command is the one that speaks."""
    return num_processes() > 1 and os.environ.get("RANK", "0") != "0"


def num_processes() -> int:
    """How many processes run this command, by what torchrun says."""
    number = os.environ.get("WORLD_SIZE", "1")
    return int(number) if number.isdigit() else 1
