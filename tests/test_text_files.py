from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sightloop.data.karpathy import read_karpathy
from sightloop.evaluation.answer_files import read_answers
from sightloop.evaluation.chair import read_object_words
from sightloop.evaluation.object_files import read_objects
from sightloop.evaluation.pairs import read_captions
from sightloop.geneval.detectors import read_detections
from sightloop.geneval.folder import read_folder
from sightloop.geneval.prompts import read_geneval_prompts
from sightloop.geneval.results import read_results
from sightloop.quizzes.grammar import user_quizzes
from sightloop.quizzes.prompt_guard import read_prompts
from sightloop.recipes.catalog import read_run_config
from sightloop.report.run import read_run
from sightloop.rewards.phrases import load_phrases
from sightloop.text_files import read_json, read_lines
from sightloop.world.image_folder import read_scenes

READERS: dict[str, Callable[[Path], Any]] = {
    "karpathy.json": lambda file: read_karpathy(str(file), split="test", image_root=None),
    "answers.jsonl": read_answers,
    "words.txt": read_object_words,
    "instances.json": read_objects,
    "objects.jsonl": read_objects,
    "captions.jsonl": read_captions,
    "captions.json": read_captions,
    "captions.csv": read_captions,
    "detections.jsonl": read_detections,
    "0/metadata.jsonl": lambda file: read_folder(file.parents[1]),
    "evaluation_metadata.jsonl": read_geneval_prompts,
    "results.jsonl": read_results,
    "quizzes.jsonl": user_quizzes,
    "prompts.jsonl": read_prompts,
    "phrases.txt": load_phrases,
    "config.json": read_run_config,
    "scenes.jsonl": lambda file: read_scenes(file.parent),
    "metrics.jsonl": lambda file: read_run(file.parent),
    "alarms.jsonl": lambda file: read_run(file.parent),
    "samples/step_000001.json": lambda file: read_run(file.parents[1]),
    "evaluations/held_out_step_000001.json": lambda file: read_run(file.parents[1]),
}
DAMAGE: dict[str, bytes] = {
    "another encoding": b'{"a": 1}\n\xc9t\xe9\n',
    "zeros": b"\0" * 40 + b"\n",
    "cut": b'{"prompt": "a d\n',
    "deep": b'{"a": ' + b"[" * 100_000 + b"\n",
    "a number that is too long": b'{"step": 1' + b"0" * 400 + b"}\n",
    "half a character": b'{"prompt": "\\ud800"}\n',
    "a list": b"[1]\n",
    "null": b'{"kind": null, "config": null, "samples": null, "metrics": null}\n',
    "of other types": b'{"recipe": "vlrm", "config": {"track": -1}, "kind": "train", "step": [], '
    b'"samples": [1], "metrics": [2], "images": [3], "annotations": 4, "tag": {}, "include": 5, '
    b'"prompt": 6, "file": 7, "filename": 8, "image": 9, "objects": 1, "metadata": 2, "correct": true}\n',
}
HARMLESS = {("prompts.jsonl", "a list"), ("metrics.jsonl", "null")}
"""A line without an object is a prompt; a report passes over lines of kinds that it does not know."""


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_text_file_is_named_in_one_sentence(tmp_path: Path, name: str, kind: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    (tmp_path / "config.json").write_text('{"recipe": "vlrm", "config": {}}')
    file.write_bytes(DAMAGE[kind])
    try:
        READERS[name](file)
    except ValueError as error:
        assert str(file) in str(error) and "\n" not in str(error), error
    else:
        is_text = name.endswith(".txt") and kind not in ("another encoding", "zeros")
        assert is_text or kind == "null" or (name, kind) in HARMLESS, f"{kind} was read as {name}"


@pytest.mark.parametrize("name", READERS)
def test_pipes_are_refused_instead_of_waited_for(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    (tmp_path / "config.json").write_text('{"recipe": "vlrm", "config": {}}')
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    try:
        READERS[name](file)
    except ValueError as error:
        assert str(file) in str(error), error


def test_a_line_is_named_by_its_number_where_bytes_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_bytes(b"{}\n{}\n\xc9\n")
    with pytest.raises(ValueError, match=r"cannot be read: line 3 is not UTF-8 text \(byte 0xc9\)"):
        read_lines(file)


def test_pairs_of_surrogates_and_marks_of_byte_order_are_read(tmp_path: Path) -> None:
    file = tmp_path / "some.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": "\U0001f600"}).encode())
    assert read_json(file) == {"a": "\U0001f600"}
