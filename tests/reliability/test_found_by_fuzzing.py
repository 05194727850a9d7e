"""What mutated inputs brought to light, each as the kind that it was."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from models import tiny_captioners
from PIL import Image

from benchmarks.reliability.examples import make_texts
from sightloop.cli import main
from sightloop.geneval.results import read_results
from sightloop.models import written_text
from sightloop.models.clip import ClipEncoder
from sightloop.models.open import open_config
from sightloop.models.weight_files import read_weights
from sightloop.training.checkpoint import best_step
from sightloop.world.bundled import WEIGHTS


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """All that a refused command says."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code == 2
    said = capsys.readouterr()
    return said.out + said.err


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_texts(tmp_path_factory.mktemp("made") / "texts")


@pytest.fixture
def texts(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "texts"))


@pytest.mark.parametrize("word", ["\x1b[2J", "a\x1b]0;title\x07", "\x9b31m"])
def test_the_parser_repeats_no_word_that_a_terminal_obeys(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["draw", "a circle", "--dtype", word], ["train", "vlrm", f"--{word}", "1"]):
        said = refused(capsys, *words)
        assert not set(said) & set("\x1b\x07\x9b") and "Traceback" not in said


def test_objects_of_no_known_class_are_named_with_their_file(
    texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (texts / "objects.json").write_text((texts / "objects.json").read_text().replace("dog", "dgo"))
    words = ["evaluate", "captions", texts / "captions.jsonl", "--objects", texts / "objects.json"]
    assert f"{texts / 'objects.json'}: image 0 holds 'dgo'" in refused(capsys, *words)


def test_an_image_without_a_scene_is_named_with_the_file(
    texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = texts / "images" / "scenes.jsonl"
    scenes.write_text("".join(scenes.read_text().splitlines(keepends=True)[1:]))
    words = ["evaluate", "captions", texts / "captions.jsonl", "--scenes", scenes.parent]
    assert f"{scenes} says nothing about {texts / 'images' / '00000.png'}" in refused(capsys, *words)


@pytest.mark.parametrize("wrong", [{}, [1]])
@pytest.mark.parametrize("name", ["said.jsonl", "questions.jsonl"])
def test_an_id_that_is_none_is_named_with_its_line(
    wrong: object, name: str, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in (texts / name).read_text().splitlines()]
    rows[2]["question_id"] = wrong
    (texts / name).write_text("\n".join(map(json.dumps, rows)))
    words = ["evaluate", "answers", texts / "said.jsonl", "--question-file", texts / "questions.jsonl"]
    assert f"{texts / name} line 3 has the question_id {wrong!r}" in refused(capsys, *words)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", {}, None])
def test_an_index_names_files_beside_it(shard: object, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(WEIGHTS / "captioner", tmp_path / "captioner"))
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    for read in (read_weights, open_config):
        with pytest.raises(
            ValueError, match=rf"{index} (names .*, which is no file beside|has no weight_map)"
        ):
            read(folder)


@pytest.mark.parametrize("name", ["filename", "tag", "prompt", "reason", "metadata"])
def test_a_result_of_another_form_is_named_with_its_line(name: str, tmp_path: Path) -> None:
    quiz = {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "a red dog"}
    row = {"filename": "0.png", "tag": "colors", "prompt": "a red dog", "correct": True, "reason": ""}
    row |= {"metadata": json.dumps(quiz), "details": "{}"}
    file = tmp_path / "results.jsonl"
    file.write_text(json.dumps(row))
    assert len(read_results(file)) == 1
    file.write_text(json.dumps(row | {name: 7}))
    with pytest.raises(ValueError, match=f"{file} line 1: {name} is 7, not a text"):
        read_results(file)


def hole(file: Path, size: int, head: bytes = b"") -> None:
    file.write_bytes(head)
    os.truncate(file, size)


def test_a_name_of_the_best_step_of_forty_gigabytes_is_none(tmp_path: Path) -> None:
    (tmp_path / "best").write_text("12")
    assert best_step(tmp_path) == 12
    hole(tmp_path / "best", 40 << 30)
    assert best_step(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("chat_template.jinja", os.mkfifo),
        ("merges.txt", os.mkfifo),
        ("tokenizer.model", lambda file: file.symlink_to("/dev/zero")),
        ("model.safetensors", os.mkfifo),
        ("added.json", lambda file: file.symlink_to("nowhere")),
        ("chat_template.jinja", lambda file: hole(file, 40 << 30)),
        ("model.safetensors", lambda file: hole(file, 40 << 30, (30 << 30).to_bytes(8, "little"))),
    ],
)
def test_a_model_folder_holds_regular_files_of_sensible_sizes(
    name: str, make: Callable[[Path], object], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(WEIGHTS / "captioner", tmp_path / "captioner"))
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    with pytest.raises(ValueError, match=f"{folder / name} cannot be read"):
        open_config(folder)


def test_a_padding_token_without_a_row_pads_all_the_same(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(WEIGHTS / "clip", tmp_path / "clip"))
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": "[PAD]"}))
    texts = ["a small red circle", "a large blue square top-left"]
    found, wanted = (
        ClipEncoder.from_pretrained(f).texts(texts) for f in (str(folder), str(WEIGHTS / "clip"))
    )
    assert found.equal(wanted)


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ 1 / 0 }}",
        "{{ messages[7]['content'] }}{{ x.y.z }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    ],
)
def test_a_chat_template_that_fails_or_comes_to_no_end_is_named(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(written_text, "_TEMPLATE_SECONDS", 0.3)
    folder = tiny_captioners.llava(tmp_path / "llava")
    (folder / "chat_template.jinja").write_text(template)
    image = tmp_path / "a.png"
    Image.new("RGB", (16, 16)).save(image)
    said = refused(capsys, "caption", image, "--model", folder, "--prompt", "what")
    assert f"the chat template of {str(folder)!r} " in said
    (folder / "chat_template.jinja").write_text("no place for an image")
    said = refused(capsys, "caption", image, "--model", folder, "--prompt", "what")
    assert f"what prepares texts and images of {str(folder)!r} cannot be opened" in said
