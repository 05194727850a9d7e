"""The checker on images whose truth is known: exact where clean, robust to what image tokenizers do."""

import numpy as np
import pytest

from sightloop.world.checker import SURE, corner_of, detect
from sightloop.world.quizzes import sample_drawn_scene
from sightloop.world.scenes import (
    COLOR_RGB,
    COLORS,
    CORNERS,
    GROUNDS,
    SHAPES,
    Scene,
    Thing,
    render,
    sample_scene,
)


def things_of(scene: Scene) -> list[tuple[str, str | None, str]]:
    return sorted((thing.shape, thing.color, thing.corner) for thing in scene.things)


def things_in(picture: np.ndarray) -> list[tuple[str, str | None, str]]:
    return sorted((d.name, d.color, corner_of(d)) for d in detect(picture) if d.score > SURE)


def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    distance = np.arange(-5, 6)
    weights = np.exp(-(distance**2) / (2 * sigma**2))
    weights /= weights.sum()
    values = np.pad(picture.astype(float), ((5, 5), (5, 5), (0, 0)), mode="edge")
    for axis in (0, 1):
        values = np.apply_along_axis(lambda line: np.convolve(line, weights, "same"), axis, values)
    return values[5:-5, 5:-5].round().astype(np.uint8)


def noisy(picture: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return (picture + rng.normal(0, sigma, picture.shape)).clip(0, 255).round().astype(np.uint8)


def share_exact(change, *, sample=sample_drawn_scene, number: int = 120, seed: int = 0) -> float:
    rng = np.random.default_rng(seed)
    right = 0
    for _ in range(number):
        scene = sample(rng)
        right += things_in(change(render(scene, rng), rng)) == things_of(scene)
    return right / number


def test_clean_images_are_read_without_an_error() -> None:
    assert share_exact(lambda picture, rng: picture) == 1


def test_small_shapes_are_read_without_an_error_too() -> None:
    assert share_exact(lambda picture, rng: picture, sample=sample_scene) == 1


def test_noise_hardly_matters() -> None:
    assert share_exact(lambda picture, rng: noisy(picture, 16, rng)) > 0.97


def test_blur_hardly_matters() -> None:
    assert share_exact(lambda picture, rng: blurred(picture, 1.0)) > 0.97


def test_blur_with_noise_hardly_matters() -> None:
    assert share_exact(lambda picture, rng: noisy(blurred(picture, 0.7), 16, rng)) > 0.97


def test_a_tint_hardly_matters() -> None:
    def tinted(picture, rng):
        return (picture + rng.uniform(-15, 15, 3)).clip(0, 255).round().astype(np.uint8)

    assert share_exact(tinted) > 0.97


@pytest.mark.parametrize("ground", GROUNDS)
def test_every_shape_and_color_is_told_from_all_others(ground) -> None:
    rng = np.random.default_rng(1)
    for shape in SHAPES:
        for color in COLORS:
            thing = Thing(size="large", color=color, shape=shape, corner="bottom-left")
            picture = render(Scene(ground=ground, things=(thing,)), rng)
            assert things_in(picture) == [(shape, color, "bottom-left")]


def test_boxes_lie_where_the_things_are() -> None:
    for corner, (row, column) in zip(CORNERS, ((8, 8), (8, 24), (24, 8), (24, 24)), strict=True):
        thing = Thing(size="large", color="blue", shape="square", corner=corner)
        (found,) = detect(render(Scene(ground="white", things=(thing,)), np.random.default_rng(2)))
        left, top, right, bottom = found.box
        assert abs((left + right) / 2 - column) < 1.7
        assert abs((top + bottom) / 2 - row) < 1.7
        assert right - left == pytest.approx(2 * 0.85 * 6.6, abs=1.2)
        assert bottom - top == pytest.approx(2 * 0.85 * 6.6, abs=1.2)


def test_touching_things_of_one_color_are_two() -> None:
    picture = np.full((32, 32, 3), 242, dtype=np.uint8)
    y, x = np.mgrid[0:32, 0:32] + 0.5
    for center in (8.5, 22.0):
        picture[(y - 16) ** 2 + (x - center) ** 2 < 6.9**2] = COLOR_RGB["red"]
    found = [(d.name, d.color) for d in detect(picture) if d.score > SURE]
    assert found == [("circle", "red")] * 2


def test_touching_things_of_two_colors_are_two() -> None:
    picture = np.full((32, 32, 3), 20, dtype=np.uint8)
    picture[8:19, 4:15] = COLOR_RGB["green"]
    picture[8:19, 15:26] = COLOR_RGB["yellow"]
    found = sorted((d.name, d.color) for d in detect(picture) if d.score > SURE)
    assert found == [("square", "green"), ("square", "yellow")]


def test_empty_images_hold_nothing() -> None:
    for level in (0, 20, 128, 242, 255):
        assert detect(np.full((32, 32, 3), level, dtype=np.uint8)) == []


def test_junk_is_hardly_ever_sure() -> None:
    rng = np.random.default_rng(0)
    sure = 0
    for _ in range(40):
        salad = rng.integers(0, 256, (8, 8, 3)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
        white_noise = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
        stripes = np.full((32, 32, 3), 242, dtype=np.uint8)
        stripes[:, 4:9] = COLOR_RGB["red"]
        sure += sum(d.score > SURE for picture in (salad, white_noise, stripes) for d in detect(picture))
    assert sure / 120 < 0.2


def test_half_a_shape_of_another_is_not_sure() -> None:
    """A policy that does not plan mixes quarters of shapes; such a thing must not count as one of them."""
    rng = np.random.default_rng(0)

    def alone(shape):
        thing = Thing(size="large", color="red", shape=shape, corner="top-left")
        return render(Scene(ground="white", things=(thing,)), rng)

    clean = min(detect(alone(shape))[0].score for shape in SHAPES)
    for top, bottom in (("cross", "square"), ("triangle", "cross"), ("circle", "cross")):
        mixed = alone(top)
        mixed[8:] = alone(bottom)[8:]
        assert detect(mixed)[0].score < clean
