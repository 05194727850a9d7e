"""Captions, their grammar, and facts checked by hand."""

from collections import Counter

import numpy as np
import pytest

from sightloop.world.language import (
    FACTS_PER_THING,
    PREFIX_PROBABILITY,
    PREFIXES,
    WORDS,
    FactCount,
    caption,
    caption_tokens,
    check_words,
    count_facts,
    full_caption,
    natural_caption,
    parses,
)
from sightloop.world.scenes import GROUNDS, Scene, Thing, mutate, sample_scene

CIRCLE = Thing(size="small", color="red", shape="circle", corner="top-left")
OTHER = Thing(size="large", color="red", shape="square", corner="top-right")
CROSS = Thing(size="small", color="blue", shape="cross", corner="bottom-right")
SCENE = Scene(ground="white", things=(CIRCLE, OTHER, CROSS))
TOTAL = 13

FACTS = [
    # (caption, true, false)
    ("", 0, 0),
    ("there is", 0, 0),
    ("a red circle", 2, 0),
    ("a small red circle top-left", 4, 0),
    ("a large red circle top-left", 3, 1),
    ("a small red circle bottom-left", 3, 1),
    ("a small red triangle top-left", 3, 1),
    # Color and shape fit nothing together with nothing: all of it is made up.
    ("a green triangle", 0, 2),
    ("a small green triangle top-left", 0, 4),
    # It agrees with the square most, and gets its size wrong.
    ("a small red square top-right", 3, 1),
    # Two red things, then a third that is not there.
    ("a red circle, a red square, a red circle", 4, 2),
    ("a blue cross bottom-right, a red square top-right, a red circle top-left", 9, 0),
    (
        "a small red circle top-left, a large red square top-right, a small blue cross bottom-right on white",
        13,
        0,
    ),
    ("a red circle on black", 2, 1),
    ("a red circle on white", 3, 0),
    # The same ground twice tells nothing new.
    ("a red circle on white on white", 3, 1),
    ("a red circle on black on white", 2, 2),
    # A ground needs its preposition, or it is no statement.
    ("white a red circle", 2, 0),
    ("a white circle", 1, 0),
    ("on", 0, 0),
    ("a", 0, 0),
    ("a small", 0, 1),
    ("top-left", 0, 1),
    # Without commas a new article, or an attribute of a kind already named, begins a new phrase.
    ("a red circle a blue cross", 4, 0),
    ("red circle blue cross", 4, 0),
    ("a red red circle", 2, 1),
    ("an image of a red circle", 2, 0),
    ("A RED CIRCLE", 2, 0),
    ("a pink hexagon", 0, 0),
]


@pytest.mark.parametrize(("text", "true", "false"), FACTS, ids=[case[0] for case in FACTS])
def test_facts_by_hand(text, true, false) -> None:
    assert count_facts(SCENE, text) == FactCount(true=true, false=false, total=TOTAL)


def test_verdicts_name_the_wrong_words() -> None:
    words = caption_tokens("a large red circle top-left , a blue cross on black")
    assert check_words(SCENE, words) == [0, -1, 1, 1, 1, 0, 0, 1, 1, 0, -1]


def test_a_phrase_goes_to_the_thing_it_agrees_with_most() -> None:
    # First come would give the circle's facts to the square's phrase.
    assert count_facts(SCENE, "a large red square, a small red circle").false == 0


GRAMMATICAL = [
    "a red circle",
    "a small red circle top-left",
    "a red circle, a blue cross on gray",
    "a red circle , a blue cross on gray",
    "there is a red circle on black",
    "an image of a large orange triangle bottom-left",
    "A Red Circle",
]
UNGRAMMATICAL = [
    "",
    "red circle",
    "a circle",
    "a red",
    "a red small circle",
    "a red red circle",
    "a red circle a blue cross",
    "a red circle,",
    "a red circle on",
    "a red circle on red",
    "a red circle on white on white",
    "on white a red circle",
    "there is there is a red circle",
    "there is",
    "a red circle top-left top-left",
    ", a red circle",
]


@pytest.mark.parametrize("text", GRAMMATICAL)
def test_sentences_of_the_world_parse(text) -> None:
    assert parses(text)


@pytest.mark.parametrize("text", UNGRAMMATICAL)
def test_anything_else_does_not(text) -> None:
    assert not parses(text)


def test_captions_of_every_style_are_true_and_grammatical() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        scene = sample_scene(rng)
        for style in ("short", "medium", "full"):
            text = caption(scene, style, rng)
            counts = count_facts(scene, text)
            assert counts.false == 0
            assert counts.true >= 2
            assert parses(text)
            assert set(caption_tokens(text)) <= set(WORDS)
        assert count_facts(scene, caption(scene, "full", rng)).true == counts.total


def test_the_full_caption_tells_everything_of_its_own_scene_only() -> None:
    assert full_caption(SCENE) == (
        "a small red circle top-left, a large red square top-right, a small blue cross bottom-right on white"
    )
    rng = np.random.default_rng(2)
    for _ in range(100):
        scene = sample_scene(rng)
        other = mutate(scene, rng)
        counts = count_facts(other, full_caption(scene))
        assert (counts.false > 0) == (other != scene)


def test_people_write_as_much_about_every_ground_and_nearly_always_little() -> None:
    rng = np.random.default_rng(3)
    told: dict[str, list[int]] = {ground: [] for ground in GROUNDS}
    openings: Counter[bool] = Counter()
    for _ in range(1500):
        scene = sample_scene(rng)
        text = natural_caption(scene, rng)
        counts = count_facts(scene, text)
        assert counts.false == 0
        told[scene.ground].append(counts.true)
        openings[text.startswith(PREFIXES)] += 1
    facts = [float(np.mean(values)) for values in told.values()]
    assert max(facts) - min(facts) < 0.3
    assert max(facts) < FACTS_PER_THING
    assert openings[True] / 1500 == pytest.approx(PREFIX_PROBABILITY, abs=0.03)


def test_words_are_one_token_each_and_unique() -> None:
    assert len(set(WORDS)) == len(WORDS)
    assert caption_tokens("a small red circle top-left,a blue cross.") == [
        *["a", "small", "red", "circle", "top-left", ","],
        *["a", "blue", "cross"],
    ]
