"""The evaluation of a folder of images, end to end in the embedded world."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from geneval_painter import Painter, paint, some_quizzes
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import Owlv2Config, Owlv2ForObjectDetection, PreTrainedTokenizerFast

from sightloop.cli import main
from sightloop.cli.geneval import evaluate_drawn, evaluate_geneval
from sightloop.evaluators.geneval_images import Drawing
from sightloop.evaluators.geneval_options import DetectorOptions, DrawerOptions, GenEvalOptions
from sightloop.evaluators.geneval_run import (
    GenEvalRun,
    compared,
    detections_path,
    geneval_table,
    read_geneval_run,
    record_path,
    run_geneval,
)
from sightloop.evaluators.open_detector import model_kind
from sightloop.geneval.results import read_protocol, read_results
from sightloop.world.bundled import WEIGHTS
from sightloop.world.checker import SURE

QUIZZES = some_quizzes()
SHAPES = DetectorOptions(detector="shapes")


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that fulfill their prompts, and their prompts file."""
    folder = tmp_path_factory.mktemp("painted")
    paint(folder / "images", QUIZZES)
    lines = [json.dumps(quiz.metadata()) for quiz in QUIZZES]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def world(painted: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(painted, tmp_path, dirs_exist_ok=True)
    return tmp_path


def evaluated(world: Path, **changes: Any) -> GenEvalRun:
    """The folder as the embedded world's checker sees it."""
    names = {field.name for field in fields(DetectorOptions)}
    judge: dict[str, Any] = {"detector": "shapes"}
    judge |= {name: changes[name] for name in changes if name in names}
    rest = {name: changes[name] for name in changes if name not in names}
    usual = {"prompts": world / "prompts.jsonl", "output": world / "out" / "results.jsonl"}
    return run_geneval(
        GenEvalOptions(images=world / "images", judge=DetectorOptions(**judge), **{**usual, **rest})
    )


def test_right_images_are_right_and_the_files_say_so(world: Path) -> None:
    run = evaluated(world)
    assert run.summary.overall.value == 1.0
    assert {tag: (score.right, score.images) for tag, score in run.summary.tasks.items()} == dict.fromkeys(
        ["single_object", "two_object", "counting", "colors", "position", "color_attr"], (4, 4)
    )
    lines = [json.loads(line) for line in (world / "out" / "results.jsonl").read_text().splitlines()]
    assert list(lines[0]) == ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]
    assert lines[0]["filename"] == str(world / "images" / "00000" / "samples" / "0000.png")
    assert json.loads(lines[0]["metadata"]) == QUIZZES[0].metadata()
    assert set(json.loads(lines[0]["details"])) == {QUIZZES[0].include[0].noun}
    record = json.loads(record_path(world / "out" / "results.jsonl").read_text())
    assert record["overall"] == 1.0 and record["drawing"]["policy"] == "painter"
    table = geneval_table(run)
    assert "geneval (shapes-checker): 12 prompts, 2 images each" in table
    assert f"hash: {record['hash']}" in table


def test_images_of_other_prompts_are_wrong(world: Path) -> None:
    # Files as another program would write them, without a note of the prompt.
    for place, other in ((0, 11), (4, 2)):
        with Image.open(world / "images" / f"{other:05}" / "samples" / "0000.png") as picture:
            picture.info.clear()
            picture.save(world / "images" / f"{place:05}" / "samples" / "0000.png")
    run = evaluated(world)
    assert [result.correct for result in run.results].count(False) == 2
    assert not run.results[8].correct and run.results[8].reason.startswith("expected ")
    assert run.summary.overall.value == pytest.approx(1 - 2 / 4 / 6)
    assert run.summary.overall.low < run.summary.overall.value <= run.summary.overall.high


def test_the_detections_that_were_written_give_the_same_results(world: Path) -> None:
    first = evaluated(world)
    written = detections_path(world / "out" / "results.jsonl")
    again = evaluated(
        world,
        detector="",
        detections=written,
        output=world / "again.jsonl",
        threshold=SURE,
        counting_threshold=SURE,
    )
    assert again.results == first.results
    assert again.protocol == first.protocol
    stricter = evaluated(
        world,
        detector="",
        detections=written,
        output=world / "b.jsonl",
        threshold=0.999999,
        counting_threshold=1.0,
    )
    assert stricter.summary.overall.value < 0.2
    table = compared(world / "again.jsonl", world / "b.jsonl")
    assert "warning: made under different protocols" in table and f"threshold {SURE} and 0.999999" in table
    assert "warning" not in compared(world / "out" / "results.jsonl", world / "again.jsonl")


