"""Images of a program are trained on and measured like files: lists, data sets, streams."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image

from sightloop.data.batches import Batching, ImageStream
from sightloop.data.decode import Decoding
from sightloop.data.given import given_images, source_of
from sightloop.data.images import ImageSet
from sightloop.data.sources import open_source

COLORS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
PICTURES = [Image.new("RGB", (8, 6), color) for color in COLORS]


def encoded(picture: Image.Image) -> bytes:
    """The image as PNG."""
    file = io.BytesIO()
    picture.save(file, format="png")
    return file.getvalue()


class Stream:
    """Rows that begin anew with each `iter`."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return ({"image": picture, "text": "x"} for picture in PICTURES)


def data_set() -> Dataset:
    """A data set as the hub has it: its images are files until they are wanted."""
    return Dataset.from_dict({"text": ["x"] * 3, "image": PICTURES})


FORMS: dict[str, Any] = {
    "PIL": lambda: PICTURES,
    "bytes": lambda: [encoded(picture) for picture in PICTURES],
    "numpy": lambda: np.stack([np.asarray(picture) for picture in PICTURES]),
    "tensors": lambda: [torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in PICTURES],
    "labelled": lambda: [(picture, 3) for picture in PICTURES],
    "rows": lambda: [{"image": picture, "text": "x"} for picture in PICTURES],
    "data set": data_set,
    "streamed data set": lambda: data_set().to_iterable_dataset(),
    "stream": Stream,
}


def first_pixels(source: Any) -> list[tuple[int, ...]]:
    """The color of each image of a source."""
    (batch,) = ImageSet(source, Decoding(size=2), workers=1)
    return [tuple(pixels[:, 0, 0].tolist()) for pixels in batch.images.pixels]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_images(form: str) -> None:
    spec = given_images(FORMS[form](), name="images")
    assert spec == "python:images"
    source = open_source(spec)
    assert first_pixels(source) == first_pixels(source) == COLORS


def test_names_of_files_are_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, picture in zip(paths, PICTURES, strict=True):
        picture.save(path)
    assert first_pixels(source_of(paths)) == COLORS
    assert [each.source for each in source_of(paths).pictures()] == [str(path) for path in paths]
    assert given_images(tmp_path, name="images") == str(tmp_path)


@pytest.mark.parametrize("form", ["PIL", "streamed data set"])
def test_an_endless_stream_of_them_goes_on_where_it_stood(form: str) -> None:
    def stream() -> ImageStream:
        batching = Batching(batch_size=2, seed=5, workers=1)
        return ImageStream(source_of(FORMS[form]()), Decoding(size=2), batching)

    whole = stream()
    batches = [next(whole) for _ in range(4)]
    half = stream()
    for _ in range(2):
        next(half)
    rest = stream()
    rest.load_state_dict(half.state_dict())
    assert [next(rest).sources, next(rest).sources] == [batch.sources for batch in batches[2:]]
    for each in (whole, half, rest):
        each.close()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "images is empty"),
        (PICTURES[0], r"is one image; give a list: \[image\]"),
        (3, "images is int 3; give a folder"),
        ([3], "holds int 3: .* is no image"),
        (iter(PICTURES), "can be walked only once"),
        (DatasetDict({"train": data_set(), "test": data_set()}), "has the parts train, test; give one"),
        ([{"text": "x"}], r"no column of images \(of text\)"),
        ([{"a": PICTURES[0], "b": PICTURES[1]}], "several columns of images, a, b"),
    ],
)
def test_what_is_no_images_is_refused(images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source_of(images)


def test_images_that_are_gone_are_asked_for() -> None:
    with pytest.raises(ValueError, match=r"given in Python .* sightloop.train\(resume=RUN, elsewhere=...\)"):
        open_source("python:elsewhere")
