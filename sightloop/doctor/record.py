"""Writes what the bundled judges say about the world's test images.

Run it by `python -m sightloop.doctor.record`.

To be repeated when the bundled weights are made anew.
"""

from __future__ import annotations

import json

import torch

from sightloop.doctor.models import RECORD, ModelToExamine, digest, settings_of
from sightloop.doctor.probes import world_probe
from sightloop.rewards.yes_no import YesNoJudge
from sightloop.world.bundled import WEIGHTS

BUNDLED = (
    ModelToExamine(name="judge", model=str(WEIGHTS / "judge"), kind="itm"),
    ModelToExamine(name="judge_forgiving", model=str(WEIGHTS / "judge_forgiving"), kind="itm"),
    ModelToExamine(name="judge_hackable", model=str(WEIGHTS / "judge_hackable"), kind="itm"),
    ModelToExamine(name="clip", model=str(WEIGHTS / "clip"), kind="clip"),
    ModelToExamine(name="clip_retrieval", model=str(WEIGHTS / "clip_retrieval"), kind="clip"),
)
"""The embedded world's judges."""


def write_record() -> None:
    """Load each bundled judge and write its scores."""
    entries = {}
    for one in BUNDLED:
        judge = one.load(dtype=torch.float32, device=torch.device("cpu"))
        assert not isinstance(judge, YesNoJudge)
        scores = [round(float(score), 6) for score in judge.rewards(*world_probe().pairs)]
        entries[digest(one.model)] = {"name": one.name, "settings": settings_of(judge), "scores": scores}
    RECORD.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_record()
