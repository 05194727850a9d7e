"""Detections files, masks as run lengths, and image files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightloop.geneval.detectors import (
    DetectionsFile,
    DetectorImage,
    detections_line,
    mask_of_runs,
    open_image,
    read_detections,
)
from sightloop.geneval.rules import Detection

NAME = "00000/samples/0000.png"
DOG = {"class": "dog", "box": [1, 2, 3, 4], "score": 0.5}


def written(folder: Path, *lines: Any) -> Path:
    """A detections file of these lines."""
    file = folder / "detections.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return file


def picture(width: int = 4, height: int = 3, file: str = NAME) -> DetectorImage:
    """An empty image."""
    return DetectorImage(file=file, image=Image.new("RGB", (width, height)))


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    seen = [
        Detection(name="dog", box=(1.0, 2.0, 3.5, 4.0), score=0.25, color="red"),
        Detection(name="cat", box=(0.0, 0.0, 4.0, 3.0), score=0.9),
    ]
    file = tmp_path / "detections.jsonl"
    file.write_text(
        json.dumps({"protocol": {"detector": "x", "floor": 0.3}}) + "\n" + detections_line(picture(), seen)
    )
    source = DetectionsFile(file)
    assert source.detect([picture()]) == [seen]
    assert source.protocol == {"detector": "x", "floor": "0.3"}


def test_a_file_without_protocol_is_known_by_its_content(tmp_path: Path) -> None:
    first = DetectionsFile(written(tmp_path, {"file": NAME, "detections": [DOG]})).protocol
    other = DetectionsFile(written(tmp_path, {"file": NAME, "detections": []})).protocol
    assert first["detector"] == other["detector"] == "file"
    assert first["detections"] != other["detections"]


def test_an_image_without_a_line_or_of_another_size_is_refused(tmp_path: Path) -> None:
    source = DetectionsFile(written(tmp_path, {"file": NAME, "size": [4, 3], "detections": []}))
    assert source.detect([picture()]) == [[]]
    with pytest.raises(ValueError, match=r"says nothing about other.png"):
        source.detect([picture(file="other.png")])
    with pytest.raises(ValueError, match="of 4 x 3 pixels; it has 3 x 4"):
        source.detect([picture(3, 4)])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"class": "mouse"}, "GenEval's name of COCO's 'mouse' is 'computer mouse'"),
        ({"score": 1.5}, "a score outside of 0 to 1"),
        ({"box": [1, 2, 3]}, "is no detection with"),
        ({"box": [1, 2, 3, float("inf")]}, "a box that is not finite"),
        ({"mask": {"size": [2, 2], "counts": [1, 2]}}, "runs of 3 pixels in a mask of 2 x 2"),
    ],
)
def test_a_detection_of_another_form_is_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    source = DetectionsFile(written(tmp_path, {"file": NAME, "detections": [{**DOG, **changes}]}))
    with pytest.raises(ValueError, match=told):
        source.detect([picture()])


def test_lines_of_another_form_are_refused(tmp_path: Path) -> None:
    line = {"file": NAME, "detections": []}
    with pytest.raises(ValueError, match=r"line 2 names 00000/samples/0000.png a second time"):
        read_detections(written(tmp_path, line, line))
    with pytest.raises(ValueError, match='line 1 needs "file" and a list of "detections"'):
        read_detections(written(tmp_path, {"file": NAME}))
    (tmp_path / "detections.jsonl").write_text("{")
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        read_detections(tmp_path / "detections.jsonl")
    with pytest.raises(ValueError, match="does not exist"):
        read_detections(tmp_path / "none.jsonl")


def packed(lengths: list[int]) -> str:
    """Run lengths as COCO's tools write them as text."""
    text = ""
    for place, length in enumerate(lengths):
        value = length - (lengths[place - 2] if place > 2 else 0)
        while True:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr((bits | 32 * more) + 48)
            if not more:
                break
    return text


def test_run_lengths_go_down_the_columns_as_numbers_and_as_text() -> None:
    mask = mask_of_runs({"size": [2, 3], "counts": [1, 2, 3]})
    assert mask.tolist() == [[False, True, False], [True, False, False]]
    assert mask_of_runs({"size": [2, 2], "counts": [0, 4]}).all()
    rng = np.random.default_rng(0)
    for _ in range(50):
        lengths = [int(n) for n in rng.integers(0, 3000, rng.integers(1, 12))]
        size = [1, sum(lengths)]
        told = mask_of_runs({"size": size, "counts": packed(lengths)})
        assert np.array_equal(told, mask_of_runs({"size": size, "counts": lengths}))


def test_images_are_upright_rgb_with_white_behind_transparency(tmp_path: Path) -> None:
    wide = Image.new("RGB", (8, 4), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (4, 8)
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    Image.new("L", (2, 2), 7).save(tmp_path / "grey.png")
    assert open_image(tmp_path / "grey.png").getpixel((0, 0)) == (7, 7, 7)


def test_images_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "half.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:4000])
    Image.fromarray(np.zeros((2, 2), np.uint16)).save(tmp_path / "deep.png")
    for name, told in (
        ("text", "text.png cannot"),
        ("half", "half.png cannot"),
        ("deep", "more than 8 bits"),
        ("no", "no.png"),
    ):
        with pytest.raises(ValueError, match=told):
            open_image(tmp_path / f"{name}.png")
