"""Our own sources of images on folders of files that nobody here wrote."""

from __future__ import annotations

import numpy as np
import pytest
from photographs import folder_of, path_of

from sightloop.data.decode import Decoding
from sightloop.data.encoded import Broken, load
from sightloop.data.sources import open_source

SMALL = Decoding(size=64)


def test_a_folder_of_photographs_is_read_and_its_other_files_are_passed_over() -> None:
    source = open_source(str(folder_of("sklearn")))
    assert [picture.source for picture in source.pictures()] == [
        str(path_of(n)) for n in ("china.jpg", "flower.jpg")
    ]
    china, flower = (load(picture, SMALL) for picture in source.pictures())
    assert isinstance(china, np.ndarray) and isinstance(flower, np.ndarray)
    assert china.shape == flower.shape == (64, 64, 3)
    # The sky over the lake is nearly white, the ground behind the dahlia dark green.
    assert china[4, 60].min() > 200
    assert flower[4, 4].max() < 110 and flower[4, 4].argmax() != 0
    # The heart of the dahlia is orange.
    red, green, blue = flower[32, 32].tolist()
    assert red > green > blue


def test_of_a_folder_of_many_formats_only_what_pillow_cannot_read_is_broken() -> None:
    read = {
        picture.source: load(picture, SMALL) for picture in open_source(str(folder_of("skimage"))).pictures()
    }
    assert len(read) > 25 and {".png", ".jpg", ".gif", ".tif"} <= {name[name.rindex(".") :] for name in read}
    # Its planes lie one after the other, in pages of their own.
    assert [name for name, found in read.items() if isinstance(found, Broken)] == [
        str(folder_of("skimage") / "multipage_rgb.tif")
    ]


def test_a_folder_with_a_compressed_file_among_its_images_asks_for_a_glob() -> None:
    folder = folder_of("matplotlib")
    with pytest.raises(ValueError, match="give a glob that names one kind"):
        open_source(str(folder))
    assert str(path_of("grace_hopper.jpg")) in {p.source for p in open_source(f"{folder}/*.jpg").pictures()}
