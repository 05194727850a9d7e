"""The live page: the report's parts, kept as new as the files; samples to choose from; own images to try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sightloop.report.markup import Markup, element, together
from sightloop.report.page import Section, in_section, navigation, page_file, whole_page
from sightloop.report.run import RunRecords
from sightloop.terminal import printable
from sightloop.view.board import Board
from sightloop.view.samples import (
    SampleQuery,
    credited,
    pair_categories,
    pair_metrics,
    pair_steps,
    pairs,
    same,
)

_FOLDER = Path(__file__).parent
_TITLES = {
    "figures": "Held-out evaluation",
    "evaluation": "Held-out evaluation",
    "curves": "Curves",
    "sides": "Drawing and answering",
    "learning": "Further curves",
    "setup": "Setup",
    "settings": "Settings that differ",
}
_FIRST = ("figures", "evaluation", "curves", "sides")
"""What stands above the samples."""


def live_page(board: Board, place: int) -> str:
    """The page of one run, or at place -1 the comparison of several."""
    parts = board.sections(place)
    several = len(board.runs) > 1
    made = [(anchor, _TITLES[anchor], Markup(text)) for anchor, text in parts.items() if anchor != "top"]
    browsed: list[Section] = []
    if place < 0:
        browsed = [("same", "The same images", _browser("/found/-1/same", _same_fields(), _same(board)))]
    else:
        run = board.runs[place].records
        earned = "What each drawing and word earned" if run.draws else "What each word earned"
        browsed = [
            ("samples", "Before and after", _pairs(run, place)),
            ("credit", earned, _credit(run, place)),
            ("try", "Try it", _try(run, place)),
        ]
    above = [each for each in made if each[0] in _FIRST]
    sections = [*above, *browsed, *(each for each in made if each not in above)]
    main = [
        content if anchor in parts else in_section(anchor, title, content)
        for anchor, title, content in sections
    ]
    content = [
        _switch(board, place) if several else "",
        element("header", Markup(parts["top"]), id="top", class_="top"),
        navigation(sections),
        element("main", *main),
        element("footer", "This page follows the run while it goes on. ", element("span", id="live")),
        element("script", src="/page.js"),
        element("script", src="/view.js"),
    ]
    name = board.names[place] if place >= 0 else " and ".join(board.names)
    head = [element("title", name), element("link", rel="stylesheet", href="/view.css")]
    return printable(whole_page(head, content, data_place=str(place)))


def view_file(name: str) -> str:
    """A file that the page asks for: page.js and view.js, and as view.css the report's look with its own."""
    if name == "page.js":
        return page_file(name)
    own = (_FOLDER / name).read_text(encoding="utf-8")
    return page_file("page.css") + own if name == "view.css" else own


def _switch(board: Board, place: int) -> Markup:
    named = [(-1, "All runs"), *enumerate(board.names)]
    links = [
        element("a", name, href="/" if at < 0 else f"/run/{at}", aria_current="page" if at == place else None)
        for at, name in named
    ]
    return element("nav", *links, class_="switch", aria_label="Runs")


def _browser(address: str, fields: Sequence[Markup], found: Markup) -> Markup:
    """Controls, and what they find; the script asks again when one is changed."""
    one = element(
        "p", "One card. ", element("a", "Show all", href="#", class_="all"), class_="note", hidden=True
    )
    form = element("form", *fields, class_="browse", data_address=address)
    return together([form, one, element("div", found, class_="found", aria_live="polite")])


def _pairs(run: RunRecords, place: int) -> Markup:
    metrics = pair_metrics(run)
    better = "became right" if run.draws else "gained"
    worse = "became wrong" if run.draws else "lost"
    fields = [
        _slider(pair_steps(run), run.best_step),
        _choice("category", "Category", {"": "all", **pair_categories(run)}),
        _choice("metric", "By", metrics),
        _choice("change", "Show", {"": "all", "gain": better, "loss": worse, "same": "as before"}),
        _choice("sort", "Order", {"": "as evaluated", "gain": "largest gain", "loss": "largest loss"}),
        _text(),
    ]
    return _browser(f"/found/{place}/pairs", fields, pairs(run, SampleQuery()))


def _credit(run: RunRecords, place: int) -> Markup:
    steps = [step for step, samples in run.galleries.items() if samples]
    kinds = {"": "all", "gain": "made more likely", "loss": "made less likely"}
    orders = {"": "as sampled", "high": "highest reward", "low": "lowest reward"}
    fields = [
        _slider(steps, None),
        _choice("change", "Show", kinds),
        _choice("sort", "Order", orders),
        _text(),
    ]
    note = element(
        "p",
        "Samples of a training batch. Color is the credit a token received (its advantage): what the update "
        "made more or less likely. Hover a word for its numbers.",
        class_="note",
    )
    return together([note, _browser(f"/found/{place}/credit", fields, credited(run, SampleQuery()))])


def _same(board: Board) -> Markup:
    return same(board.records, SampleQuery())


def _same_fields() -> list[Markup]:
    return [_text()]


def _slider(steps: Sequence[int], usual: int | None) -> Markup:
    """A slider over the steps that there are; at the right end unless `usual` is among them."""
    if len(steps) < 2:
        return Markup("")
    at = steps.index(usual) if usual in steps else len(steps) - 1
    return element(
        "label",
        element("span", "Step "),
        element("output", f"{steps[at]:,}"),
        element(
            "input",
            type="range",
            name="step",
            min=0,
            max=len(steps) - 1,
            value=at,
            data_steps=" ".join(map(str, steps)),
        ),
        class_="slider",
    )


def _choice(name: str, title: str, offered: Mapping[str, str]) -> Markup:
    if len(offered) < 2:
        return Markup("")
    options = [element("option", text, value=value) for value, text in offered.items()]
    return element("label", element("span", title), element("select", *options, name=name))


def _text() -> Markup:
    field = element("input", type="search", name="text", placeholder="words", autocomplete="off")
    return element("label", element("span", "Text"), field)


def _try(run: RunRecords, place: int) -> Markup:
    """Own images, questions and prompts, answered by the model before training and by the trained one."""
    drop = element(
        "label",
        element("span", "Drop an image here, or choose one", class_="drop-text"),
        element("input", type="file", name="image", accept="image/*"),
        element("img", alt="your image", hidden=True),
        class_="drop",
    )
    caption = element("button", "Caption it", type="button", name="caption", class_="run")
    asked = [
        element("input", type="text", name="question", placeholder="a question about it"),
        element("button", "Ask", type="button", name="ask", class_="run"),
    ]
    drawn = [
        element("input", type="text", name="prompt", placeholder="a prompt to draw"),
        element("label", "seed ", element("input", type="number", name="seed", value="0", min="0")),
        element("button", "Draw", type="button", name="draw", class_="run"),
    ]
    note = element(
        "p",
        "The model before training and the best one of this run, side by side. Both are loaded when you "
        "first ask; while the run still trains they share its computer.",
        class_="note",
    )
    offered = [asked, drawn] if run.draws else [[caption], asked]
    rows = [element("div", *each, class_="ask") for each in offered]
    form = element(
        "form", drop, element("div", *rows, class_="asks"), class_="try", data_address=f"/try/{place}"
    )
    return together([note, form, element("div", class_="tried", aria_live="polite")])
