"""CHAIR against figures counted by hand, and the words by which captions name COCO's objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightloop.evaluation.chair import chair, coco_words, read_object_words
from sightloop.evaluation.intervals import bootstrap_interval
from sightloop.geneval.prompts import CLASSES

CAPTIONS = ["A dog and two cats on a couch, a cat asleep.", "a man with a frisbee", "green grass", "a bus"]
OBJECTS = [{"dog", "cat", "chair"}, {"person"}, {"sheep"}, {"bus"}]


def test_the_shares_are_those_counted_by_hand() -> None:
    found = chair(CAPTIONS, OBJECTS)
    # Mentions: dog, cat, couch, cat; person, frisbee; none; bus. Wrong: couch, frisbee.
    assert found.per_sample["chair_s"] == [1, 1, 0, 0]
    assert found.metrics["chair_s"] == 2 / 4
    assert found.metrics["chair_i"] == 2 / 7
    # Of dog, cat, chair, person, sheep, bus all but chair and sheep.
    assert found.metrics["object_recall"] == pytest.approx(4 / 6)
    assert found.metrics["mentions"] == 7 / 4
    assert [sample["hallucinated"] for sample in found.samples] == ["couch", "frisbee", "", ""]
    for name in ("chair_i", "object_recall"):
        interval = bootstrap_interval(found.per_sample[name])
        assert interval.value == pytest.approx(found.metrics[name])
        assert interval.low < interval.value < interval.high


def test_what_the_references_mention_is_there_too() -> None:
    references = [["a dog by a sofa"], ["someone throws"], ["a lamb"], ["a coach and a bike"]]
    found = chair(CAPTIONS, OBJECTS, references=references)
    assert found.per_sample["chair_s"] == [0, 1, 0, 0]
    # A couch and a bicycle more to find, the couch found.
    assert found.metrics["object_recall"] == pytest.approx(5 / 8)
    assert found.protocol["object_truth"] == "given objects and references"
    assert found.protocol["hash"] != chair(CAPTIONS, OBJECTS).protocol["hash"]


def test_silence_hallucinates_nothing_and_finds_nothing() -> None:
    found = chair(["", "green grass"], [{"cow"}, set()])
    assert found.metrics == {"chair_s": 0, "chair_i": 0, "object_recall": 0, "mentions": 0}


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("two men, a woman and children", ["person"] * 3),
        ("knives, wine glasses and mice", ["knife", "wine glass", "mouse"]),
        ("a hot dog beside a teddy bear", ["hot dog", "teddy bear"]),
        ("a bus stop, a fire truck, a bus", ["truck", "bus"]),
        ("a couple of zebras", ["zebra"]),
        ("a couple on a bench", ["person", "bench"]),
        ("The dog's bowl", ["dog", "bowl"]),
        ("an orange cat", ["cat"]),
        ("an orange and white cat beside an orange and a banana", ["cat", "orange", "banana"]),
        ("a bowl of oranges", ["bowl", "orange"]),
        ("a double-decker bus", ["bus", "bus"]),
        ("a tv remote and a computer keyboard", ["remote", "keyboard"]),
        ("a motorcyclist on grass", ["person"]),
        ("skis and scissors", ["skis", "scissors"]),
    ],
)
def test_words_name_the_classes_that_people_mean(caption: str, named: list[str]) -> None:
    assert coco_words().mentions(caption) == named


def test_every_class_of_coco_is_named_by_itself_and_its_plural() -> None:
    words = coco_words()
    renamed = {"computer mouse": "mouse", "tv remote": "remote", "computer keyboard": "keyboard"}
    assert words.classes == tuple(renamed.get(name, name) for name in CLASSES)
    for name in words.classes:
        assert words.mentions(f"a photo of a {name}.") == [name]
    assert chair(["a keyboard"], [{"computer keyboard"}]).metrics["chair_s"] == 0


def test_a_list_of_ones_own_replaces_the_words(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("# mine\nlamp: lantern, candle\nbox:\n! box office\n")
    words = read_object_words(tmp_path / "words.txt")
    assert words.mentions("lanterns, boxes and a box office") == ["lamp", "box"]
    assert chair(["a lantern"], [{"box"}], words=words).metrics["chair_i"] == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lamp lantern\n", "line 1 is no new `class: word, word`: 'lamp lantern'"),
        ("lamp: light\nlamp: lantern\n", "line 2 is no new"),
        ("lamp: light\nbox: light\n", "line 2: 'light' already names 'lamp'"),
        ("# nothing\n", "names no class"),
    ],
)
def test_a_wrong_list_is_refused(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(text)
    with pytest.raises(ValueError, match=told):
        read_object_words(tmp_path / "words.txt")
    with pytest.raises(ValueError, match="cannot be read"):
        read_object_words(tmp_path / "none.txt")


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="no captions"):
        chair([], [])
    with pytest.raises(ValueError, match="1 sets of objects for 2 captions"):
        chair(["a", "b"], [set()])
    with pytest.raises(ValueError, match="1 lists of references for 2 captions"):
        chair(["a", "b"], [set(), set()], references=[["a"]])
    with pytest.raises(ValueError, match="image 1 holds 'puppy', which is none of the 80 classes"):
        chair(["a", "b"], [{"dog"}, {"puppy"}])
