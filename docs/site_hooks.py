"""Makes pages that are read on a disk fit for the site: links that leave the documentation become text."""

from __future__ import annotations

import re
from typing import Any

_LINK = re.compile(r"\[(?P<text>[^\]\n]+)\]\((?P<target>\.\./[^)\s]*)\)")
_FENCE = re.compile(r"^(\s*```[a-z]+) (runnable|fragment)\s*$", re.MULTILINE)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The page as the site shows it.

    A file of the source tree has no page, and what a test does with a block of code is nothing to a reader.
    """
    depth = page.file.src_uri.count("/")
    return _FENCE.sub(r"\1", _LINK.sub(lambda found: _without_source(found, depth), markdown))


def _without_source(found: re.Match[str], depth: int) -> str:
    steps = found["target"].count("../")
    return found[0] if steps <= depth else found["text"]
