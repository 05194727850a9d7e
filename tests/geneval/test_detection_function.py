from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sightloop.geneval.detectors import DetectorImage
from sightloop.geneval.function_detector import FunctionDetector
from sightloop.geneval.rules import Detection

DOG = {"class": "dog", "box": [0, 1, 2, 3], "score": 0.5}


def seen(said: Any, names: tuple[str, ...] = ()) -> list[Detection]:
    """What a function that says this about one image sees."""
    detector = FunctionDetector(lambda images: [said], protocol={"detector": "mine"})
    picture = DetectorImage(file="0.png", image=Image.new("RGB", (4, 3)), names=names)
    return detector.detect([picture])[0]


def test_objects_come_as_in_a_detections_file_or_as_detections() -> None:
    dog = Detection(name="dog", box=(0, 1, 2, 3), score=0.5)
    assert seen([]) == [] and seen([DOG]) == seen([dog]) == [dog]
    assert seen([{**DOG, "box": torch.tensor([0, 1, 2, 3]), "score": np.float64(0.5)}]) == [dog]
    assert seen([{**DOG, "color": "red"}])[0].color == "red"
    mask = np.zeros((3, 4), dtype=bool)
    assert seen([{**DOG, "mask": mask}])[0].mask is mask


def test_three_classes_of_coco_get_genevals_names() -> None:
    assert seen([{**DOG, "class": "mouse"}])[0].name == "computer mouse"
    assert seen([{**DOG, "class": "remote"}], ("tv remote",))[0].name == "tv remote"
    # Prompts of one's own may speak of the animal.
    assert seen([{**DOG, "class": "mouse"}], ("mouse",))[0].name == "mouse"


def test_a_function_may_be_told_what_matters() -> None:
    detector = FunctionDetector(
        lambda images, names: [[{**DOG, "class": each[0]}] for each in names],
        protocol={"detector": "mine"},
        takes_names=True,
    )
    pictures = [DetectorImage(file=n, image=Image.new("RGB", (4, 3)), names=(n,)) for n in ("cat", "cup")]
    assert [found[0].name for found in detector.detect(pictures)] == ["cat", "cup"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("dog", "str is no list of objects"),
        (None, "NoneType is no list of objects"),
        ([{**DOG, "class": 16}], 'is no object with "class", a name'),
        ([{"class": "dog"}], "is no detection with"),
        ([{**DOG, "score": 1.5}], "a score outside of 0 to 1"),
        ([Detection(name="dog", box=(0, 1, 2, float("nan")), score=0.5)], "a box that is not finite"),
        ([{**DOG, "mask": np.zeros((3, 4))}], "a mask of float64"),
    ],
)
def test_an_answer_of_another_form_is_refused_with_the_image(said: Any, told: str) -> None:
    with pytest.raises(ValueError, match=rf"(?s)mine about 0\.png: .*{told}"):
        seen(said)


def test_every_image_needs_an_answer() -> None:
    detector = FunctionDetector(lambda images: [[]], protocol={"detector": "mine"})
    picture = DetectorImage(file="0.png", image=Image.new("RGB", (4, 3)))
    with pytest.raises(ValueError, match="mine gave 1 answers for 2 images"):
        detector.detect([picture, picture])