def test_a_stopped_evaluation_looks_only_at_what_is_missing(world: Path) -> None:
    whole = evaluated(world)
    written = detections_path(world / "out" / "results.jsonl")
    lines = written.read_text().splitlines()
    spoiled = lines[1].replace('"score": 0.9', '"score": 0.1')
    assert spoiled != lines[1]
    # The last line was cut off in the middle; the first image's is not made again, as its score shows.
    written.write_text("\n".join([lines[0], spoiled, *lines[2:7]]) + "\n" + lines[7][:30])
    run = evaluated(world)
    assert not run.results[0].correct
    assert run.results[1:] == whole.results[1:]
    assert written.read_text().splitlines()[2:] == lines[2:]


def test_an_image_that_changed_since_is_refused(world: Path) -> None:
    evaluated(world)
    picture = world / "images" / "00002" / "samples" / "0000.png"
    shutil.copy(world / "images" / "00002" / "samples" / "0001.png", picture)
    with pytest.raises(ValueError, match=r"another 00002/samples/0000.png"):
        evaluated(world)


def test_other_settings_do_not_go_on_with_old_detections(world: Path) -> None:
    evaluated(world)
    with pytest.raises(ValueError, match=rf"threshold {SURE} and 0.5.*name another --output"):
        evaluated(world, threshold=0.5)


def test_what_would_change_the_number_is_refused(world: Path) -> None:
    images, prompts = world / "images", world / "prompts.jsonl"
    with pytest.raises(
        ValueError, match="not GenEval's 553 prompts: single_object has 2 prompts instead of 80"
    ):
        evaluated(world, prompts=None)
    with pytest.raises(ValueError, match=r"prompts/evaluation_metadata.jsonl of djghosh13"):
        evaluated(world, prompts=world / "none.jsonl")
    lines = prompts.read_text().splitlines()
    prompts.write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(ValueError, match="12 prompts have images; the prompts file has 13"):
        evaluated(world)
    prompts.write_text("\n".join(lines[::-1]))
    with pytest.raises(ValueError, match=r"prompt 00000 is .*, the prompts file says"):
        evaluated(world)
    prompts.write_text("\n".join(lines))
    (images / "00004").rename(images / "00012")
    with pytest.raises(ValueError, match="has no folder 00004 but 00005"):
        evaluated(world)


def test_damaged_and_foreign_images_are_refused_by_name(world: Path) -> None:
    images = world / "images"
    picture = images / "00003" / "samples" / "0001.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"00003/samples/0001.png cannot be read as an image"):
        evaluated(world)
    shutil.copy(images / "00009" / "samples" / "0000.png", picture)
    with pytest.raises(ValueError, match=r"0001.png was drawn for '.*', but its metadata says"):
        evaluated(world)
    picture.unlink()
    with pytest.raises(ValueError, match="00003 has 1 images, others have 2"):
        evaluated(world)


def test_exactly_one_pair_of_eyes_is_wanted_and_it_must_know_the_classes(world: Path) -> None:
    for changes in ({"detector": ""}, {"detections": world / "prompts.jsonl"}):
        with pytest.raises(ValueError, match="name what sees the objects, one of"):
            evaluated(world, **changes)
    with pytest.raises(ValueError, match="names colors itself"):
        evaluated(world, colors="somewhere")
    for file in [world / "prompts.jsonl", *(world / "images").glob("*/metadata.jsonl")]:
        file.write_text(file.read_text().replace('"class": "square"', '"class": "zebra"'))
    with pytest.raises(ValueError, match="shapes-checker does not know the class 'zebra'"):
        evaluated(world)


def test_a_color_that_nobody_named_is_refused(world: Path) -> None:
    evaluated(world)
    written = detections_path(world / "out" / "results.jsonl")
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    for line in lines[1:]:
        for seen in line["detections"]:
            del seen["color"]
    bare = world / "bare.jsonl"
    bare.write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(ValueError, match=r"needs the color of its .*; name a CLIP model with --colors"):
        evaluated(world, detector="", detections=bare)


