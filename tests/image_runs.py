"""Run folders of models that draw and answer, as training leaves them, without the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sightloop.recipes.config_json import config_to_json
from sightloop.recipes.unirl.build import load_policy
from sightloop.recipes.unirl.config import GRPO_SHAPES, GRPO_SHAPES_JANUS, GrpoConfig
from sightloop.training.checkpoint import Saveable, name_best, write_checkpoint
from sightloop.training.run_files import Run

STARTS: dict[str, GrpoConfig] = {"show-o": GRPO_SHAPES, "janus": GRPO_SHAPES_JANUS}


class Nowhere:
    """A stream that stands nowhere."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to go back to."""


def made_run(
    folder: Path, config: GrpoConfig, *, steps: tuple[int, ...] = (2,), spread: float = 0.05
) -> Path:
    """A run whose trained weights moved at random in every step; the first step is the best."""
    run = Run.create(
        folder, recipe="unirl-grpo", config=config_to_json(config), schedule=config.schedule, track=()
    )
    run.close()
    (folder / "metrics.jsonl").touch()
    policy = load_policy(config, torch.device("cpu"))
    part = policy.trainable_module()
    optimizer = torch.optim.SGD(part.parameters(), lr=0.1)
    torch.manual_seed(5)
    for step in steps:
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.add_(torch.randn_like(parameter) * spread)
        what = Saveable(trainable={"policy": part}, optimizer=optimizer, batches=Nowhere())
        write_checkpoint(folder / "checkpoints", step, what)
    name_best(folder / "checkpoints", steps[0])
    return folder
