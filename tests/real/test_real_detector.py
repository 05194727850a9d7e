"""GenEval's rules on what a real COCO detector sees on photographs; boxes and verdicts by eye."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from photographs import photograph, side_by_side
from yolox_nano import detect

from sightloop.cli import main

DETECTOR = f"{Path(__file__).parent / 'yolox_nano.py'}:detect"
Box = tuple[float, float, float, float]
# The corners that a person sees, to about ten pixels.
SEEN: list[tuple[str, str, Box]] = [
    ("astronaut.png", "person", (15, 15, 362, 512)),
    ("camera.png", "person", (0, 62, 330, 512)),
    ("grace_hopper.jpg", "person", (15, 25, 512, 600)),
    # The black tab at the neck and the shirt below it.
    ("grace_hopper.jpg", "tie", (205, 405, 300, 525)),
    ("chelsea.png", "cat", (0, 0, 451, 300)),
    ("coffee.png", "cup", (172, 18, 410, 305)),
    ("coffee.png", "dining table", (0, 0, 600, 400)),
    ("motorcycle_left.png", "motorcycle", (100, 85, 685, 450)),
]
# What the detector is sure of, for the tests of whole images.
OBJECTS = {
    "astronaut.png": {"person"},
    "camera.png": {"person"},
    "grace_hopper.jpg": {"person", "tie"},
    "chelsea.png": {"cat"},
    "coffee.png": {"cup", "dining table"},
    "motorcycle_left.png": {"motorcycle"},
    # A rocket, a tower and a flower are no classes of COCO.
    "rocket.jpg": set[str](),
    "china.jpg": set[str](),
    "flower.jpg": set[str](),
    "page.png": set[str](),
    # The detector errs: a person sees old coins.
    "coins.png": {"clock"},
}


def overlap(one: Box, other: Box) -> float:
    """Shared share of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


@pytest.mark.parametrize(("name", "what", "box"), SEEN)
def test_boxes_lie_where_a_person_sees_the_object(name: str, what: str, box: Box) -> None:
    # Weaker boxes of the same thing may follow.
    found = max(
        (each for each in detect([photograph(name)])[0] if each["class"] == what),
        key=lambda each: each["score"],
    )
    assert overlap(found["box"], box) > 0.65 and found["score"] > 0.6


def test_what_is_surely_seen_is_what_is_there() -> None:
    for name, objects in OBJECTS.items():
        seen = {each["class"] for each in detect([photograph(name)])[0] if each["score"] > 0.5}
        assert seen == objects, name


def clause(name: str, count: int = 1, **more: Any) -> dict[str, Any]:
    """One clause of GenEval's metadata."""
    return {"class": name, "count": count, **more}


def position(subject: str, relation: str, target: str) -> dict[str, Any]:
    """A prompt of the position task: officially the target comes first."""
    return {
        "tag": "position",
        "include": [clause(target), clause(subject, position=[relation, 0])],
        "prompt": f"a photo of a {subject} {relation} a {target}",
    }


def plain(tag: str, prompt: str, *include: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Any other prompt."""
    return {"tag": tag, "include": list(include), "prompt": prompt, **more}


def counting(number: int, words: str) -> dict[str, Any]:
    """So many cups and not one more."""
    exclude = [clause("cup", number + 1)]
    return plain("counting", f"a photo of {words} cups", clause("cup", number), exclude=exclude)


CAT_AND_CUP = ("chelsea.png", "coffee.png")
# Photographs in a row, what they were asked to show, and what is wrong with them to the eye.
CASES: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
    (("chelsea.png",), plain("single_object", "a photo of a cat", clause("cat")), ""),
    (
        ("astronaut.png",),
        plain("single_object", "a photo of a dog", clause("dog")),
        "expected dog>=1, found 0",
    ),
    (
        ("coffee.png",),
        plain("two_object", "a photo of a cup and a dining table", clause("cup"), clause("dining table")),
        "",
    ),
    (
        CAT_AND_CUP,
        plain("two_object", "a photo of a cat and a person", clause("cat"), clause("person")),
        "expected person>=1, found 0",
    ),
    (("coffee.png",) * 3, counting(3, "three"), ""),
    (("coffee.png",) * 3, counting(2, "two"), "expected cup<3, found 3"),
    (("coffee.png",) * 2, counting(4, "four"), "expected cup>=4, found 2"),
    (CAT_AND_CUP, position("cat", "left of", "cup"), ""),
    (
        CAT_AND_CUP[::-1],
        position("cat", "left of", "cup"),
        "expected cat left of target, found right of target",
    ),
    (("astronaut.png", "motorcycle_left.png"), position("motorcycle", "right of", "person"), ""),
]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results file of `sightloop evaluate geneval` on the cases."""
    root = tmp_path_factory.mktemp("geneval")
    for place, (names, prompt, _) in enumerate(CASES):
        samples = root / "images" / f"{place:05}" / "samples"
        samples.mkdir(parents=True)
        (samples.parent / "metadata.jsonl").write_text(json.dumps(prompt))
        side_by_side(*names).save(samples / "0000.png")
    (root / "prompts.jsonl").write_text("\n".join(json.dumps(prompt) for _, prompt, _ in CASES))
    words = ["evaluate", "geneval", "--images", str(root / "images"), "--detector", DETECTOR]
    # Three cups in a row are seen with .5 and more; the official .9 was set for another detector.
    main(
        [
            *words,
            "--prompt-file",
            str(root / "prompts.jsonl"),
            "--counting-threshold",
            "0.5",
            "--detect-batch",
            "3",
        ]
    )
    lines = (root / "images" / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("place", range(len(CASES)), ids=[prompt["prompt"] for _, prompt, _ in CASES])
def test_the_verdict_is_that_of_the_eye(place: int, evaluated: list[dict[str, Any]]) -> None:
    found = evaluated[place]
    assert (found["correct"], found["reason"]) == (not CASES[place][2], CASES[place][2])
