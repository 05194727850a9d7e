"""HTML and SVG as nested calls: whatever is not markup already is escaped, so no caption can become code."""

from __future__ import annotations

import html
from collections.abc import Iterable

_VOID = frozenset({"img", "meta", "link", "br", "hr", "input"})


class Markup(str):
    """Text that is HTML already; every other string is escaped on its way into an element."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: str | float | bool | None) -> Markup:
    """One element: `class_` gives `class`, underscores give hyphens, None and False leave an attribute out.

    >>> element("p", "1 < 2", class_="note")
    '<p class="note">1 &lt; 2</p>'
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{together(children)}</{name}>")


def together(parts: Iterable[str]) -> Markup:
    """The parts in a row, plain strings escaped."""
    return Markup("".join(part if isinstance(part, Markup) else html.escape(part) for part in parts))


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {name}="{html.escape(text)}"'
