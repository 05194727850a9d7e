"""Checks annotated calls of the package while the tests run: shapes, dtypes and protocols."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, Union, get_args, get_origin, runtime_checkable

from beartype import BeartypeConf, beartype

CONF = BeartypeConf(is_pep484_tower=True)
"""Where a float is expected an int will do, as for type checkers."""
MAX_CALLS = 50
"""Calls of one function that are checked in one test: a run makes thousands alike, and their checks took as
long as all else."""
_counts: dict[int, int] = {}
"""Of each checked function, in this test."""
_enough: list[Any] = []
"""The functions that are no longer checked in it."""


def begin_test() -> None:
    """Count anew."""
    for function in _enough:
        function.__no_type_check__ = False
    _enough.clear()
    _counts.clear()


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its arguments and its result checked at its first calls.

    beartype refuses protocols that are not runtime checkable, so those its module knows are made so first.
    The package itself keeps them static: an `isinstance` against a protocol in library code would be probing.
    """
    for value in list(vars(sys.modules[function.__module__]).values()):
        if isinstance(value, type) and value.__dict__.get("_is_protocol", False):
            runtime_checkable(value)
    function.__annotations__ = {name: any_of(hint) for name, hint in function.__annotations__.items()}
    checked = beartype(conf=CONF)(function)

    @wraps(function)
    def counted(*args: Any, **named: Any) -> Any:
        calls = _counts[id(counted)] = _counts.get(id(counted), 0) + 1
        if calls == MAX_CALLS:
            # jaxtyping keeps the function itself to its own, and asks it before every check.
            own = sys._getframe(1).f_locals.get("fn")
            if own is not None:
                own.__no_type_check__ = True
                _enough.append(own)
        return checked(*args, **named)

    return counted


def any_of(hint: Any) -> Any:
    """The type of a Literal's values: the package itself must refuse a wrong choice."""
    if get_origin(hint) is not Literal:
        return hint
    return Union[tuple({type(value) for value in get_args(hint)})]  # noqa: UP007
