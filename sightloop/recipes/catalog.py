"""The recipes by name: the command line's only look-up. Building a recipe loads the networks, so it comes
last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightloop.late import late
from sightloop.recipes.config_json import config_of_run
from sightloop.recipes.rows.config import ROWS_PRESETS, RowsConfig
from sightloop.recipes.unirl.config import GRPO_PRESETS, SFT_PRESETS, GrpoConfig, SftConfig
from sightloop.recipes.vlrm.config import VLRM_PRESETS, VlrmConfig, settled
from sightloop.text_files import form_of, read_json


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A configuration class and its named starting points; the first preset is used when no policy is
    given.
    """

    does: str
    config: type[Any]
    presets: Mapping[str, Any]
    builder: str
    """Module that holds `build(config, run_folder)`."""
    to_evaluate: str
    """What a run needs to be evaluated."""
    settled: Callable[[Any], Any] = lambda config: config
    """Fills in what depends on the models that a configuration names."""


_TO_EVALUATE_DRAWINGS = (
    "that takes a judge of drawings, --joint.detector (a Mask2Former), and --joint.per-category above 0"
)

RECIPES = {
    "vlrm": Recipe(
        does="a captioner learns from what an image-text matcher sees",
        config=VlrmConfig,
        presets=VLRM_PRESETS,
        builder="sightloop.recipes.vlrm.build",
        to_evaluate="name images with --held-out.images, and the CLIP that measures with --held-out.clip",
        settled=settled,
    ),
    "grpo": Recipe(
        does="a model answers rows of images and prompts, and any rewards judge it",
        config=RowsConfig,
        presets=ROWS_PRESETS,
        builder="sightloop.recipes.rows.build",
        to_evaluate="name rows with --held-out.rows",
        settled=late("sightloop.recipes.rows.build:settled_rows"),
    ),
    "unirl-grpo": Recipe(
        does="a model that draws and answers reinforces what it sees in its own drawings",
        config=GrpoConfig,
        presets=GRPO_PRESETS,
        builder="sightloop.recipes.unirl.grpo",
        to_evaluate=_TO_EVALUATE_DRAWINGS,
    ),
    "unirl-sft": Recipe(
        does="the same model learns true answers about its own drawings",
        config=SftConfig,
        presets=SFT_PRESETS,
        builder="sightloop.recipes.unirl.sft",
        to_evaluate=_TO_EVALUATE_DRAWINGS,
    ),
}


def read_run_config(file: Path) -> tuple[str, Any]:
    """The recipe and the settings in a run's config.json.

    Raises:
        ValueError: the file is missing or damaged, or names a recipe or a setting that is not known here.
    """
    saved = read_json(file, fix="a run folder holds its config.json")
    recipe, settings = saved.get("recipe"), saved.get("config")
    if not isinstance(recipe, str) or recipe not in RECIPES:
        raise ValueError(f"{file} is no run's: it names none of the recipes {', '.join(RECIPES)}")
    if not isinstance(settings, dict):
        raise ValueError(f"{file} is no run's: its config is {settings!r}, not an object of settings")
    with form_of(str(file)):
        return recipe, config_of_run(RECIPES[recipe].config, saved)
