"""The examples run: scripts and notebooks as they are, but for fewer steps and images."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sightloop
from sightloop.world.bundled import WEIGHTS
from sightloop.world.image_folder import write_images

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SCRIPTS = {
    "own_reward.py": ["--steps", "1"],
    "compare_algorithms.py": ["--steps", "1", "--batch", "4", "--held-out", "8", "--algorithms", "a2c"],
    "stream_a_data_set.py": ["--steps", "1"],
    "drawings_before_and_after.py": ["--steps", "1", "--number", "1"],
}
FEWER: dict[str, dict[str, Any]] = {
    "vlrm": {"batch": 8, "micro_batch": 8, "steps": 1, "eval_every": 1},
    "unirl-grpo": {"batch": 2, "group": 2, "steps": 1, "eval_every": 1, "joint": {"per_category": 4}},
}
"""What makes a run of an example short enough for a test."""


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of one step on few images, in a folder of their own."""
    train: Callable[..., Any] = sightloop.train
    images = str(write_images(tmp_path / "few", number=8, seed=0))
    given: dict[str, Any] = {
        "preset": "shapes",
        "model": str(WEIGHTS / "captioner"),
        "judge": str(WEIGHTS / "judge"),
        "images": images,
        "held_out": {"images": images, "clip": str(WEIGHTS / "clip")},
    }

    def short_run(recipe: str, **settings: Any) -> Any:
        own = given if recipe == "vlrm" and "images" not in settings else {}
        return train(recipe, **{**settings, **own, **FEWER[recipe]})

    monkeypatch.setattr(sightloop, "train", short_run)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, *SCRIPTS[name]])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", ["captioner.ipynb", "unified_model.ipynb"])
def test_a_notebook_runs(name: str) -> None:
    cells = json.loads((EXAMPLES / name).read_text())["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert not cell["outputs"] and cell["execution_count"] is None, (
                "notebooks are kept without outputs"
            )
            exec(compile("".join(cell["source"]), f"{name}, {cell['id']}", "exec"), names)
    assert isinstance(names["run"], sightloop.TrainingRun)


def test_every_example_is_tested() -> None:
    found = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert found == {*SCRIPTS, "captioner.ipynb", "unified_model.ipynb"}


def test_the_slurm_script_is_sound() -> None:
    subprocess.run(["bash", "-n", str(EXAMPLES / "slurm.sbatch")], check=True)
