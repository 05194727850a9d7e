"""The world as files: the same by seed, found again, checked against their truth."""

import json

import numpy as np
import pytest
from PIL import Image

from sightloop.world.bundled import MANIFEST
from sightloop.world.image_folder import read_scenes, share_grammatical, truth_of, write_images
from sightloop.world.language import full_caption


def bytes_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_is_the_same_for_the_same_name_and_seed(tmp_path) -> None:
    one = write_images(tmp_path / "one" / "train", number=6, seed=4)
    again = write_images(tmp_path / "two" / "train", number=6, seed=4)
    assert bytes_of(one) == bytes_of(again)
    assert len(bytes_of(one)) == 7
    other_seed = write_images(tmp_path / "three" / "train", number=6, seed=5)
    held_out = write_images(tmp_path / "one" / "held_out", number=6, seed=4)
    assert read_scenes(other_seed) != read_scenes(one)
    assert read_scenes(held_out) != read_scenes(one), "training and held-out pictures are the same"


def test_every_image_has_its_scene_and_its_truth(tmp_path) -> None:
    folder = write_images(tmp_path, number=5, seed=0)
    scenes, truth = read_scenes(folder), truth_of(folder)
    assert sorted(scenes) == sorted(path.name for path in folder.glob("*.png"))
    for name, scene in scenes.items():
        assert np.asarray(Image.open(folder / name)).shape == (32, 32, 3)
        counts = truth(str(folder / name), full_caption(scene))
        assert (counts.true, counts.false) == (counts.total, 0)
        assert truth(f"elsewhere/{name}", "a pink cow").true == 0


def test_images_are_drawn_once(tmp_path) -> None:
    folder = write_images(tmp_path, number=4, seed=0)
    (folder / "00002.png").write_bytes(b"changed")
    write_images(folder, number=4, seed=0)
    assert (folder / "00002.png").read_bytes() == b"changed"


def test_an_unfinished_folder_is_drawn_again(tmp_path) -> None:
    whole = bytes_of(write_images(tmp_path / "a" / "train", number=4, seed=0))
    broken = tmp_path / "b" / "train"
    broken.mkdir(parents=True)
    (broken / "00000.png").write_bytes(b"half")
    assert bytes_of(write_images(broken, number=4, seed=0)) == whole


def test_another_number_of_scenes_is_refused(tmp_path) -> None:
    folder = write_images(tmp_path, number=4, seed=0)
    with pytest.raises(ValueError, match="holds 4 scenes, not 5"):
        write_images(folder, number=5, seed=0)


def test_scenes_of_another_seed_are_refused(tmp_path) -> None:
    folder = write_images(tmp_path / "train", number=6, seed=0)
    assert write_images(folder, number=6, seed=0) == folder
    for seed in range(1, 9):
        with pytest.raises(ValueError, match=f"holds other scenes than seed {seed} draws"):
            write_images(folder, number=6, seed=seed)


def test_the_manifest_is_a_scene_a_line(tmp_path) -> None:
    lines = (write_images(tmp_path, number=3, seed=0) / MANIFEST).read_text().splitlines()
    assert [json.loads(line)["file"] for line in lines] == ["00000.png", "00001.png", "00002.png"]


def test_the_share_of_grammatical_captions() -> None:
    assert share_grammatical(["a red circle", "red", "a blue cross on white", "a a"]) == 0.5
