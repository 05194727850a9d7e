"""A captioner whose frozen weights are spread over two processes learns what one process learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from models import tiny_captioners
from models.damaged_folders import pictures
from recipes.unirl_runs import figures, weights_of

from sightloop.cli import main
from sightloop.world.bundled import WEIGHTS

HERE = Path(__file__).resolve().parent
# Rows end at different tokens, so ranks that did not wait for each other would hang.
SMALL = ["--steps", "2", "--save-every", "2", "--batch", "4", "--micro-batch", "1", "--dtype", "float32"]
SMALL += ["--draw.max-tokens", "8", "--draw.temperature", "2", "--device", "cpu"]
WAYS = {
    "from its parts": [],
    "as a whole": ["--captioner.no-reuse-features", "--gradient-checkpointing"],
}


def words(place: Path, way: str, run: Path) -> list[str]:
    """A command line that trains a tiny LLaVA of its own on images of its own."""
    shown = str(place / "pictures")
    return [
        "train", "vlrm", "--preset", "shapes", "--run", str(run), "--model", str(place / "llava"),
        "--data.images", shown, "--held-out.images", shown, "--held-out.clip", str(WEIGHTS / "clip"),
        "--judge.model", str(WEIGHTS / "judge"), *SMALL, *WAYS[way],
    ]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the model and the images lie, and what two ranks made of each way."""
    place = tmp_path_factory.mktemp("sharded")
    tiny_captioners.llava(place / "llava")
    pictures(place, 4)
    lines = [[*words(place, way, place / way), "--shard"] for way in WAYS]
    (place / "words.json").write_text(json.dumps(lines))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(HERE / "two_ranks.py"), str(place / "words.json")],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return place


@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_with_sharded_weights_learn_what_one_learns(way: str, place: Path, tmp_path: Path) -> None:
    main(words(place, way, tmp_path / "one"))
    alone, together = figures(tmp_path / "one"), figures(place / way)
    assert len(alone) == len(together)
    for mine, theirs in zip(alone, together, strict=True):
        assert mine.pop("kind") == theirs.pop("kind")
        assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-5)
    one, two = weights_of(tmp_path / "one", 2), weights_of(place / way, 2)
    assert set(one) == set(two)
    for name, value in one.items():
        # Adam turns the rounding of a gradient near 0 into a step of its own: a few numbers may differ.
        assert float((two[name] - value).abs().mean()) < 1e-6, name
