"""What all kinds of cards share: the image with its name, and which cards are shown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from sightloop.report.markup import Markup, element
from sightloop.report.run import RunRecords, run_image

MORE = 6_000_000
"""Bytes of cards that wait to be asked for, in one place of a page."""


def spread(items: Sequence[int], limit: int) -> list[int]:
    """At most `limit` items, evenly spaced, the first and the last among them; of one, the last.

    >>> spread([0, 1, 2, 3, 4, 5, 6], limit=3)
    [0, 3, 6]
    """
    if len(items) <= limit:
        return list(items)
    if limit == 1:
        return [items[-1]]
    return [items[round(index * (len(items) - 1) / (limit - 1))] for index in range(limit)]


def value_at(values: Sequence[float], index: int) -> float:
    """One value; NaN beyond the end."""
    return values[index] if index < len(values) else math.nan


def image_of(run: RunRecords, image: str, alt: str) -> Markup:
    """The image at `image` in the run folder, or a place that says there is none."""
    picture = run_image(run, image)
    if picture is None:
        return element("div", "no image stored", class_="missing")
    return element("img", class_="picture tiny" if picture.is_tiny else "picture", src=picture.uri, alt=alt)


def more_cards(cards: Iterator[Markup], number: int, *, kind: str = "cards", room: int = MORE) -> Markup:
    """As many of `number` cards as there is room for; a browser makes them when they are asked for."""
    taken: list[Markup] = []
    for card in cards:
        room -= len(card)
        if room < 0:
            break
        taken.append(card)
    if not taken:
        return Markup("")
    left = number - len(taken)
    others = f"; {left:,} others are in `sightloop view`" if left else ""
    return element(
        "details",
        element("summary", f"Show {len(taken):,} more{others}"),
        element("template", element("div", *taken, class_=kind)),
        class_="more",
    )


def with_image(run: RunRecords, source: str, image: str, body: Sequence[str]) -> Markup:
    """A card: the image and its name on the left, the body on the right."""
    name = source.replace("\\", "/").rsplit("/", 1)[-1] or "unnamed image"
    side = image_of(run, image, f"The captioned image, {name}")
    below = element("p", name, class_="source", title=source)
    return element(
        "article", element("div", side, below, class_="side"), element("div", *body), class_="card"
    )