def test_results_read_back_as_they_were_written(world: Path) -> None:
    run = evaluated(world)
    assert read_results(world / "out" / "results.jsonl") == run.results
    assert read_protocol(record_path(world / "out" / "results.jsonl")) == run.protocol


def test_the_command_prints_the_table_and_what_changed(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "geneval", "--images", str(world / "images"), "--detector", "shapes"]
    words += ["--prompt-file", str(world / "prompts.jsonl")]
    main([*words, "--output", str(world / "first.jsonl")])
    assert "overall" in capsys.readouterr().out
    main([*words, "--output", str(world / "second.jsonl"), "--compare", str(world / "first.jsonl")])
    told = capsys.readouterr().out
    assert "change since" in told and "+0.0000  [+0.0000, +0.0000]" in told and "warning" not in told
    with pytest.raises(SystemExit):
        main([*words, "--output", str(world / "first.jsonl"), "--compare", str(world / "first.jsonl")])
    assert "would be compared with itself" in capsys.readouterr().err


def test_a_policy_draws_and_is_evaluated_in_one_go(world: Path) -> None:
    options = GenEvalOptions(images=world / "drawn", judge=SHAPES, prompts=world / "prompts.jsonl")
    run = evaluate_drawn(
        Painter(QUIZZES), options, name="painter", drawing=Drawing(per_prompt=3), changes={"guidance": 1.5}
    )
    assert run.summary.images == 36 and run.summary.overall.value == 1.0
    record = json.loads(record_path(world / "drawn" / "results.jsonl").read_text())
    assert record["drawing"]["guidance"] == 1.5 and record["drawing"]["policy"] == "painter"
    with pytest.raises(ValueError, match=r"--prompt-file FILE; GenEval's prompts are the file"):
        evaluate_drawn(
            Painter(QUIZZES),
            GenEvalOptions(images=world / "drawn", judge=SHAPES),
            name="painter",
            drawing=Drawing(),
            changes={},
        )


