"""The embedded world's tiny models are used on its own images and words, and never stand in for a user's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightloop.cli import main
from sightloop.world.bundled import WEIGHTS
from sightloop.world.image_folder import write_images


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command says about a mistake."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(list(words))
    told = capsys.readouterr()
    assert (end.value.code, told.out) == (2, "")
    (line,) = [line for line in told.err.splitlines() if line.startswith("sightloop: ")]
    return line


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Images that the embedded world did not draw."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Images that it did draw."""
    return write_images(tmp_path / "scenes", number=4, seed=0)


@pytest.mark.parametrize("of", ["file", "folder", "glob"])
def test_photographs_are_not_captioned_by_the_tiny_captioner(
    photographs: Path, of: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {"file": photographs / "0.png", "folder": photographs, "glob": photographs / "*.png"}[of]
    told = refused(capsys, "caption", str(named))
    assert "knows only the embedded world's own images of colored shapes" in told
    assert str(photographs / "0.png") in told and told.endswith("with --model")


def test_one_photograph_among_scenes_is_seen(
    photographs: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (scenes / "photograph.png").write_bytes((photographs / "0.png").read_bytes())
    assert "photograph.png is not" in refused(capsys, "caption", str(scenes))
    main(["caption", str(scenes / "00000.png")])
    assert "00000.png\ta " in capsys.readouterr().out


def test_the_tiny_models_draw_and_answer_in_the_words_they_know(
    tmp_path: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(capsys, "draw", "a photo of two cats", "--output", str(tmp_path / "drawn"))
    assert "does not know 'cats' in 'a photo of two cats'" in told and "circle, square" in told
    assert not (tmp_path / "drawn").exists()
    told = refused(capsys, "draw", "a red circle <|endoftext|>", "--output", str(tmp_path / "drawn"))
    assert "does not know '<|endoftext|>'" in told
    assert "0.png is not; name a model" in refused(
        capsys, "ask", str(photographs / "0.png"), "what is the main object?"
    )
    main(["draw", "a photo of a red circle", "--per-prompt", "1", "--output", str(tmp_path / "drawn")])
    drawn = str(tmp_path / "drawn" / "0001.png")
    capsys.readouterr()
    main(["ask", drawn, "What color is the circle?"])
    assert capsys.readouterr().out.strip()
    assert "does not know 'tasty'" in refused(capsys, "ask", drawn, "is the circle tasty?")


def vlrm_run(folder: Path, *, clip: str) -> Path:
    """A run as the command line leaves it, after its one step; it was measured by `clip`."""
    main(
        [
            *("train", "vlrm", "--run", str(folder), "--batch", "4", "--steps", "1", "--held-out.limit", "4"),
            *("--held-out.clip", clip, "--draw.max-tokens", "4", "--held-out.max-tokens", "4"),
        ]
    )
    return folder


def test_a_run_is_measured_by_its_own_clip_and_photographs_never_by_the_tiny_one(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sightloop.recipes.vlrm.build.NUM_SCENES", 8)
    measure = ["evaluate", "clip-recall", "--images", str(photographs)]
    own = vlrm_run(tmp_path / "own", clip=str(WEIGHTS / "clip_retrieval"))
    found = tmp_path / "found.json"
    main([*measure, "--model", str(own), "--output", str(found)])
    record = json.loads(found.read_text())
    main([*measure, "--model", str(own), "--clip", str(WEIGHTS / "clip"), "--output", str(found)])
    tiny = json.loads(found.read_text())
    assert record["protocol"]["encoder"] == "clip_retrieval" and tiny["protocol"]["encoder"] == "clip"

    world = vlrm_run(tmp_path / "world", clip="")
    told = refused(capsys, *measure, "--model", str(world))
    assert "no --clip: the bundled tiny CLIP knows only" in told and told.endswith("name a CLIP with --clip")
    assert "no --model" in refused(capsys, *measure)
    assert "no --clip" in refused(capsys, *measure, "--model", str(WEIGHTS / "captioner"))
    scenes = str(world / "pictures" / "held_out")
    main(["evaluate", "clip-recall", "--model", str(world), "--images", scenes])
    # A captioner of one's own, though the images are the world's.
    mine = tmp_path / "mine"
    mine.symlink_to(WEIGHTS / "captioner")
    (tmp_path / "copied").mkdir()
    for file in mine.iterdir():
        (tmp_path / "copied" / file.name).write_bytes(file.read_bytes())
    told = refused(capsys, "evaluate", "clip-recall", "--model", str(tmp_path / "copied"), "--images", scenes)
    assert "copied' is no run" in told and told.endswith("--clip")


def test_captions_of_photographs_need_a_clip(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = photographs / "captions.jsonl"
    file.write_text("".join(json.dumps({"image": f"{n}.png", "caption": f"a cat {n}"}) + "\n" for n in "012"))
    assert "no --clip" in refused(capsys, "evaluate", "clip-recall", "--captions", str(file))
    main(["evaluate", "clip-recall", "--captions", str(file), "--clip", str(WEIGHTS / "clip")])


def test_training_never_takes_the_tiny_captioner_to_photographs_nor_a_captioner_to_the_scenes(
    tmp_path: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = ["--judge", str(WEIGHTS / "judge"), "--run", str(tmp_path / "run")]
    told = refused(capsys, "train", "vlrm", "--images", str(photographs), *judge)
    assert "policy is empty" in told and told.endswith("name a captioner with --model")
    told = refused(capsys, "train", "vlrm", "--model", "some/captioner", "--run", str(tmp_path / "another"))
    assert "data.images is empty; name the images to train on with --data.images" in told


def test_quizzes_in_other_words_need_a_model_of_ones_own(
    tmp_path: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    include = [{"class": "dog", "count": 1}]
    quiz = {"tag": "single_object", "prompt": "a photo of a dog", "include": include}
    quiz |= {"question": "What is it?", "answer": "a dog"}
    (tmp_path / "quizzes.jsonl").write_text(json.dumps(quiz) + "\n")
    file = str(tmp_path / "quizzes.jsonl")
    run = ["--run", str(tmp_path / "run"), "--joint.per-category", "0"]
    told = refused(capsys, "train", "unirl-grpo", "--quizzes.file", file, *run)
    assert "does not know 'dog' in 'a photo of a dog'" in told and told.endswith("--model")
    run[1] = str(tmp_path / "another")
    assert "no --model" in refused(capsys, "train", "unirl-sft", "--quizzes.vocabulary", "real", *run)
    assert "does not know 'dog'" in refused(capsys, "evaluate", "joint", "--quiz-file", file)
    samples = tmp_path / "shown" / "00000" / "samples"
    samples.mkdir(parents=True)
    include[0]["class"] = "circle"
    shown = {"tag": "single_object", "prompt": "a photo of a circle", "include": include}
    (samples.parent / "metadata.jsonl").write_text(json.dumps(shown))
    (samples / "0000.png").write_bytes((photographs / "0.png").read_bytes())
    few = ["--fixed", str(tmp_path / "shown"), "--per-category", "4"]
    told = refused(capsys, "evaluate", "joint", *few)
    assert "0000.png is not; name a model with --model" in told


def test_lmms_eval_has_to_name_the_tiny_model() -> None:
    from sightloop.integrations import lmms_eval as lmms_eval_model

    with pytest.raises(ValueError, match="model=shapes for the embedded world's tiny one"):
        lmms_eval_model.named("")
    assert lmms_eval_model.named("shapes") == "" and lmms_eval_model.named("my/model") == "my/model"
