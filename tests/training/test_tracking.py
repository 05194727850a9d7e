"""Optional trackers: absent ones say what to install, present ones get every figure."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from sightloop.training.tracking import Tracker, start_trackers


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_tracker_that_is_not_installed_names_the_extra(name: Tracker, tmp_path: Path) -> None:
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed here")
    with pytest.raises(ValueError, match=rf"--track {name}: .*{name}.*; pip install 'sightloop\[track\]'"):
        start_trackers([name], tmp_path, {})


def test_tensorboard_gets_every_figure(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (log,) = start_trackers(["tensorboard"], tmp_path, {"seed": 1})
    log.write({"reward/total": 2.0}, 1)
    log.write({"reward/total": 3.0}, 2)
    log.close()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward/total")] == [(1, 2.0), (2, 3.0)]
