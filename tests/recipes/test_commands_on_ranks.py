"""Ranks share the work of commands that caption, draw, ask and evaluate; they write what one process does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sightloop.cli import main
from sightloop.world.bundled import WEIGHTS
from sightloop.world.image_folder import write_images

HERE = Path(__file__).resolve().parent
MODEL = ["--model", str(WEIGHTS / "captioner")]
SHORT = [*MODEL, "--beams", "2", "--max-tokens", "4", "--min-tokens", "1", "--device", "cpu"]


def commands(place: Path, out: Path) -> dict[str, list[str]]:
    """Each writes into a folder of its own, so that all may run in any order."""
    pictures, drawn = str(place / "pics"), ["--device", "cpu", "--rounds", "2"]
    return {
        "caption": ["caption", pictures, *SHORT, "--output", str(out / "captions.jsonl")],
        "told": ["caption", str(place / "pics" / "00000.png"), *SHORT],
        "recall": [
            *("evaluate", "clip-recall", "--images", pictures, *SHORT, "--on-broken", "leave-out"),
            *("--clip", str(WEIGHTS / "clip")),
            *("--output", str(out / "recall.json")),
        ],
        "draw": [
            *("draw", "--prompt-file", str(place / "prompts"), "--per-prompt", "5", *drawn),
            *("--output", str(out / "drawings")),
        ],
        "ask": [
            *("ask", str(place / "pics" / "00000.png"), "--question-file", str(place / "questions")),
            *("--max-tokens", "4", "--device", "cpu", "--output", str(out / "answers.jsonl")),
        ],
        "geneval": [
            *("evaluate", "geneval", "--images", str(out / "geneval"), "--detector", "shapes"),
            *("--model", "shapes", "--prompt-file", "shapes", "--per-prompt", "1", *drawn),
        ],
        "joint": [
            *("evaluate", "joint", "--per-category", "1", "--device", "cpu", "--max-tokens", "4"),
            *("--output", str(out / "joint.json"), "--image-dir", str(out / "sheets")),
        ],
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where images, prompts and questions lie."""
    place = tmp_path_factory.mktemp("shared")
    write_images(place / "pics", number=36, seed=3)
    # In the second of two batches, which rank 1 reads.
    (place / "pics" / "00034.png").write_bytes(b"no image")
    (place / "prompts").write_text("a red circle\na blue square\n")
    (place / "questions").write_text("\n".join(["is there a circle?", "is there a square?"] * 9))
    return place


@pytest.fixture(scope="module")
def together(place: Path) -> dict[str, dict[str, Any]]:
    """How each command ended on two ranks."""
    cases = {name: {"words": words} for name, words in commands(place, place / "two").items()}
    cases["stops"] = {"words": ["caption", str(place / "pics"), *SHORT, "--on-broken", "stop"]}
    cases["report"] = {"words": ["report", str(place / "nothing")]}
    file = place / "said" / "cases.json"
    file.parent.mkdir()
    file.write_text(json.dumps(cases))
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "forked_ranks.py"), str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(file.with_suffix(".found").read_text())


@pytest.mark.parametrize("name", commands(Path(), Path()))
def test_two_ranks_write_what_one_process_writes(
    name: str, place: Path, together: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    alone = place / "one"
    before = set(files_of(alone))
    main(commands(place, alone)[name])
    said = capsys.readouterr()
    found = together[name]
    assert found["codes"] == [0, 0], found
    assert found["out_0"] == said.out.replace(str(alone), str(place / "two"))
    assert (found["out_1"], found["err_1"]) == ("", "")
    written = set(files_of(alone)) - before
    assert written or name == "told"
    for file in written:
        one, two = (folder / file for folder in (alone, place / "two"))
        assert two.read_bytes() == one.read_bytes().replace(str(alone).encode(), str(place / "two").encode())


def files_of(folder: Path) -> list[Path]:
    return [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]


def test_what_only_one_rank_reads_ends_all_with_its_name(together: dict[str, dict[str, Any]]) -> None:
    found = together["stops"]
    assert 0 not in found["codes"]
    told = [line for line in found["err_0"].splitlines() if line.startswith("sightloop: ")]
    assert len(told) == 1 and told[0].startswith("sightloop: rank 1: broken image")
    assert "00034.png" in told[0] and "sightloop: " not in found["err_1"]


def test_a_command_without_shared_work_is_done_by_one(together: dict[str, dict[str, Any]]) -> None:
    found = together["report"]
    assert found["codes"][1] == 0 and found["codes"][0] != 0
    assert found["err_1"] == "" and "nothing" in found["err_0"]
