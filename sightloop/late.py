"""Functions of the package that are imported when they are first called.

Whoever may need one of many things, such as one family of models or one reward, imports none of them before
the choice is made. The rules of who may import whom hold for these names too.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def late(name: str) -> Callable[..., Any]:
    """The function `module:function` of the package, not imported yet.

    >>> late("sightloop.rollouts.seeds:image_seed")("a photo of a dog", 0, 0) > 0
    True
    """
    module, _, function = name.partition(":")

    def call(*values: Any, **named: Any) -> Any:
        return getattr(import_module(module), function)(*values, **named)

    return call
