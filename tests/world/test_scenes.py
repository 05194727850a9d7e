"""Scenes and their images: exact by seed, within their rules, told apart by their pixels."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from sightloop.world.scenes import (
    COLORS,
    CORNERS,
    GROUNDS,
    SHAPES,
    SIDE,
    SIZES,
    Scene,
    Thing,
    mutate,
    render,
    sample_scene,
)

CIRCLE = Thing(size="large", color="red", shape="circle", corner="top-left")
CROSS = Thing(size="small", color="blue", shape="cross", corner="bottom-right")
SCENE = Scene(ground="white", things=(CIRCLE, CROSS))


def drawn(number: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(number)]


def test_the_same_seed_gives_the_same_scenes_and_pixels() -> None:
    def everything(seed: int) -> tuple[list[Scene], np.ndarray]:
        rng = np.random.default_rng(seed)
        scenes = [sample_scene(rng) for _ in range(10)]
        return scenes, np.stack([render(scene, rng) for scene in scenes])

    scenes, pictures = everything(7)
    again, pixels = everything(7)
    assert scenes == again
    assert np.array_equal(pictures, pixels)
    assert everything(8)[0] != scenes


def test_scenes_hold_one_to_four_things_in_reading_order() -> None:
    for scene in drawn(100):
        corners = [CORNERS.index(thing.corner) for thing in scene.things]
        assert 1 <= len(corners) <= 4
        assert corners == sorted(set(corners))


def test_every_word_of_the_world_is_used() -> None:
    scenes = drawn(300)
    things = [thing for scene in scenes for thing in scene.things]
    assert {scene.ground for scene in scenes} == set(GROUNDS)
    for kind, words in (("size", SIZES), ("color", COLORS), ("shape", SHAPES), ("corner", CORNERS)):
        counts = Counter(thing.__dict__[kind] for thing in things)
        assert set(counts) == set(words)
        assert min(counts.values()) > len(things) / len(words) / 2
    assert set(Counter(len(scene.things) for scene in scenes)) == {1, 2, 3, 4}


def test_a_scene_comes_back_from_plain_data() -> None:
    for scene in drawn(5):
        assert Scene.from_json(scene.to_json()) == scene


def test_an_image_shows_its_things_where_and_as_they_are() -> None:
    picture = render(SCENE, np.random.default_rng(0))
    assert picture.shape == (SIDE, SIDE, 3)
    assert picture.dtype == np.uint8
    quarter = SIDE // 4
    red, green, blue = picture[quarter, quarter].astype(int)
    assert red > 150
    assert max(green, blue) < 100
    red, green, blue = picture[3 * quarter, 3 * quarter].astype(int)
    assert blue > 150
    assert max(red, green) < 130
    for empty in (picture[quarter, 3 * quarter], picture[3 * quarter, quarter]):
        assert empty.min() > 180


@pytest.mark.parametrize("ground", GROUNDS)
def test_large_things_cover_more_than_small_ones(ground) -> None:
    def covered(shape: str, size: str) -> float:
        alone = Scene(ground=ground, things=(replace(CIRCLE, shape=shape, size=size),))
        pictures = [render(alone, np.random.default_rng(seed)).astype(int) for seed in range(5)]
        return float(np.mean([(picture[..., 0] - picture[..., 1] > 90).sum() for picture in pictures]))

    for shape in SHAPES:
        assert covered(shape, "large") > 1.8 * covered(shape, "small") > 0


def test_a_mutation_changes_what_it_says_and_keeps_the_rules() -> None:
    rng = np.random.default_rng(1)
    for scene in drawn(100):
        other = mutate(scene, rng)
        facts = [(t.size, t.color, t.shape, t.corner) for t in scene.things]
        other_facts = [(t.size, t.color, t.shape, t.corner) for t in other.things]
        # Four things leave no corner to move to.
        assert other != scene or len(scene.things) == 4
        changed = len(set(facts) - set(other_facts)) + (other.ground != scene.ground)
        assert changed <= 1
        corners = [CORNERS.index(thing.corner) for thing in other.things]
        assert corners == sorted(set(corners))
    assert mutate(SCENE, np.random.default_rng(3), num_changes=0) == SCENE
