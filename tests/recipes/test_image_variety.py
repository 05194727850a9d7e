"""A batch that holds the same image several times is told before a run begins."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from sightloop.data.given import source_of
from sightloop.data.sources import open_source
from sightloop.recipes.image_variety import say_if_alike
from sightloop.world.image_folder import write_images


def test_too_few_images_and_copies_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path, number=6, seed=0)
    say_if_alike(open_source(str(tmp_path)), 6)
    assert capsys.readouterr().err == ""
    say_if_alike(open_source(str(tmp_path)), 8)
    assert "6 images for a batch of 8: each comes several times in it" in capsys.readouterr().err
    for number in range(4):
        shutil.copy(tmp_path / "00000.png", tmp_path / f"copy{number}.png")
    say_if_alike(open_source(str(tmp_path)), 8)
    assert capsys.readouterr().err == ""
    for number in range(4, 8):
        shutil.copy(tmp_path / "00000.png", tmp_path / f"copy{number}.png")
    say_if_alike(open_source(str(tmp_path)), 8)
    told = capsys.readouterr().err
    assert "of 14 images that were compared only 6 differ" in told and "00000.png is there 9 times" in told


def test_images_that_a_program_holds_are_not_taken_for_copies(capsys: pytest.CaptureFixture[str]) -> None:
    images = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in range(12)]
    say_if_alike(source_of(images), 4)
    assert capsys.readouterr().err == ""
