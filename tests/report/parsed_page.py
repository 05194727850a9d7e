"""Reads a written report as a browser would: elements with their attributes, and the text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from sightloop.report.page import write_report

VOID = {"img", "meta", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """A parsed page: every element with its attributes, and the text. All tags must close in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag: str, class_: str = "") -> list[dict[str, str]]:
        """Attributes of all elements with this name, and this class if one is given."""
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and (not class_ or class_ in attributes.get("class", "").split())
        ]


def report(folder: Path) -> Page:
    """The parsed report of a run folder."""
    path = write_report(folder)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def section(folder: Path, anchor: str) -> str:
    """The source of one section of the page."""
    source = write_report(folder).read_text(encoding="utf-8")
    (found,) = re.findall(rf'<section id="{anchor}">(.*?)</section>', source, flags=re.DOTALL)
    return found
