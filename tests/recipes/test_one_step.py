"""What runs in one step, counted by a profile: the figures of docs/architecture.md, and what must not run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recipes.one_step import Profile, profiled_step

from sightloop.recipes.catalog import RECIPES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
STEPS = {
    "VLRM": ("vlrm", "shapes"),
    "Show-o": ("unirl-grpo", "shapes"),
    "Janus": ("unirl-grpo", "shapes-janus"),
}


def small(recipe: str, preset: str) -> Any:
    """A preset of the embedded world with few samples a step."""
    config = RECIPES[recipe].presets[preset]
    schedule = replace(config.schedule, micro_batch=4)
    if recipe == "vlrm":
        return replace(config, batch=8, schedule=schedule)
    return replace(config, batch=2, group=2, schedule=schedule)


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Profile]:
    """One step of each recipe."""
    place = tmp_path_factory.mktemp("steps")
    return {name: profiled_step(of[0], small(*of), place / name) for name, of in STEPS.items()}


def table_of(profiles: dict[str, Profile]) -> str:
    """The figures as the page has them."""
    folders = sorted({folder for profile in profiles.values() for folder in profile.folders})
    rows = [["files that run, of", *profiles], ["---"] + ["--:"] * len(profiles)]
    rows += [[f"`{folder}`", *(str(p.folders[folder]) for p in profiles.values())] for folder in folders]
    rows.append(["together", *(str(len(profile.calls)) for profile in profiles.values())])
    rows.append(["calls deep", *(str(profile.depth) for profile in profiles.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_the_page_has_the_figures_of_a_step(profiles: dict[str, Profile]) -> None:
    wanted = table_of(profiles)
    assert wanted in PAGE.read_text(encoding="utf-8"), f"write into {PAGE.name}:\n\n{wanted}\n"


def test_a_step_calls_nothing_of_a_recipe(profiles: dict[str, Profile]) -> None:
    called = {name: [file for file in p.calls if file.startswith("recipes")] for name, p in profiles.items()}
    assert called == {name: [] for name in STEPS}


def test_a_step_of_captions_meets_nothing_of_drawings(profiles: dict[str, Profile]) -> None:
    met = profiles["VLRM"].calls.keys()
    assert "training/loop.py" in met
    assert not met & {"training/turn_gradients.py", "rollouts/quiz.py", "algorithms/turn_objectives.py"}
