"""Checks every annotated call of the package while the tests run: shapes, dtypes and protocols."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, runtime_checkable

from beartype import beartype


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its arguments and its result checked at every call.

    beartype refuses protocols that are not runtime checkable, so those its module knows are made so first.
    The package itself keeps them static: an `isinstance` against a protocol in library code would be probing.
    """
    for value in list(vars(sys.modules[function.__module__]).values()):
        if isinstance(value, type) and value.__dict__.get("_is_protocol", False):
            runtime_checkable(value)
    return beartype(function)
