"""CHAIR of captions of photographs, with what a real detector sees as the truth."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from photographs import path_of, photograph
from yolox_nano import detect

from sightloop.cli import main

# Two captions a person would write, two with something that is not there: a dog, and a pizza with a fork.
CAPTIONS = {
    "chelsea.png": "A cat looks past the camera.",
    "coffee.png": "A cup of espresso on a dining table, with a pizza and a fork.",
    "motorcycle_left.png": "A red motorcycle in a garage.",
    "grace_hopper.jpg": "A woman in uniform and a dog.",
}


def test_objects_that_are_not_on_the_photograph_are_hallucinated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects: list[str] = []
    for name in CAPTIONS:
        shutil.copy(path_of(name), tmp_path)
        seen = {each["class"] for each in detect([photograph(name)])[0] if each["score"] > 0.5}
        objects.append(json.dumps({"image": name, "objects": sorted(seen)}))
    (tmp_path / "objects.jsonl").write_text("\n".join(objects))
    lines = [json.dumps({"image": name, "caption": text}) for name, text in CAPTIONS.items()]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    main(
        [
            "evaluate",
            "captions",
            str(tmp_path / "captions.jsonl"),
            "--objects",
            str(tmp_path / "objects.jsonl"),
        ]
    )
    said = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines() if len(line.split()) > 1)
    # Mentions: cat; cup, dining table, pizza, fork; motorcycle; person, dog. Three of eight are not there.
    assert float(said["chair_s"]) == 0.5
    assert float(said["chair_i"]) == pytest.approx(3 / 8, abs=1e-4)
    # There: cat; cup, dining table; motorcycle; person, tie. Only the tie is left out.
    assert float(said["object_recall"]) == pytest.approx(5 / 6, abs=1e-4)
