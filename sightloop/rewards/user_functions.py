"""Functions of a user's: `module:function` or `file.py:function` on the command line, or given in Python.

Async ones are waited for, all on one event loop, as their clients expect.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, TypeVar, cast

from PIL import Image

from sightloop.process.faults import user_code_message

IN_PYTHON = "python"
"""The place in the names of functions that a Python program gave."""
_GIVEN: dict[str, Callable[..., Any]] = {}
_Said = TypeVar("_Said")
_FORM = "use module:function, or the path of a file: rewards/mine.py:function"


def names_function(name: str) -> bool:
    """Whether a name has the form of a function's, rather than that of a folder or of a model of the hub.

    >>> names_function("mine.py:detect"), names_function("facebook/mask2former-swin-small-coco-instance")
    (True, False)
    """
    place, colon, attribute = name.rpartition(":")
    return bool(colon and place) and attribute.isidentifier()


@dataclass(frozen=True, kw_only=True)
class UserFunction:
    """A function of the user's, which is named when it fails."""

    name: str
    """As the user gave it."""
    what: str
    """What it is for: detector, reader of words, classifier."""
    function: Callable[..., Any]

    def __call__(self, *given: Any, **named: Any) -> Any:
        """What the function says.

        Raises:
            ValueError: it raised something.
        """
        with _Blame(self):
            return awaited(self.function(*given, **named))

    @property
    def digest(self) -> str:
        """Of the file it was written in, "" where it has none: tells two versions of it apart."""
        module = sys.modules.get(self.function.__module__) if inspect.isroutine(self.function) else None
        file = Path(str(vars(module).get("__file__"))) if module else Path()
        return hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file.is_file() else ""

    @property
    def parameters(self) -> frozenset[str]:
        """Names of its parameters."""
        return frozenset(inspect.signature(self.function).parameters)


class _Blame(AbstractContextManager["_Blame"]):
    """Says whose function failed."""

    def __init__(self, blamed: UserFunction) -> None:
        self.blamed = blamed

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception | SystemExit):
            sentence = f"{self.blamed.what} {self.blamed.name!r} failed: {user_code_message(error)}"
            raise ValueError(sentence) from error


def give_function(name: str, function: Callable[..., Any]) -> str:
    """Let `load_function` find a function in this process; what it is called from now on.

    Raises:
        ValueError: the name is no word of Python's.
    """
    if not name.isidentifier():
        raise ValueError(f"a function of yours is called {name!r}; use letters, digits and underscores")
    _GIVEN[name] = function
    return f"{IN_PYTHON}:{name}"


def awaited(said: Any) -> Any:
    """What a function said; what is still to come of an async one is waited for."""
    if not inspect.isawaitable(said):
        return said
    return asyncio.run_coroutine_threadsafe(_result(said), _event_loop()).result()


async def _result(coming: Awaitable[Any]) -> Any:
    return await coming


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """One loop for good, on a thread of its own: notebooks have theirs, and clients stay with the first."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="sightloop-async", daemon=True).start()
    return loop


def load_function(name: str, *, what: str) -> UserFunction:
    """The function that `module:function` or `file.py:function` names, for use as `what`.

    Raises:
        ValueError: there is no such module, file or function.
    """
    place, colon, attribute = name.rpartition(":")
    if place == IN_PYTHON:
        return UserFunction(name=name, what=what, function=_given(attribute, what))
    if not colon or not place or not attribute:
        raise ValueError(f"{name!r} names no {what}; {_FORM}")
    module = _module(place, name, what)
    found: Any = vars(module).get(attribute)
    if found is None:
        known = [each for each, value in vars(module).items() if callable(value) and each[0] != "_"]
        raise ValueError(f"{place!r} has no {attribute!r}; it holds: {', '.join(known) or 'no functions'}")
    if isinstance(found, type) or not callable(found):
        raise ValueError(f"{name!r} is {shortly(cast('Any', found))}; name a function, or an object to call")
    return UserFunction(name=name, what=what, function=found)


def _given(name: str, what: str) -> Callable[..., Any]:
    if name not in _GIVEN:
        raise ValueError(
            f"the {what} {name!r} was given in Python and is not on disk; go on there: "
            f"sightloop.train(resume=RUN, rewards={{{name!r}: function}})"
        )
    return _GIVEN[name]


def said_of_each(
    images: list[Image.Image],
    ask: Callable[[list[Image.Image]], Sequence[_Said]],
    *,
    what: str,
    kind: type[Any],
    wanted: str,
) -> Sequence[_Said]:
    """What a function, used as `what`, says about each image: one `kind` each, `wanted` in the user's words.

    Raises:
        ValueError: it says another thing, or not one of each image.
    """
    said, count = cast("Any", ask(images)), len(images)
    if not isinstance(said, Sequence) or isinstance(said, str):
        raise ValueError(f"the {what} said {shortly(said)} about {count} images; give a list, one entry each")
    listed = cast("Sequence[Any]", said)
    if len(listed) != count:
        raise ValueError(f"the {what} gave {len(listed)} answers about {count} images; give one for each")
    for each in listed:
        if not isinstance(each, kind):
            raise ValueError(f"the {what} said {each!r} about an image; give {wanted}")
    return listed


def shortly(value: Any) -> str:
    """A value with its type, as error messages show it."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _module(place: str, name: str, what: str) -> ModuleType:
    if place.endswith(".py"):
        return _module_of_file(Path(place).expanduser(), what)
    # The command's own folder, not the user's, is where Python looks; last, so that it hides nothing.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise ValueError(f"{place!r} cannot be imported: {error}") from error
        raise ValueError(f"there is no module {place!r} for the {what} {name!r}; {_FORM}") from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"{place!r} cannot be imported: {user_code_message(error)}") from error


def _module_of_file(path: Path, what: str) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r} with a {what}")
    path = Path(os.path.realpath(path))
    called = f"sightloop_user_{path.stem}_{abs(hash(str(path))):x}"
    if called in sys.modules:
        return sys.modules[called]
    spec = importlib.util.spec_from_file_location(called, path)
    assert spec is not None and spec.loader is not None
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = importlib.util.module_from_spec(spec)
    with ExitStack() as undo:
        # Dataclasses look their module up; one that fails is not there for a second try.
        undo.callback(sys.modules.pop, called)
        sys.modules[called] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise ValueError(f"{path} cannot be imported: {user_code_message(error)}") from error
        undo.pop_all()
    return module
