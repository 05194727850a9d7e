"""The command `sightloop doctor`: is everything well that a run depends on?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from sightloop.cli.parse import parsed
from sightloop.doctor.findings import as_text
from sightloop.former_names import current_options
from sightloop.recipes.catalog import RECIPES
from sightloop.recipes.choices import refuse_idle
from sightloop.recipes.presets import preset_of
from sightloop.terminal import say


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Look at the computer, at every judge on images whose right caption is known, and at the rewards of a
    recipe on a few dozen samples of its policy.
    """

    recipe: str = ""
    """Recipe to look at; its settings follow as for `sightloop train`. Empty = the bundled judges."""
    preset: str = ""
    """Starting point of the recipe's settings."""
    check: tuple[str, ...] = ()
    """More rewards to look at: clip:FOLDER, itm:FOLDER, file.py:function (docs/rewards.md)."""
    json: Annotated[Path | None, tyro.conf.arg(name="output")] = None
    """Write all findings there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _WithoutRecipe(DoctorOptions):
    __doc__ = DoctorOptions.__doc__

    device: str = "auto"
    """auto (an accelerator if there is one, else the CPU), cpu, cuda, cuda:1, xpu or mps."""


def doctor_command(words: list[str]) -> None:
    """Look at everything; exit code 1 if something is wrong."""
    options, config = _chosen(words)
    from sightloop.doctor.environment import broken_libraries, environment

    if broken_libraries():
        # Nothing else can be loaded then.
        say(as_text(environment()))
        raise SystemExit(1)
    from sightloop.doctor.run import doctor as run

    device = options.device if isinstance(options, _WithoutRecipe) else config.device
    healthy = run(
        recipe=options.recipe, config=config, rewards=options.check, device=device, json=options.json
    )
    if not healthy:
        raise SystemExit(1)


def _chosen(words: list[str]) -> tuple[DoctorOptions, Any]:
    """The options, and the configuration of the recipe; its type depends on the recipe's name."""
    at = next((i for i, word in enumerate(words) if word.partition("=")[0] == "--recipe"), None)
    if at is None:
        return parsed(_WithoutRecipe, args=words, prog="sightloop doctor"), None
    name = words[at].partition("=")[2] or "".join(words[at + 1 : at + 2])
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} does not exist; there are: {', '.join(RECIPES)}")
    recipe, words = RECIPES[name], current_options("doctor", words)
    preset = preset_of(recipe.presets, words)
    flat = tyro.conf.arg(name="")
    fields: list[Any] = [
        ("options", Annotated[DoctorOptions, flat], DoctorOptions(recipe=name, preset=preset)),
        ("settings", Annotated[recipe.config, flat], recipe.presets[preset]),
    ]
    command = dataclasses.make_dataclass("Doctor", fields, frozen=True, kw_only=True)
    chosen: Any = parsed(command, args=words, prog=f"sightloop doctor --recipe {name}")
    refuse_idle(chosen.settings, recipe.config.choices, starts=[recipe.presets[preset]])
    return chosen.options, chosen.settings
