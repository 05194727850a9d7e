"""`sightloop demo unirl | vlrm`: a training run of minutes, without a download.

Networks are imported when a command needs them, so that help comes at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from sightloop.cli.parse import parsed
from sightloop.terminal import say


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnirlDemo:
    """A tiny model draws, asks itself about its drawings and learns from its answers; minutes on a laptop."""

    world_model: Literal["show-o", "janus"] = "show-o"
    """Which of the embedded world's models."""
    run: Path = Path("runs/demo-unirl")
    """Run folder; an older run there is replaced."""
    device: str = "auto"
    """auto (an accelerator if there is one, else the CPU), cpu, cuda, cuda:1, xpu or mps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VlrmDemo:
    """A tiny captioner learns from what an image-text matcher sees; minutes on a laptop."""

    run: Path = Path("runs/demo-vlrm")
    """Run folder; an older run there is replaced."""
    device: str = "auto"
    """auto (an accelerator if there is one, else the CPU), cpu, cuda, cuda:1, xpu or mps."""


DEMOS: dict[str, type[Any]] = {"unirl": UnirlDemo, "vlrm": VlrmDemo}


def run_demo(words: list[str], show_report: Callable[[Path], None]) -> None:
    """Train, print the table before and after, and tell where the report and the images are."""
    options = parsed(DEMOS[words[0]], args=words[1:], prog=f"sightloop demo {words[0]}")
    from sightloop.cli import demo_run as recipe

    is_unirl = isinstance(options, UnirlDemo)
    config = recipe.demo_config("unirl", options.world_model) if is_unirl else recipe.demo_config("vlrm")
    config = dataclasses.replace(config, device=options.device)
    if recipe.train_demo("unirl" if is_unirl else "vlrm", config, options.run):
        return
    show_report(options.run)
    if is_unirl:
        say(f"images before and after: {recipe.before_after_sheet(options.run)}")
