"""`sightloop evaluate captions`, `clip-recall` and `answers` on files, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import tiny_captioners
from models.damaged_folders import change_tensors
from PIL import Image

from sightloop.cli import main
from sightloop.world.bundled import WEIGHTS

CAPTIONS = ["a red dog on a bench", "a cat", "two grey buses"]
REFERENCES = [["a dog sits on a red bench", "a dog"], ["a cat on a blue mat"], ["gray buses"]]
OBJECTS = [["dog", "bench"], ["dog"], ["bus", "person"]]


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    """A file of these lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, their captions, and the references and objects in another order."""
    rng = np.random.default_rng(0)
    for name in "abc":
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST).save(tmp_path / f"{name}.png")
    captions = [{"image": f"{name}.png", "caption": text} for name, text in zip("abc", CAPTIONS, strict=True)]
    lines(tmp_path / "captions.jsonl", *captions)
    told = [
        {"image": f"{name}.png", "caption": text}
        for name, texts in zip("abc", REFERENCES, strict=True)
        for text in texts
    ]
    lines(tmp_path / "references.jsonl", *told[::-1])
    held = [{"image": f"{name}.png", "objects": names} for name, names in zip("abc", OBJECTS, strict=True)]
    lines(tmp_path / "objects.jsonl", *held[::-1])
    return tmp_path


def measured(
    folder: Path, *more: str, kind: str = "captions", file: str = "captions.jsonl"
) -> dict[str, Any]:
    """What a command writes."""
    given = ["--captions", str(folder / file)] if kind == "clip-recall" else [str(folder / file)]
    main(["evaluate", kind, *given, *more, "--output", str(folder / "out.json")])
    return json.loads((folder / "out.json").read_text())


def mistake(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line about a mistake."""
    with pytest.raises(SystemExit) as end:
        main(["evaluate", *words])
    *before, told = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2 and told.startswith("sightloop: "), told
    assert not before
    return told


