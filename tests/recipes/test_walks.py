"""How far settings travel: a walk counts the calls that are handed a configuration, for docs/architecture.md.

A stay is a call of one of the own functions that is handed the whole configuration, or the options of the
command; a room is a file with a stay; a climb is a stay in a folder that may import the caller's, so that
the walk goes up again. A method of the settings themselves is no stay: there they are at home. The check of
a whole configuration, which goes through tables row by row, is one stay; the page says of how many calls.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from types import FrameType

import pytest
from test_architecture import edge_is_allowed, unit_of

import sightloop
from sightloop.cli.evaluation_options import JointOptions
from sightloop.cli.joint import evaluator_of, models_of
from sightloop.evaluators.settings import JointSettings
from sightloop.recipes.unirl.config import GRPO_SHAPES, UniConfig
from sightloop.recipes.unirl.grpo import build

PACKAGE = Path(sightloop.__file__).parent
PREFIX = str(PACKAGE)
PAGE = PACKAGE.parent / "docs" / "architecture.md"
# Counted by hand before the configuration stopped at `build`; at most half of them may be left.
BEFORE = {"configuration of UniRL": (57, 14), "options of an evaluation": (50, 11)}


@dataclass(kw_only=True)
class Walk:
    """The stays of settings, in order."""

    kinds: tuple[type, ...]
    stays: list[str] = field(default_factory=list[str])
    climbs: list[str] = field(default_factory=list[str])
    in_check: int = 0

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """One event of the interpreter."""
        if (
            event != "call"
            or not frame.f_code.co_filename.startswith(PREFIX)
            or (module := _module(frame)) is None
        ):
            return
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        given = [frame.f_locals.get(name) for name in names]
        at_home = bool(given) and isinstance(given[0], self.kinds) and code.co_varnames[0] == "self"
        if at_home or not any(isinstance(value, self.kinds) for value in given):
            return
        if _is_checked(frame):
            self.in_check += 1
            return
        caller = _caller(frame)
        self.stays.append(f"{module}.{code.co_name}")
        ours, theirs = unit_of(module), unit_of(caller or module)
        if ours != theirs and edge_is_allowed(ours, caller or module, ""):
            below = edge_is_allowed(theirs, module, "")
            self.climbs += [] if below else [f"{caller} -> {module}.{code.co_name}"]

    @property
    def rooms(self) -> set[str]:
        """The files in which the settings stay."""
        return {stay.rpartition(".")[0] for stay in self.stays}


def _module(frame: FrameType) -> str | None:
    place = PurePath(frame.f_code.co_filename)
    if not place.is_relative_to(PACKAGE) or frame.f_code.co_name.startswith("<"):
        return None
    return ".".join(place.relative_to(PACKAGE).with_suffix("").parts)


def _caller(frame: FrameType) -> str | None:
    above = frame.f_back
    while above is not None and _module(above) is None:
        above = above.f_back
    return None if above is None else _module(above)


def _is_checked(frame: FrameType) -> bool:
    above = frame.f_back
    while above is not None and above.f_code.co_qualname != "checked":
        above = above.f_back
    return above is not None


def walked(kinds: tuple[type, ...], call: Callable[[], object]) -> Walk:
    """The walk of settings of these kinds through a call."""
    walk = Walk(kinds=kinds)
    sys.setprofile(walk)
    try:
        call()
    finally:
        sys.setprofile(None)
    return walk


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Walk]:
    place = tmp_path_factory.mktemp("walks")
    config = replace(GRPO_SHAPES, joint=replace(GRPO_SHAPES.joint, per_category=4))
    options = JointOptions(evaluation=JointSettings(per_category=4), max_tokens=2)
    return {
        "configuration of UniRL": walked((UniConfig,), lambda: build(config, place)),
        # Behind these two no function is handed a setting: the evaluator has all it needs.
        "options of an evaluation": walked(
            (JointOptions, JointSettings, UniConfig), lambda: (models_of(options), evaluator_of(options))
        ),
    }


def table_of(walks: dict[str, Walk]) -> str:
    rows = [
        ["walk of", "stays", "rooms", "climbs", "before: stays", "climbs", "calls of the check"],
        ["---"] + ["--:"] * 6,
    ]
    for name, walk in walks.items():
        counts = (len(walk.stays), len(walk.rooms), len(walk.climbs), *BEFORE[name])
        rows.append([f"the {name}", *map(str, counts), str(walk.in_check)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_settings_stop_early(walks: dict[str, Walk]) -> None:
    for name, walk in walks.items():
        stays, climbs = BEFORE[name]
        listed = "\n".join([*walk.stays, "climbs:", *walk.climbs])
        assert len(walk.stays) <= stays / 2 and len(walk.climbs) <= climbs / 2, f"{name}:\n{listed}"


def test_the_page_has_the_figures_of_the_walks(walks: dict[str, Walk]) -> None:
    wanted = table_of(walks)
    assert wanted in PAGE.read_text(encoding="utf-8"), f"write into {PAGE.name}:\n\n{wanted}\n"
