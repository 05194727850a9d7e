"""Asks a judge behind HTTP: many requests at a time, with time limits, tried again, remembered by content.

Only the standard library. A request has one limit for all of it, so that a server which sends a byte now and
then holds nobody up. What may pass (no connection, too slow, cut, busy: 408, 429, 5xx) is tried again, after
pauses that double or that the server names; everything else is one sentence at once.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sightloop.terminal import one_line

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_ANSWER = 1 << 26
_SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where a judge is served, and how patient its clients are."""

    address: str
    """Whole URL of what is asked."""
    seconds: float = 60.0
    """Limit of one request, from connecting to the last byte."""
    tries: int = 4
    pause: float = 0.5
    """Seconds before the second try; doubles with each."""
    longest_pause: float = 30.0
    """Also where the server asks for more."""
    parallel: int = 8
    """Requests at a time."""
    remembered: int = 1 << 16
    """Answers that are kept, the oldest dropped first."""
    key: str = ""
    """Sent as `Authorization: Bearer`; never shown."""

    def __post_init__(self) -> None:
        require_address(self.address)
        least = {"seconds": self.seconds, "tries": self.tries, "parallel": self.parallel}
        for name, value in least.items():
            if not value > 0:
                raise ValueError(f"{name} is {value}; use more than 0")

    def __repr__(self) -> str:
        return f"<Server {self.address}>"


def require_address(address: str) -> str:
    """The address, if requests can be sent there.

    Raises:
        ValueError: it is no http or https URL with a host, or it holds a password.
    """
    try:
        parts = urlsplit(address)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, known = None, False
    if parts is None or not known or any(character <= " " for character in address):
        raise ValueError(
            f"{address!r} is no address of a judge; name one such as http://127.0.0.1:8000/score"
        )
    if parts.username or parts.password:
        raise ValueError(f"the address of {parts.hostname!r} holds a name or password; leave them out")
    return address


def split_model(named: str) -> tuple[str, str]:
    """Model and address of `MODEL@URL`.

    Raises:
        ValueError: one of them is missing.
    """
    model, at, url = named.rpartition("@http")
    if not model or not at:
        raise ValueError(
            f"{named!r} names no served model; write MODEL@URL, as in qwen@http://127.0.0.1:8000/v1"
        )
    return model, require_address(f"http{url}")


class _PassingError(Exception):
    """May be gone at the next try, after so many seconds if the server says so."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class Client:
    """Sends questions as JSON and reads answers as JSON."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._known: OrderedDict[bytes, Any] = OrderedDict()

    def ask(
        self, questions: Sequence[Mapping[str, Any]], read: Callable[[Any], Any], *, what: str
    ) -> list[Any]:
        """What `read` makes of the answer to each question; equal questions are asked once.

        Raises:
            ValueError: no answer in all tries, one that is refused, or one that `read` cannot use.
        """
        bodies = [json.dumps(question, sort_keys=True).encode() for question in questions]
        keys = [hashlib.blake2b(body, digest_size=16).digest() for body in bodies]
        found = {key: self._known[key] for key in keys if key in self._known}
        new = {key: body for key, body in zip(keys, bodies, strict=True) if key not in found}
        ended = threading.Event()
        pool = ThreadPoolExecutor(self.server.parallel, "sightloop-judge")
        try:
            jobs = {key: pool.submit(self._asked, body, read, what, ended) for key, body in new.items()}
            done, _ = wait(jobs.values(), return_when=FIRST_EXCEPTION)
            for job in done:
                job.result()
            found |= {key: job.result() for key, job in jobs.items()}
        finally:
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)
        for key in new:
            self._known[key] = found[key]
        while len(self._known) > self.server.remembered:
            self._known.popitem(last=False)
        return [found[key] for key in keys]

    def _asked(self, body: bytes, read: Callable[[Any], Any], what: str, ended: threading.Event) -> Any:
        server = self.server
        place, pause = f"{what} at {server.address}", server.pause
        for number in range(1, server.tries + 1):
            try:
                return read(json.loads(_sent(server, body, place)))
            except (_PassingError, json.JSONDecodeError, UnicodeDecodeError) as error:
                why = str(error) if isinstance(error, _PassingError) else "its answer is no whole JSON"
                if number == server.tries:
                    raise ValueError(
                        f"{place} did not answer in {number} tries: {why}; see whether it runs"
                    ) from error
                wait_for = error.after if isinstance(error, _PassingError) else None
                if ended.wait(min(pause if wait_for is None else wait_for, server.longest_pause)):
                    raise ValueError(f"{place} is not asked any more") from error
                pause *= 2
        raise AssertionError("tried at least once")


def _sent(server: Server, body: bytes, place: str) -> bytes:
    parts = urlsplit(server.address)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=server.seconds)
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if server.key:
        headers["Authorization"] = f"Bearer {server.key}"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    begun, late = time.monotonic(), threading.Event()

    def cut() -> None:
        late.set()
        if connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(server.seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        text = answer.read(_LONGEST_ANSWER + 1)
    except (OSError, http.client.HTTPException) as error:
        slow = late.is_set() or isinstance(error, TimeoutError)
        why = f"it took longer than {server.seconds:g} s" if slow else _reason(error)
        raise _PassingError(why) from error
    finally:
        timer.cancel()
        connection.close()
    if late.is_set() or time.monotonic() - begun > server.seconds:
        raise _PassingError(f"it took longer than {server.seconds:g} s")
    if len(text) > _LONGEST_ANSWER:
        raise ValueError(f"{place} answered with more than {_LONGEST_ANSWER >> 20} MiB; it is no judge")
    if answer.status in _PASSING:
        raise _PassingError(
            f"status {answer.status} {_shown(text)}", _seconds(answer.getheader("Retry-After"))
        )
    if answer.status in (301, 302, 303, 307, 308):
        moved = one_line(answer.getheader("Location") or "nowhere")[:_SHOWN]
        raise ValueError(f"{place} has moved to {moved}; name that address")
    if answer.status != 200:
        raise ValueError(f"{place} refuses what it is asked: status {answer.status} {_shown(text)}")
    return text


def _reason(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}")[:_SHOWN]


def _shown(text: bytes) -> str:
    return one_line(text[:_SHOWN].decode("utf-8", "replace")) or "without a word"


def _seconds(header: str | None) -> float | None:
    """What a server wants to be waited for; None if it does not say, or says a date."""
    return float(header) if header is not None and header.strip().isdigit() else None
