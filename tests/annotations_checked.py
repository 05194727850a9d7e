"""Checks every annotated call of the package while the tests run: shapes, dtypes and protocols."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin, runtime_checkable

from beartype import BeartypeConf, beartype

CONF = BeartypeConf(is_pep484_tower=True)
"""Where a float is expected an int will do, as for type checkers."""


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its arguments and its result checked at every call.

    beartype refuses protocols that are not runtime checkable, so those its module knows are made so first.
    The package itself keeps them static: an `isinstance` against a protocol in library code would be probing.
    """
    for value in list(vars(sys.modules[function.__module__]).values()):
        if isinstance(value, type) and value.__dict__.get("_is_protocol", False):
            runtime_checkable(value)
    function.__annotations__ = {name: any_of(hint) for name, hint in function.__annotations__.items()}
    return beartype(conf=CONF)(function)


def any_of(hint: Any) -> Any:
    """The type of a Literal's values: the package itself must refuse a wrong choice."""
    if get_origin(hint) is not Literal:
        return hint
    return Union[tuple({type(value) for value in get_args(hint)})]  # noqa: UP007
