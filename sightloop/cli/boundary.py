"""The one place where a command ends: whatever went wrong inside is a sentence and an exit code.

Imports nothing but the standard library, so that a command can be interrupted while the rest is loaded.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sightloop.process.faults import TRACEBACK, ending_of
from sightloop.process.signals import Ended, ending_the_command
from sightloop.terminal import one_line, say

_BROKEN_PIPE = 128 + signal.SIGPIPE
_PATTERNS = "*?["


@contextmanager
def ended_in_one_sentence(words: list[str]) -> Iterator[None]:
    """Around a command with these words."""
    try:
        with ending_the_command() as came:
            try:
                _require_text(words)
                yield
            except (SystemExit, Ended):
                raise
            except BaseException as error:
                # Libraries turn an interrupt into errors of their own.
                if came:
                    raise Ended(came[-1]) from None
                if isinstance(error, KeyboardInterrupt):
                    raise Ended(signal.SIGINT) from None
                raise
    except Ended as ended:
        _say("interrupted" if ended.number == signal.SIGINT else f"ended by {ended}")
        raise SystemExit(ended.code) from None
    except BrokenPipeError:
        # Whoever read has seen enough, as `head` has; nothing more can be told there.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_BROKEN_PIPE) from None
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        last = ending_of(error, words)
        _say(last.sentence)
        raise SystemExit(last.code) from None


def _say(sentence: str) -> None:
    with suppress(OSError):
        say(f"sightloop: {one_line(sentence)}", is_error=True)


def _require_text(words: list[str]) -> None:
    """Arguments are text, but for names of files, whose bytes are anyone's choice."""
    for word in words:
        value = word.partition("=")[2] if word.startswith("-") else word
        names_files = "\0" not in word and (os.path.exists(value) or bool(set(value) & set(_PATTERNS)))
        if "\0" in word or not (_is_text(word) or names_files):
            raise ValueError(f"the argument {word!a} is not UTF-8 text, nor a file that is there")


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True
