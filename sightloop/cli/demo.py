"""`sightloop demo unirl | vlrm`: a training run of minutes, without a download.

Networks are imported when a command needs them, so that help comes at once.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from sightloop.cli.parse import parsed
from sightloop.ranges import Count, Seed, require_ranges
from sightloop.terminal import say


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo:
    """What every demonstration is asked."""

    run: Path | None = None
    """Run folder; default runs/demo-NAME, or runs/demo-NAME-2 and so on where that is taken."""
    steps: Count | None = None
    """Steps of training; None = those of the demonstration."""
    seed: Seed = 0
    """Everything random follows from it."""
    device: str = "auto"
    """auto (an accelerator if there is one, else the CPU), cpu, cuda, cuda:1, xpu or mps."""

    def __post_init__(self) -> None:
        require_ranges(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnirlDemo(Demo):
    """A tiny model draws, asks itself about its drawings and learns from its answers; minutes on a laptop."""

    world_model: Literal["show-o", "janus"] = "show-o"
    """Which of the embedded world's models."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VlrmDemo(Demo):
    """A tiny captioner learns from what an image-text matcher sees; minutes on a laptop."""


DEMOS: dict[str, type[Any]] = {"unirl": UnirlDemo, "vlrm": VlrmDemo}


def run_demo(words: list[str], show_report: Callable[[Path], None]) -> None:
    """Train, print the table before and after, and tell where the report and the images are."""
    options = parsed(DEMOS[words[0]], args=words[1:], prog=f"sightloop demo {words[0]}")
    from sightloop.cli import demo_run as recipe

    is_unirl = isinstance(options, UnirlDemo)
    name: Literal["unirl", "vlrm"] = "unirl" if is_unirl else "vlrm"
    world_model = options.world_model if is_unirl else "show-o"
    config = recipe.demo_config(name, world_model, steps=options.steps, seed=options.seed)
    config = dataclasses.replace(config, device=options.device)
    folder = options.run or free_folder(Path("runs") / f"demo-{name}")
    minutes = recipe.minutes(name, world_model, config.schedule.steps)
    say(
        f"{config.schedule.steps} steps, about {minutes} minutes on a core of a laptop, fewer on several; "
        f"run folder {folder}"
    )
    if recipe.train_demo(name, config, folder):
        return
    if is_unirl:
        say(f"images before and after: {recipe.before_after_sheet(folder)}")
    # Its last line opens the page.
    show_report(folder)


def free_folder(wanted: Path) -> Path:
    """The folder, or the first of those numbered from 2 on that is not there yet."""
    numbered = (wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(2))
    return next(place for place in itertools.chain([wanted], numbered) if not place.exists())
