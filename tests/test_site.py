"""The documentation as a site: every page has its place, and links that a site cannot follow become text."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import sightloop

ROOT = Path(__file__).resolve().parent.parent
HOOKS = runpy.run_path(str(ROOT / "docs" / "site_hooks.py"))


def shown(markdown: str, *, page: str = "runs.md") -> str:
    """What the site shows of a page."""
    return HOOKS["on_page_markdown"](markdown, page=SimpleNamespace(file=SimpleNamespace(src_uri=page)))


def test_every_page_is_in_the_navigation_once() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    pages = [line.rsplit(": ", 1)[1] for line in navigation.splitlines() if line.rstrip().endswith(".md")]
    found = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(pages) == sorted(found)


def test_the_interface_page_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    assert {f"heading: sightloop.{name}" for name in sightloop.__all__ if name != "__version__"} == {
        line.strip() for line in page.splitlines() if line.strip().startswith("heading: ")
    }


def test_links_to_sources_become_text() -> None:
    assert shown("See [`types.py`](../sightloop/types.py).") == "See `types.py`."
    assert shown("See [runs](../runs.md).", page="papers/vlrm.md") == "See [runs](../runs.md)."
    assert shown("See [it](../../README.md).", page="papers/vlrm.md") == "See it."
    assert shown("See [runs](runs.md#going-on).") == "See [runs](runs.md#going-on)."


def test_what_tests_do_with_a_block_is_not_shown() -> None:
    assert shown("```python runnable\nx = 1\n```\n") == "```python\nx = 1\n```\n"
