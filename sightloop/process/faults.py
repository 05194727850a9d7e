"""What a command says at its end when something went wrong: one sentence, whatever raised what.

A sentence that sightloop raised on purpose is told as it is. What the system or a lack of memory or libraries
raised is told with its cause and a next step. Everything else is a fault of sightloop's: the traceback goes
to a file, which is named.
"""

from __future__ import annotations

import dis
import errno
import os
import platform
import sysconfig
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

TRACEBACK = "SIGHTLOOP_TRACEBACK"
"""The environment variable that shows whole tracebacks."""
USER, FAULT = 2, 1
"""Exit codes: of a mistake or a lack that the user can mend, and of sightloop's own."""
_PACKAGE = str(Path(__file__).parents[1]) + os.sep
_LIBRARIES = tuple(
    sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_RAISES = {dis.opmap["RAISE_VARARGS"], dis.opmap["RERAISE"]}
_NEXT = {
    errno.ENOSPC: "free some space; a run goes on from its last checkpoint with --resume",
    errno.EDQUOT: "your share of the disk is used up; free some space",
    errno.EFBIG: "files of this size are not allowed here (ulimit -f); write elsewhere",
    errno.EROFS: "name a place that can be written to",
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.ENOENT: "look for a mistyped name",
    errno.ENOTDIR: "a part of this path is a file; name a folder",
    errno.EISDIR: "name a file in it",
    errno.EMFILE: "too many files are open; raise the limit with `ulimit -n 4096`",
    errno.ENFILE: "too many files are open on this computer; close other programs",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EADDRINUSE: "another job uses this port; give torchrun --master-port with a free one",
}
_FULL = ("No space left", "PytorchStreamWriter failed", "unexpected pos", "File too large")
_FRAMES = ("Exception raised from ", "frame #0", "C++ CapturedTraceback", "Compile with `TORCH_USE_CUDA_DSA`")
"""What torch writes behind its own sentences."""
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The last words of a command."""

    sentence: str
    code: int


def ending_of(error: BaseException, words: list[str]) -> Ending:
    """What is said about an error, which is written to a file if it is a fault of sightloop's."""
    text = _first_words(error)
    if isinstance(error, OSError) and error.errno is not None:
        return Ending(sentence=_of_system(error), code=USER)
    if isinstance(error, ValueError | OSError) and raised_on_purpose(error):
        return Ending(sentence=text, code=USER)
    if isinstance(error, MemoryError) or any(part in text for part in _NO_MEMORY):
        first = text.partition(" Of the allocated")[0]
        sentence = f"out of memory ({first}); use smaller batches or images, or a computer with more of it"
        return Ending(sentence=sentence, code=USER)
    if any(part in text for part in _FULL):
        return Ending(sentence=f"a file could not be written ({text}); {_NEXT[errno.ENOSPC]}", code=USER)
    if isinstance(error, ImportError) and (sentence := _of_library(error)):
        return Ending(sentence=sentence, code=USER)
    if isinstance(error, ImportError) and not (error.name or "").startswith("sightloop"):
        name = (error.name or "").partition(".")[0]
        return Ending(sentence=f"{text}; install it with `pip install {name or 'NAME'}`", code=USER)
    where = _own_place(error.__traceback__)
    file = _written(error, words)
    return Ending(
        sentence=f"this is a fault of sightloop, not of yours: {type(error).__name__}: {text} ({where}); "
        f"{file or 'the traceback could not be written to a file'}; please report it with that file",
        code=FAULT,
    )


def _of_library(error: ImportError) -> str:
    """Of a library that is there and fails while another one loads it; "" of any other error."""
    first: BaseException = error
    while first.__cause__ is not None:
        first = first.__cause__
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(first.__traceback__)]
    names = [name.partition(".")[0] for name in frames]
    below = names[len(names) - names[::-1].index("transformers") :] if "transformers" in names else []
    name = next((name for name in below if name != "importlib"), "")
    if first is error or not name:
        return ""
    return (
        f"the library {name} cannot be loaded ({type(first).__name__}: {' '.join(str(first).split())}); "
        f"install a version of it that fits the others here, or do without it: `pip uninstall {name}`"
    )


def _first_words(error: BaseException) -> str:
    """What an error says, without what torch tells its developers."""
    text = str(error)
    for mark in _FRAMES:
        text = text.partition(mark)[0]
    return " ".join(text.split()) or type(error).__name__


def notes_of(error: BaseException) -> list[str]:
    """What was noted about an error on its way, such as how to go on after it."""
    found: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        # Python has them only where there are some.
        found += [note for note in vars(seen).get("__notes__", ()) if note]
        seen = seen.__cause__
    return found


def raised_on_purpose(error: BaseException) -> bool:
    """Whether a `raise` of sightloop's own files, or of a user's, raised it, rather than a library."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return False
    last = error.__traceback__
    assert last is not None
    while last.tb_next is not None:
        last = last.tb_next
    code = last.tb_frame.f_code
    of_a_library = code.co_filename.startswith((*_LIBRARIES, "<frozen"))
    on_purpose = code.co_filename.startswith(_PACKAGE) or not of_a_library
    return on_purpose and code.co_code[last.tb_lasti] in _RAISES


def user_code_message(error: BaseException) -> str:
    """What a user's own code raised, with the place in the user's own files."""
    text = " ".join(str(error).split())
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, SyntaxError):
        # Its text names the file by its last part alone.
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    place = _last_of_user(traceback.extract_tb(error.__traceback__))
    return f"{what} ({place})" if place else what


def place_in_user_code(frame: FrameType | None) -> str:
    """Where in the user's own files a program is; "" if in none."""
    return _last_of_user(traceback.extract_stack(frame))


def _last_of_user(frames: traceback.StackSummary) -> str:
    own = [each for each in frames if not each.filename.startswith((_PACKAGE, *_LIBRARIES, "<"))]
    if not own:
        return ""
    line = f": {own[-1].line}" if own[-1].line else ""
    return f"{own[-1].filename}, line {own[-1].lineno}, in {own[-1].name}{line}"


def _of_system(error: OSError) -> str:
    if error.errno is None:
        return " ".join(str(error).split())
    name = f"{error.filename}: " if error.filename else ""
    step = _NEXT.get(error.errno, "")
    return f"{name}{error.strerror or os.strerror(error.errno)}{step and '; ' + step}"


def _own_place(trace: TracebackType | None) -> str:
    own = [f for f in traceback.extract_tb(trace) if f.filename.startswith(_PACKAGE)]
    return (
        f"{own[-1].filename.removeprefix(_PACKAGE)}, line {own[-1].lineno}" if own else "outside of its files"
    )


def _written(error: BaseException, words: list[str]) -> str:
    name = f"sightloop-fault-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    file = Path(tempfile.gettempdir()) / name
    trace = "".join(traceback.format_exception(error))
    text = (
        f"sightloop {' '.join(words)}\nPython {platform.python_version()}, {platform.platform()}\n\n{trace}"
    )
    try:
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError:
        return ""
    return f"the traceback is in {file}"
