"""One real training step under a profile: which files of the package run, and how deep its own calls go."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path, PurePath
from types import FrameType
from typing import Any

import sightloop
from sightloop.recipes.catalog import RECIPES
from sightloop.recipes.config_json import config_to_json
from sightloop.training.heap import giving_back
from sightloop.training.loop import train
from sightloop.training.run_files import Run

PACKAGE = str(Path(sightloop.__file__).parent)


@dataclass(kw_only=True)
class Profile:
    """From one batch to the next: calls of own functions by file, and the most that were open at once."""

    calls: Counter[str] = field(default_factory=Counter[str])
    depth: int = 0

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """One event of the interpreter."""
        if event != "call" or not _is_own(frame):
            return
        self.calls[str(PurePath(frame.f_code.co_filename).relative_to(PACKAGE))] += 1
        open_now, above = 0, frame
        while above is not None:
            open_now += _is_own(above)
            above = above.f_back
        self.depth = max(self.depth, open_now)

    @property
    def folders(self) -> Counter[str]:
        """How many files ran, by their first folder; files outside folders by their name."""
        return Counter(PurePath(file).parts[0] for file in self.calls)


def _is_own(frame: FrameType) -> bool:
    # What a comprehension calls is a frame in some versions of Python and none in others.
    return frame.f_code.co_filename.startswith(PACKAGE) and not frame.f_code.co_name.startswith("<")


class Watched:
    """Batches that profile the second step: what happens from the second batch to the third."""

    def __init__(self, inner: Any, profile: Profile) -> None:
        self.inner, self.profile, self.given = inner, profile, 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self.inner:
            self.given += 1
            # Reading the next batch is no part of a step: it may happen beside it.
            sys.setprofile(self.profile if self.given == 2 else None)
            yield batch
            sys.setprofile(None)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands."""
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put it there."""
        self.inner.load_state_dict(state)


def profiled_step(recipe: str, config: Any, folder: Path) -> Profile:
    """The second step of a run of this recipe, without evaluation and gallery."""
    rare = replace(config.schedule, steps=3, save_every=9, eval_every=9, sample_every=9, best_metric=None)
    config, profile = replace(config, schedule=rare), Profile()
    saved = config_to_json(config)
    run = Run.create(folder, recipe=recipe, config=saved, schedule=rare)
    experiment = import_module(RECIPES[recipe].builder).build(config, folder)
    watched = replace(experiment, batches=Watched(experiment.batches, profile), evaluators={})
    try:
        train(giving_back(watched), run)
    finally:
        sys.setprofile(None)
        run.close()
    return profile
