"""One protocol of CLIP Recall: equal hashes in training and by command if all is equal that it needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from models.damaged_folders import change_tensors, copy_of, pictures, refusal

from sightloop.cli import main
from sightloop.training.checkpoint import best_step
from sightloop.world.bundled import WEIGHTS

CLIP = str(WEIGHTS / "clip")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and a run that was evaluated on them."""
    folder = tmp_path_factory.mktemp("place")
    shown = pictures(folder, number=4)
    main(
        ["train", "vlrm", "--preset", "shapes", "--images", str(shown), "--run", str(folder / "run"),
         "--steps", "1", "--batch", "4", "--model", str(WEIGHTS / "captioner"), "--dtype", "bfloat16",
         "--judge.model", str(WEIGHTS / "judge"), "--held-out.images", str(shown), "--held-out.clip", CLIP,
         "--held-out.beams", "3", "--held-out.fit", "squash"]
    )  # fmt: skip
    return folder


def by_command(place: Path, model: str, *words: str, shown: str = "") -> dict[str, Any]:
    """What `evaluate clip-recall` writes of a model."""
    output = place / "recall.json"
    images = shown or str(place / "pictures")
    main(["evaluate", "clip-recall", "--model", model, "--images", images, "--output", str(output), *words])
    return json.loads(output.read_text())


def test_a_run_measured_by_command_has_the_protocol_and_figures_of_training(place: Path) -> None:
    step = best_step(place / "run" / "checkpoints")
    files = sorted((place / "run" / "evaluations").glob("*.json"))
    trained = next(given for given in map(_read, files) if given["step"] == step)
    found = by_command(place, str(place / "run"))
    assert found["protocol"] == trained["protocol"]
    assert found["metrics"]["recall@1"] == trained["metrics"]["recall@1"]
    moved = shutil.copytree(place / "pictures", place / "elsewhere", dirs_exist_ok=True)
    assert by_command(place, str(place / "run"), shown=str(moved))["protocol"] == trained["protocol"]


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())


def test_whatever_changes_the_figures_changes_the_hash(place: Path, tmp_path: Path) -> None:
    run = str(place / "run")
    others = pictures(tmp_path, number=4)
    (others / "0.png").write_bytes((others / "1.png").read_bytes())
    clip = copy_of("clip", tmp_path)
    change_tensors(clip, lambda tensors: tensors["text_model.encoder.layers.0.layer_norm1.bias"].add_(0.5))
    ways: dict[str, tuple[str, ...]] = {
        "as it was evaluated": (),
        "beams": ("--beams", "2"),
        "n-grams": ("--no-repeat-ngram", "3"),
        "fewest tokens": ("--min-tokens", "5"),
        "most tokens": ("--max-tokens", "9"),
        "prompt": ("--prompt", "a"),
        "precision": ("--dtype", "float32"),
        "CLIP": ("--clip", str(clip)),
        "ties": ("--ties", "expected"),
        "fewer images": ("--limit", "3"),
    }
    hashes = {way: by_command(place, run, *words)["protocol"]["hash"] for way, words in ways.items()}
    hashes["other images"] = by_command(place, run, shown=str(others))["protocol"]["hash"]
    assert len(set(hashes.values())) == len(hashes), hashes


def test_a_model_and_a_run_of_it_compare_in_one_precision(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = ("--clip", CLIP, "--beams", "3", "--no-repeat-ngram", "2", "--min-tokens", "4")
    model = by_command(place, str(WEIGHTS / "captioner"), *rules, "--dtype", "bfloat16")["protocol"]
    assert (model["captioner_dtype"], model["fit"]) == ("bfloat16", "crop")
    plain = by_command(place, str(WEIGHTS / "captioner"), *rules)["protocol"]
    assert plain["captioner_dtype"] == "float32" and plain["hash"] != model["hash"]
    told = refusal(
        capsys, "evaluate", "clip-recall", "--captions", str(place / "captions.jsonl"), "--dtype", "float32",
        "--clip", CLIP,
    )  # fmt: skip
    assert "--dtype float32 is of a captioner" in told