def test_results_that_are_there_are_told_and_compared_without_looking_again(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(world, output=world / "before.jsonl")
    evaluated(world, output=world / "after.jsonl", threshold=0.999999)
    shutil.rmtree(world / "images")
    words = ["evaluate", "geneval", "--results", str(world / "after.jsonl")]
    words += ["--prompt-file", str(world / "prompts.jsonl")]
    main([*words, "--compare", str(world / "before.jsonl")])
    told = capsys.readouterr().out
    assert "geneval (shapes-checker): 12 prompts, 2 images each" in told
    assert "warning: made under different protocols" in told
    assert f"threshold {SURE} and 0.999999" in told
    # The official evaluator writes no protocol.
    record_path(world / "after.jsonl").unlink()
    main([*words, "--compare", str(world / "before.jsonl")])
    told = capsys.readouterr().out
    assert "geneval (unknown detector)" in told and "no protocol record beside the results file" in told
    assert "warning: a result has no protocol record" in told


def test_results_of_other_prompts_or_without_some_are_refused(world: Path) -> None:
    output = world / "out" / "results.jsonl"
    evaluated(world)
    with pytest.raises(ValueError, match="not GenEval's 553 prompts: single_object has 2 prompts"):
        read_geneval_run(output)
    lines = output.read_text().splitlines()
    for kept, told in (
        (lines[2:], "1 of 12 prompts of the prompts file have no result"),
        (lines[1:], "prompts have from 1 to 2 images"),
        (
            [*lines, *(line.replace("a photo of", "a map of") for line in lines[:2])],
            "1 prompts are not in the prompts file",
        ),
        (['{"correct": true}'], "line 1 has no 'filename'"),
        ([lines[0].replace('\\"count\\"', '\\"number\\"')], "line 1: metadata of"),
    ):
        output.write_text("\n".join(kept))
        with pytest.raises(ValueError, match=told):
            read_geneval_run(output, prompts=world / "prompts.jsonl")


def test_the_record_holds_the_intervals_and_the_table_names_the_checkpoint(world: Path) -> None:
    run = evaluated(world, threshold=0.97)
    record = json.loads(record_path(world / "out" / "results.jsonl").read_text())
    assert record["intervals"]["overall"] == [run.summary.overall.low, run.summary.overall.high]
    assert set(record["intervals"]) == {"overall", *run.summary.tasks}
    named = replace(run, protocol=run.protocol | {"detector_checkpoint": "somebody/detector"})
    assert "geneval (shapes-checker somebody/detector)" in geneval_table(named)


@pytest.fixture
def zero_shot(tmp_path: Path) -> Path:
    """A random OWLv2 of the hub's format whose words are those of the embedded world."""
    vocabulary = {"!": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "square": 4, "circle": 5, "cross": 6}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    folder = tmp_path / "owlv2"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="!", unk_token="<unk>").save_pretrained(
        folder
    )
    tower: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    tower["num_attention_heads"] = 2
    text = tower | {"vocab_size": 7, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
    vision = tower | {"image_size": 32, "patch_size": 8}
    Owlv2ForObjectDetection(
        Owlv2Config(text_config=text, vision_config=vision, projection_dim=16)
    ).save_pretrained(folder)
    return folder


def test_a_zero_shot_detector_looks_for_words_that_coco_does_not_have(world: Path, zero_shot: Path) -> None:
    assert model_kind(str(zero_shot)) == "owlv2"
    clip = str(WEIGHTS / "clip")
    run = evaluated(world, detector=str(zero_shot), colors=clip, batch=2)
    assert run.protocol["detector"] == "zero-shot owlv2"
    # Its scores are of another scale: the counting task has no threshold of its own.
    assert run.protocol["threshold"] == run.protocol["counting_threshold"] == "0.3"
    assert run.summary.images == 24
    seen = {name for result in run.results for name in result.details}
    assert seen and seen <= {"square", "circle", "cross", "triangle"}
    again = evaluated(world, detector=str(zero_shot), colors=clip, batch=2)
    assert again.results == run.results


def test_a_model_that_detects_nothing_is_refused(world: Path) -> None:
    with pytest.raises(ValueError, match=r"is a CLIP, not a Mask2Former.* --held-out\.clip.*--detections"):
        evaluated(world, detector=str(WEIGHTS / "clip"))
    with pytest.raises(ValueError, match=r"is not a model folder: it has no config.json"):
        evaluated(world, detector=str(world))


def test_the_command_draws_with_the_worlds_policy_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "geneval", "--images", str(tmp_path / "drawn"), "--prompt-file", "shapes"]
    words += ["--detector", "shapes", "--model", "shapes", "--per-prompt", "1", "--rounds", "2"]
    main(words)
    told = capsys.readouterr().out
    assert "geneval (shapes-checker): 24 prompts, 1 images each" in told
    assert (tmp_path / "drawn" / "contact_sheet.png").is_file()
    record = json.loads(record_path(tmp_path / "drawn" / "results.jsonl").read_text())
    assert record["drawing"]["decode_steps"] == 2 and record["drawing"]["seed"] == 0
    assert record["drawing"]["policy"].startswith("show-o of the embedded world (")
    first = (tmp_path / "drawn" / "results.jsonl").read_text()
    (tmp_path / "drawn" / "00005" / "samples" / "0000.png").unlink()
    main(words)
    assert (tmp_path / "drawn" / "results.jsonl").read_text() == first


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    for options, told in (
        (GenEvalOptions(judge=SHAPES), "name the folder of images with --images"),
        (
            GenEvalOptions(images=tmp_path, judge=SHAPES, drawer=DrawerOptions(per_prompt=2)),
            "options of drawing, but nobody draws",
        ),
        (
            GenEvalOptions(images=tmp_path, judge=SHAPES, drawer=DrawerOptions(policy="shapes")),
            r"--prompt-file FILE; GenEval's prompts are the file prompts/evaluation_metadata.jsonl",
        ),
        (GenEvalOptions(results=tmp_path / "r.jsonl", judge=SHAPES), "is done; leave --detector"),
        (
            GenEvalOptions(results=tmp_path / "r.jsonl", prompts=Path("shapes")),
            "name the file of the prompts",
        ),
        (GenEvalOptions(results=tmp_path / "r.jsonl", compare=tmp_path / "r.jsonl"), "compared with itself"),
        (
            GenEvalOptions(results=tmp_path / "r.jsonl"),
            "r.jsonl cannot be read: it does not exist",
        ),
    ):
        with pytest.raises(ValueError, match=told):
            evaluate_geneval(options)
