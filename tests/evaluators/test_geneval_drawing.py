"""GenEval's images drawn by a policy: layout, seeds, going on, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from geneval_painter import Painter, paint, prompts_of, some_quizzes
from PIL import Image

from sightloop.evaluators.geneval_images import Drawing, draw_prompts
from sightloop.rollouts.seeds import image_seed


def images_in(folder: Path) -> dict[str, bytes]:
    """Every image by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/samples/*")}


def test_the_folder_is_the_official_one(tmp_path: Path) -> None:
    quizzes = some_quizzes()
    paint(tmp_path, quizzes)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [f"{i:05}" for i in range(12)]
    assert json.loads((tmp_path / "00003" / "metadata.jsonl").read_text()) == quizzes[3].metadata()
    assert sorted(path.name for path in (tmp_path / "00003" / "samples").iterdir()) == [
        "0000.png",
        "0001.png",
    ]
    with Image.open(tmp_path / "00003" / "samples" / "0001.png") as picture:
        assert (picture.size, picture.mode) == ((32, 32), "RGB")
        assert picture.info["GenEval prompt"] == quizzes[3].prompt
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert sheet.size == (2 * 128, 6 * 128)


def test_a_stopped_drawing_goes_on_and_ends_with_the_same_images(tmp_path: Path) -> None:
    quizzes = some_quizzes()
    paint(tmp_path / "whole", quizzes)
    with pytest.raises(KeyboardInterrupt):
        paint(tmp_path / "stopped", quizzes, painter=Painter(quizzes, patience=12))
    assert len(images_in(tmp_path / "stopped")) == 10
    painter = Painter(quizzes)
    paint(tmp_path / "stopped", quizzes, painter=painter)
    assert len(painter.drawn) == 14
    assert images_in(tmp_path / "stopped") == images_in(tmp_path / "whole")


def test_an_image_depends_on_its_own_prompt_number_and_seed_alone(tmp_path: Path) -> None:
    quizzes = some_quizzes()
    paint(tmp_path / "all", quizzes)
    paint(tmp_path / "one", quizzes[5:6], per_prompt=3)
    for number in (0, 1):
        name = f"samples/000{number}.png"
        drawn = [(tmp_path / place / name).read_bytes() for place in ("all/00005", "one/00000")]
        assert drawn[0] == drawn[1]
    seeds = {image_seed(text, number, seed) for text in "ab" for number in range(4) for seed in (0, 1)}
    assert len(seeds) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_more_images_of_each_prompt_may_be_drawn_later(tmp_path: Path) -> None:
    quizzes = some_quizzes()
    paint(tmp_path, quizzes, per_prompt=1)
    before = images_in(tmp_path)
    paint(tmp_path, quizzes, per_prompt=2)
    after = images_in(tmp_path)
    assert len(after) == 2 * len(before) and before.items() <= after.items()


def test_a_folder_drawn_in_another_way_is_refused(tmp_path: Path) -> None:
    quizzes, painter = some_quizzes(), Painter(some_quizzes())
    paint(tmp_path, quizzes)
    for name, changes, drawing, told in (
        ("painter", {"guidance": 2.0}, Drawing(per_prompt=2), "guidance 0.0, now it is 2.0"),
        ("other", {}, Drawing(per_prompt=2), "policy 'painter', now it is 'other'"),
        ("painter", {}, Drawing(per_prompt=2, seed=1), "seed 0, now it is 1"),
        ("painter", {}, Drawing(per_prompt=1), "per_prompt 2, now it is 1"),
    ):
        with pytest.raises(ValueError, match=told):
            draw_prompts(
                painter,
                prompts_of(quizzes),
                tmp_path,
                name=name,
                sampling=painter.default_sampling(**changes),
                drawing=drawing,
            )
    with pytest.raises(ValueError, match="is another prompt than"):
        paint(tmp_path, quizzes[::-1])
    (tmp_path / "drawing.json").unlink()
    with pytest.raises(ValueError, match="did not draw"):
        paint(tmp_path, quizzes)