def test_captions_are_measured_against_references_and_objects_in_any_order(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--references", str(folder / "references.jsonl"), "--objects", str(folder / "objects.jsonl")]
    found = measured(folder, *more)
    told = capsys.readouterr().out
    assert {"cider_d", "rouge_l", "bleu_4", "color_coverage"} <= set(found["metrics"])
    # Named: red and grey (spelt gray); not named: blue.
    assert found["metrics"]["color_coverage"] == pytest.approx(2 / 3)
    # The cat is in its reference, so nothing is wrong; a person is missed, and the dog of the second.
    assert found["metrics"]["chair_s"] == 0
    assert found["metrics"]["object_recall"] == pytest.approx(4 / 6)
    assert "rouge_l" in told and "chair_s" in told and "hash: " in told
    alone = measured(folder, *more[2:])
    assert alone["per_sample"]["chair_s"] == [0, 1, 0]
    # Another order of the captions gives the same figures.
    rows = (folder / "captions.jsonl").read_text().splitlines()
    (folder / "turned.jsonl").write_text("\n".join(rows[::-1]))
    turned = measured(folder, *more, file="turned.jsonl")
    assert turned["metrics"] == pytest.approx(found["metrics"])
    assert turned["per_sample"]["rouge_l"] == found["per_sample"]["rouge_l"][::-1]


def test_clipscore_comes_with_a_clip_model(folder: Path) -> None:
    clip = ["--clip", str(WEIGHTS / "clip")]
    found = measured(folder, *clip)
    assert 0 <= found["metrics"]["clip_score"] <= 2.5 and "ref_clip_score" not in found["metrics"]
    assert found["protocol"]["encoder"] == "clip"
    more = measured(folder, *clip, "--references", str(folder / "references.jsonl"))
    assert more["metrics"]["clip_score"] == pytest.approx(found["metrics"]["clip_score"])
    assert "ref_clip_score" in more["metrics"]


def test_empty_captions_are_refused_unless_they_are_meant(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = lines(
        folder / "empty.jsonl",
        {"image": "a.png", "caption": "a red square"},
        {"image": "b.png", "caption": " "},
    )
    for words in (["captions", str(file)], ["clip-recall", "--captions", str(file)]):
        told = mistake(capsys, *words)
        assert "1 of 2 captions are empty, the first is that of" in told and "b.png" in told
        assert "--allow-empty" in told
    assert measured(folder, "--allow-empty", file="empty.jsonl")["metrics"]["length"] == 1.5
    clip = ["--clip", str(WEIGHTS / "clip")]
    recall = measured(folder, "--allow-empty", *clip, kind="clip-recall", file="empty.jsonl")
    assert recall["protocol"]["captions"] == "2"
    nothing = lines(folder / "nothing.jsonl", {"image": "a.png", "caption": ""})
    assert "all 1 captions are empty" in mistake(capsys, "captions", str(nothing), "--allow-empty")


def test_empty_captions_that_a_model_writes_are_refused_too(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # All logits are equal: the likeliest token is the first one, which spells nothing.
    model = tiny_captioners.llava(tmp_path / "silent")

    def silenced(tensors: dict[str, Any]) -> None:
        (norm,) = [value for name, value in tensors.items() if name.endswith(".norm.weight")]
        norm.zero_()

    change_tensors(model, silenced)
    words = ["clip-recall", "--model", str(model), "--images", str(folder), "--clip", str(WEIGHTS / "clip")]
    words += ["--beams", "1", "--no-repeat-ngram", "0", "--min-tokens", "1", "--max-tokens", "4"]
    capsys.readouterr()
    told = mistake(capsys, *words)
    assert "captions are empty; there is nothing to measure" in told
    assert "captions are empty" in mistake(capsys, *words, "--allow-empty")


def test_captions_that_do_not_fit_the_images_are_refused_by_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = lines(folder / "other.jsonl", {"image": "d.png", "caption": "a cat"})
    assert "d.png is missing; paths in a captions file" in mistake(capsys, "captions", str(other))
    captions = str(folder / "captions.jsonl")
    few = lines(folder / "few.jsonl", {"image": "a.png", "caption": "a dog"})
    told = mistake(capsys, "captions", captions, "--references", str(few))
    assert "has no reference for 2 images, the first is" in told
    held = lines(folder / "few_objects.jsonl", {"image": "a.png", "objects": []})
    told = mistake(capsys, "captions", captions, "--objects", str(held))
    assert "says nothing about 2 images, the first is" in told
    wrong = lines(folder / "wrong.jsonl", *({"image": f"{n}.png", "objects": ["puppy"]} for n in "abc"))
    assert "'puppy', which is none of the 80" in mistake(
        capsys, "captions", captions, "--objects", str(wrong)
    )
    told = mistake(capsys, "captions", captions, "--clip", str(folder))
    assert "is not a model folder: it has no config.json" in told


def test_what_stands_behind_an_end_token_is_measured(folder: Path) -> None:
    scores = {}
    for name, more in (("plain", ""), ("hidden", " </s> a large blue square")):
        lines(folder / f"{name}.jsonl", {"image": "a.png", "caption": f"a small red circle{more}"})
        found = measured(folder, "--clip", str(WEIGHTS / "clip"), file=f"{name}.jsonl")
        scores[name] = found["metrics"]["clip_score"]
    assert scores["hidden"] != pytest.approx(scores["plain"], abs=1e-4)


def test_a_damaged_image_is_refused_by_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])
    clip = ["--clip", str(WEIGHTS / "clip")]
    told = mistake(capsys, "clip-recall", "--captions", str(folder / "captions.jsonl"), *clip)
    assert "b.png cannot be read as an image" in told


def test_yes_no_answers_are_told_from_free_ones(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(
        folder / "pope.jsonl",
        {"question": "Is there a dog?", "label": "yes", "answer": "Yes, there is."},
        {"question": "Is there a cat?", "label": "no", "answer": "a cat"},
    )
    found = measured(folder, kind="answers", file="pope.jsonl")
    assert found["metrics"]["accuracy"] == 0.5 and found["metrics"]["unparsable"] == 0.5
    assert found["protocol"]["manner"] == "POPE"
    assert found["samples"][1] == {"answer": "a cat", "read": "unparsable", "truth": "no"}
    assert "yes_share" in capsys.readouterr().out
    lenient = measured(folder, "--reading", "pope", kind="answers", file="pope.jsonl")
    assert lenient["metrics"]["unparsable"] == 0 and lenient["metrics"]["yes_share"] == 1
    lines(folder / "free.jsonl", {"question": "How many?", "truth": "three", "answer": "3"})
    assert measured(folder, kind="answers", file="free.jsonl")["protocol"]["judge"] == "exact-match"
    for words, told in (
        (["free.jsonl", "--matching", "yes-no"], "a true answer is 'three', which is neither yes nor no"),
        (["free.jsonl", "--reading", "pope"], "is about yes-or-no questions"),
        (["free.jsonl", "--literal"], "name one with --matching FOLDER"),
        (["pope.jsonl", "--literal"], "name one with --matching FOLDER"),
        (["free.jsonl", "--matching", str(folder)], "is not a model folder: it has no config.json"),
    ):
        assert told in mistake(capsys, "answers", str(folder / words[0]), *words[1:])


def test_answers_of_another_order_than_the_questions_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = lines(
        folder / "asked.jsonl",
        {"text": "Is there a dog?", "label": "yes"},
        {"text": "Is there a cat?", "label": "no"},
    )
    given = lines(
        folder / "given.jsonl",
        {"question": "Is there a cat?", "answer": "no"},
        {"question": "Is there a dog?", "answer": "yes"},
    )
    told = mistake(capsys, "answers", str(given), "--question-file", str(asked))
    assert "given.jsonl line 1 answers 'Is there a cat?'" in told and "in another order" in told
