"""The one place where a command ends: whatever went wrong inside is a sentence and an exit code.

Imports nothing but the standard library, so that a command can be interrupted while the rest is loaded.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from importlib import import_module

from sightloop.process import ranks
from sightloop.process.faults import TRACEBACK, ending_of, notes_of
from sightloop.process.signals import Ended, ending_the_command, handled
from sightloop.terminal import one_line, say

_BROKEN_PIPE = 128 + signal.SIGPIPE
_PATTERNS = "*?["


@contextmanager
def ended_in_one_sentence(words: list[str]) -> Iterator[None]:
    """Around a command with these words; of several ranks, one tells what ended them all."""
    try:
        with ending_the_command(once=ranks.num_processes() > 1) as came:
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
        _leave(0)
    except Ended as ended:
        _end_together("", ended.code)
        if not ranks.is_other_rank():
            _say("interrupted" if ended.number == signal.SIGINT else f"ended by {ended}")
        _leave(ended.code)
        raise SystemExit(ended.code) from None
    except ranks.RankFailedError:
        _end_together("", 1)
        raise
    except SystemExit as error:
        # What it is about was printed where it was raised.
        if error.code:
            _end_together("", error.code if isinstance(error.code, int) else 1, said=True)
        raise
    except BrokenPipeError:
        # Whoever read has seen enough, as `head` has; nothing more can be told there.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_BROKEN_PIPE) from None
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        last = ending_of(error, words)
        sentence = _with_option(last.sentence, words)
        _end_together(sentence, last.code)
        _say("; ".join([sentence, *notes_of(error)]))
        raise SystemExit(last.code) from None


@contextmanager
def only_one_speaks() -> Iterator[ExitStack]:
    """Ranks but the first print nothing; closed early, what is handed out lets them."""
    with ExitStack() as quiet:
        if ranks.is_other_rank():
            for redirected in (redirect_stdout, redirect_stderr):
                quiet.enter_context(redirected(quiet.enter_context(open(os.devnull, "w"))))
        yield quiet


@contextmanager
def work_shared_by_ranks() -> Iterator[None]:
    """Around a command whose work the ranks of torchrun share: the first one speaks and writes."""
    if ranks.num_processes() == 1:
        yield
        return
    distributed = import_module("sightloop.training.distributed")
    with only_one_speaks():
        distributed.start()
        yield
        distributed.stop()


def _end_together(sentence: str, code: int, *, said: bool = False) -> None:
    """With several ranks, end all of them: one says what went wrong first, in this one or in another.

    `sentence` is what went wrong here, "" where a signal came or, `said`, the user has read it.
    """
    watch = ranks.watch()
    if watch is None:
        return
    # torchrun signals to the others once one has ended; that must not end this one before it has spoken.
    with handled(lambda *_: None):
        code = watch.conclude(sentence, code, say=_say, said=said)
        if watch.problem is not None or ranks.is_other_rank():
            _leave(code)


def _leave(code: int) -> None:
    """End here where the ranks parted: leaving in order would wait for operations that some never joined."""
    watch = ranks.watch()
    if watch is not None and (watch.apart or code):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _say(sentence: str) -> None:
    with suppress(OSError):
        say(f"sightloop: {one_line(sentence)}", is_error=True)


def _with_option(said: str, words: list[str]) -> str:
    """A sentence that begins with a setting, with the option that was written instead.

    >>> _with_option("draw.temperature is -1.0; use 0 or more", ["--draw.temperature=-1"])
    '--draw.temperature is -1.0; use 0 or more'
    """
    setting, space, rest = said.partition(" ")
    option = "--" + setting.replace("_", "-")
    written = {word.partition("=")[0].replace("_", "-") for word in words}
    return option + space + rest if option in written else said


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
