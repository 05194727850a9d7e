"""What mutated inputs brought to light, each as the kind that it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from models import tiny_captioners
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.reliability.examples import make_texts, make_video
from sightloop.api.training_run import TrainingRun
from sightloop.cli import main
from sightloop.data.sources import open_source
from sightloop.geneval.detectors import read_detections
from sightloop.geneval.results import read_results
from sightloop.image_files import BrokenImageError
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


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "language"
    words = tiny_captioners.tokenizer()
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **tiny_captioners.SIZES)).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("generation_config.json", {"eos_token_id": []}),
        ("generation_config.json", {"eos_token_id": "</s>"}),
        ("generation_config.json", {"pad_token_id": [[1]]}),
        ("generation_config.json", {"bos_token_id": True}),
        ("generation_config.json", {"no_repeat_ngram_size": [3]}),
        ("generation_config.json", {"repetition_penalty": "high"}),
        ("tokenizer_config.json", {"model_max_length": [512]}),
        ("tokenizer_config.json", {"chat_template": "{# nothing #}"}),
    ],
)
def test_what_cannot_be_followed_of_what_a_language_model_is_told_is_named(
    file: str, told: dict[str, object], language: Path, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(language, texts / "language"))
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | told))
    said = refused(capsys, "evaluate", "answers", texts / "answers.jsonl", "--matching", folder)
    assert str(folder) in said and "fault of sightloop" not in said


@pytest.mark.parametrize("ends", [[], "</s>", [2.5]])
def test_a_captioner_told_to_end_with_no_token_is_named(
    ends: object, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(WEIGHTS / "captioner", texts / "captioner"))
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": ends}))
    said = refused(capsys, "caption", texts / "images" / "00000.png", "--model", folder)
    assert str(folder) in said and "fault of sightloop" not in said


def test_a_link_to_itself_is_named(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = texts / "loop.jsonl"
    link.symlink_to(link.name)
    words = ["evaluate", "geneval", "--results", texts / "captions.jsonl", "--compare", link]
    assert "fault of sightloop" not in refused(capsys, *words)


def test_a_video_of_an_unknown_codec_is_broken(tmp_path: Path) -> None:
    make_video(tmp_path / "moving.mp4")
    whole = bytearray((tmp_path / "moving.mp4").read_bytes().replace(b"mp4v", b"xxxx"))
    # The box of the decoder says the codec a second time.
    whole[whole.index(b"\x04\x80\x80\x80", whole.index(b"esds")) + 5] = 0xFF
    (tmp_path / "moving.mp4").write_bytes(whole)
    for picture in open_source(str(tmp_path / "moving.mp4")).pictures():
        with pytest.raises(BrokenImageError, match="codec"):
            picture.read()


def test_a_threshold_of_detections_that_is_no_number_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "detections.jsonl"
    file.write_text(json.dumps({"protocol": {"detector": "x", "floor": ""}}))
    with pytest.raises(ValueError, match=f"{file} line 1"):
        read_detections(file)


def test_answers_to_another_number_of_questions_are_named_with_both_files(
    texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (texts / "questions.jsonl").write_text(json.dumps({"text": "red?", "label": "no"}))
    words = ["evaluate", "answers", texts / "said.jsonl", "--question-file", texts / "questions.jsonl"]
    told = f"{texts / 'said.jsonl'} has 4 answers to 1 questions of {texts / 'questions.jsonl'}"
    assert told in refused(capsys, *words)


def test_numbers_in_braces_count_upward(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'{9..0}' counts from 9 to 0" in refused(
        capsys, "caption", "{9..0}", "--model", WEIGHTS / "captioner"
    )


def test_a_lost_evaluation_leaves_out_what_would_be_compared(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "evaluations").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"recipe": "vlrm", "config": {}}))
    lines = [{"step": step, "kind": "eval", "held_out/recall@1": 0.5} for step in (0, 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = {"name": "held_out", "metrics": {"recall@1": 0.5}, "per_sample": {"recall@1": [0.0, 1.0]}}
    for step, captions in ((0, ["a dog", "a cat"]), (1, [])):
        samples = [{"source": f"{text}.png", "caption": text} for text in captions]
        told = record | {"step": step, "samples": samples, "protocol": {}}
        (run / "evaluations" / f"held_out_step_{step:06}.json").write_text(json.dumps(told))
    main(["report", str(run)])
    assert list(TrainingRun(run).captions()["before"]) == ["a dog", "a cat"]


_WRONG = """
import sightloop
from sightloop.world.bundled import WEIGHTS

model = sightloop.load(WEIGHTS / "captioner")
for call in (
    lambda: model.caption("images", batch_size="/dev/zero"),
    lambda: sightloop.load(WEIGHTS / "captioner", dtype=1j),
    lambda: sightloop.train("vlrm", preset="shapes", batch=[object()]),
):
    try:
        call()
    except ValueError as error:
        print(error)
"""


def test_values_of_other_types_are_told_in_the_python_interface_too(texts: Path) -> None:
    # In a process of its own: here, annotations are checked before the library sees a value.
    environment = {**os.environ, "PYTHONPATH": str(WEIGHTS.parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _WRONG], cwd=texts, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first.startswith("batch_size is '/dev/zero'; use at least 1")
    assert second == "dtype is 1j; there are: float16, bfloat16, float32"
    assert third.startswith("batch is (<object object") and "which is no number" in third


def test_objects_of_a_name_that_is_none_are_named(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (texts / "objects.jsonl").write_text(json.dumps({"image": "a\0b", "objects": ["dog"]}))
    words = ["evaluate", "captions", texts / "captions.jsonl", "--objects", texts / "objects.jsonl"]
    assert f"{texts / 'objects.jsonl'} names the image 'a\\x00b'" in refused(capsys, *words)
