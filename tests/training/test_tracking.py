"""Optional trackers: absent ones say what to install; present ones get figures, tables, alarms, the page."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sources import ROOT

from sightloop.training.tracking import (
    TrackedAs,
    Tracker,
    Trackers,
    require_trackers,
    start_trackers,
    tracked_as,
)
from sightloop.types import Evaluation

SAMPLE: dict[str, Any] = {
    "source": "cat.png", "image": "images/a.png", "pieces": ["a", " cat", ""], "credit": [0.5, -1.0, 0.0],
    "rewards": [0.0, 0.0, 2.0], "parts": {"similarity": 2.0}, "ended": True,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder with one image."""
    (tmp_path / "run" / "images").mkdir(parents=True)
    Image.fromarray(np.full((8, 8, 3), 200, dtype=np.uint8)).save(tmp_path / "run" / "images" / "a.png")
    return tmp_path / "run"


def told(names: list[Tracker], folder: Path) -> None:
    """A run of two steps with a gallery, an evaluation, an alarm and a page."""
    (folder / "report.html").write_text("<p>page</p>")
    trackers = Trackers(start_trackers(names, folder, {"seed": 1}), folder)
    trackers.write({"reward/total": 2.0}, 1)
    trackers.write({"reward/total": 3.0}, 2)
    trackers.gallery(2, [SAMPLE])
    found = Evaluation(
        metrics={"recall@1": 0.5},
        per_sample={"recall@1": [0.0, 1.0]},
        samples=[{"source": "cat.png", "caption": "a cat"}] * 2,
        protocol={},
    )
    stored = [{"source": "cat.png", "caption": "a cat", "image": "images/a.png"}] * 2
    trackers.evaluation("held_out", 2, stored, found)
    trackers.alarm("no end", "7% did not end", 2)
    trackers.publish(lambda run: run / "report.html")
    trackers.close()


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_tracker_that_is_not_installed_names_the_extra(name: Tracker, tmp_path: Path) -> None:
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed here")
    with pytest.raises(ValueError, match=rf"--track {name}: .*{name}.*; pip install 'sightloop\[track\]'"):
        start_trackers([name], tmp_path, {})


def test_tensorboard_gets_figures_tables_images_and_alarms(folder: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    told(["tensorboard"], folder)
    events = reader.EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward/total")] == [(1, 2.0), (2, 3.0)]
    texts = {
        tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]
    }
    assert "a(+0.50) cat(-1.00)" in texts["samples/text_summary"]
    assert "| recall@1 | 0.5 | 0 | 1 |" in texts["held_out/figures/text_summary"]
    assert texts["alarms/no end/text_summary"] == "7% did not end"
    assert len(events.Images("held_out/samples")) == 1 and len(events.Images("samples")) == 1


@pytest.mark.filterwarnings("ignore")
def test_wandb_gets_tables_images_and_the_page_under_one_id(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed here")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(folder.parent / "data"))
    with tracked_as(TrackedAs(project="mine", group="first", tags=("small",))):
        told(["wandb"], folder)
    kept = json.loads((folder / "tracking.json").read_text())
    assert (kept["project"], kept["group"], kept["tags"]) == ("mine", "first", ["small"])
    assert len(list(folder.rglob("*.table.json"))) == 3
    # Images of tables and the page travel as artifacts.
    sent = [path.read_bytes() for path in (folder.parent / "data").rglob("*") if path.is_file()]
    assert b"<p>page</p>" in sent and any(content.startswith(b"\x89PNG") for content in sent)
    moved = folder.rename(folder.parent / "elsewhere")
    told(["wandb"], moved)
    runs = [path.name.rsplit("-", 2)[-2:] for path in moved.rglob("offline-run-*") if path.is_dir()]
    assert len(runs) == 2 and runs[0] == runs[1]


def test_trackio_gets_tables_alerts_and_the_page(folder: Path) -> None:
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("trackio is not installed here")
    # It reads where to write when it is imported.
    place = folder.parent / "trackio"
    code = "import sys, pathlib, training.test_tracking as t; t.told(['trackio'], pathlib.Path(sys.argv[1]))"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    env = {**os.environ, "TRACKIO_DIR": str(place), "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", code, str(folder)], env=env, check=True, capture_output=True)
    written = b"".join(path.read_bytes() for path in place.rglob("*") if path.is_file())
    for word in (b"reward/total", b"similarity", b"7% did not end", b"recall@1", b"<p>page</p>"):
        assert word in written
    assert list(place.rglob("media/**/*.png"))


def test_a_resumed_run_keeps_its_names(folder: Path) -> None:
    pytest.importorskip("tensorboard")
    with tracked_as(TrackedAs(group="first")):
        told(["tensorboard"], folder)
    with tracked_as(TrackedAs(group="second")), pytest.raises(ValueError, match="is tracked as 'first'"):
        start_trackers(["tensorboard"], folder, {})
    told(["tensorboard"], folder)


def test_names_for_no_tracker_are_refused() -> None:
    with tracked_as(TrackedAs(tags=("a",))), pytest.raises(ValueError, match="--track-tags has no effect"):
        require_trackers([])
    require_trackers([])
