"""Fingerprints see other names, sizes and contents, and cost little."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sightloop.storage.fingerprints import fingerprint_of_file, fingerprint_of_files, fingerprint_of_model


def test_a_model_is_another_with_other_weights_and_the_same_with_another_card(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(os.urandom(3_000_000))
    before = fingerprint_of_model(tmp_path)
    (tmp_path / "README.md").write_text("card")
    assert fingerprint_of_model(tmp_path) == before
    data = weights.read_bytes()
    weights.write_bytes(bytes((byte + 1) % 256 for byte in data))
    assert fingerprint_of_model(tmp_path) != before
    weights.write_bytes(data)
    assert fingerprint_of_model(tmp_path) == before
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert fingerprint_of_model(tmp_path) != before


def test_of_a_large_file_at_most_a_mebibyte_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.safetensors"
    with file.open("wb") as opened:
        opened.truncate(8 << 30)
    before = fingerprint_of_file(file)
    with file.open("r+b") as opened:
        opened.seek((8 << 30) - 1)
        opened.write(b"x")
    assert fingerprint_of_file(file) != before


def test_images_are_told_apart_by_contents_wherever_they_lie(tmp_path: Path) -> None:
    def made(folder: str, text: bytes) -> list[str]:
        (tmp_path / folder).mkdir()
        paths = [tmp_path / folder / f"{number}.png" for number in range(3)]
        for path in paths:
            path.write_bytes(text)
        return [str(path) for path in paths]

    here, there, others = made("here", b"abc"), made("there", b"abc"), made("others", b"xyz")
    assert fingerprint_of_files(here) == fingerprint_of_files(there) != fingerprint_of_files(others)
    assert fingerprint_of_files(here[:2]) != fingerprint_of_files(here)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert fingerprint_of_files([str(tmp_path / "a.png"), str(tmp_path / "missing.png")])
