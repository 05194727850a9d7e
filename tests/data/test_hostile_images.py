"""Files that were made to do harm: they cost no memory, reach nothing outside their folder, and are named."""

from __future__ import annotations

import json
import multiprocessing
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_samples import encoded, numbered, photo_like, write_tar, write_video
from PIL import Image

from sightloop.data import shards
from sightloop.data.decode import Decoding, decode
from sightloop.data.encoded import Broken, load
from sightloop.data.images import ImageSet
from sightloop.data.sources import open_source

MIB = 1 << 20


def peak_of(work: Callable[[], Any]) -> int:
    """How many bytes a process of its own needed more than before for this work."""

    def measured(answers: Any) -> None:
        # What the parent once held counts as the child's peak until it is reset.
        Path("/proc/self/clear_refs").write_text("5")
        before = _peak()
        work()
        answers.put(_peak() - before)

    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    child = fork.Process(target=measured, args=(answers,))
    child.start()
    found = answers.get(timeout=60)
    child.join()
    return found


def _peak() -> int:
    told = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    return int(told.split()[0]) * 1024


def reasons(spec: Path) -> list[str]:
    """What is wrong with each image of a source, "" where nothing is."""
    found = [load(picture, Decoding(size=4)) for picture in open_source(str(spec)).pictures()]
    return [one.reason if isinstance(one, Broken) else "" for one in found]


def sparse_header(path: Path, kind: bytes, size: int) -> Path:
    """An archive whose first header says that so many bytes of names follow; a hole on the disk."""
    header = tarfile.TarInfo("a")
    header.type, header.size = kind, size
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT))
    os.truncate(path, 512 + size + 1024)
    return path


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_a_header_of_gigabytes_is_not_read(kind: bytes, tmp_path: Path) -> None:
    path = sparse_header(tmp_path / "a.tar", kind, 4 << 30)
    assert peak_of(lambda: reasons(path)) < 50 * MIB
    (reason,) = reasons(path)
    assert "a header has more than 1048576 bytes" in reason


def test_a_member_of_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, {"a.png": numbered(1)})
    content = bytearray(path.read_bytes())
    content[124:136] = b"\x80" + (20 << 30).to_bytes(11, "big")
    content[148:156] = b" " * 8
    content[148:156] = f"{sum(content[:512]):06o}\0 ".encode()
    path.write_bytes(content)
    assert any("more than the" in reason for reason in reasons(path))


def test_equal_rows_of_a_table_are_in_memory_once(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * 32, pa.int32()), [bytes(40 * MIB)])
    pq.write_table(pa.table({"image": rows}), path, compression="zstd")

    def held() -> None:
        # As a shuffle buffer would hold them.
        pictures = list(shards.parquet_images(str(path), 0, column="image"))
        assert [load(picture, Decoding(size=4)) for picture in pictures[:2]]

    assert path.stat().st_size < MIB
    assert peak_of(held) < 300 * MIB


def test_a_column_that_would_swell_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [bytes([number]) * (8 * MIB) for number in range(20)]
    pq.write_table(pa.table({"image": rows}), path, compression="zstd", use_dictionary=False)
    assert peak_of(lambda: reasons(path)) < 100 * MIB
    (reason,) = reasons(path)
    assert "images are not so" in reason and "row 0" in reason


def test_a_large_row_is_read_when_it_is_wanted(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (700, 700, 3), dtype=np.uint8))
    rows = [encoded(noise.rotate(90 * turn)) for turn in range(3)]
    assert min(map(len, rows)) > MIB
    pq.write_table(pa.table({"image": rows}), tmp_path / "a.parquet", row_group_size=2)
    pictures = list(open_source(str(tmp_path / "a.parquet")).pictures())
    assert [picture.read() for picture in pictures] == rows
    pq.write_table(pa.table({"image": rows[:2]}), tmp_path / "a.parquet")
    last = load(pictures[2], Decoding(size=4))
    assert isinstance(last, Broken) and "cannot be read again" in last.reason


@pytest.mark.parametrize("name", ["../secret.png", "{}/secret.png", "a/../../secret.png", "a\0b.png"])
def test_a_row_of_a_table_reaches_nothing_outside_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.png").write_bytes(numbered(3))
    rows = [{"bytes": None, "path": name.format(tmp_path)}, {"bytes": numbered(1), "path": "/anywhere"}]
    pq.write_table(pa.table({"image": rows}), tmp_path / "data" / "a.parquet")
    first, second = reasons(tmp_path / "data" / "a.parquet")
    assert "leads out of the folder" in first and second == ""


@pytest.mark.parametrize("field", ["filename", "filepath"])
def test_a_json_of_captions_reaches_nothing_outside_its_folder(field: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "0.png").write_bytes(numbered(3))
    entry = {"filename": "0.png", "split": "train", "sentences": [{"raw": "a"}]}
    entry[field] = "../0.png" if field == "filename" else str(tmp_path)
    (tmp_path / "data" / "a.json").write_text(json.dumps({"images": [entry]}))
    with pytest.raises(ValueError, match="leads out of the folder"):
        open_source(str(tmp_path / "data" / "a.json"))


@pytest.mark.parametrize(
    "content",
    [
        "ffconcat version 1.0\nfile 'secret.mp4'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n",
    ],
)
def test_a_list_of_other_files_is_no_video(content: str, tmp_path: Path) -> None:
    pytest.importorskip("av")
    write_video(tmp_path / "secret.mp4", [np.zeros((32, 32, 3), np.uint8)], keyframe_every=1)
    (tmp_path / "a.mp4").write_text(content)
    (found,) = open_source(str(tmp_path / "a.mp4")).pictures()
    broken = load(found, Decoding(size=4))
    assert isinstance(broken, Broken) and "cannot be read beyond 0 keyframes" in broken.reason


def test_a_large_photograph_is_decoded_in_a_reduced_size_and_looks_the_same(tmp_path: Path) -> None:
    small = photo_like(500, 400)
    large = encoded(small.resize((8000, 6400), Image.Resampling.BICUBIC), "JPEG", quality=90)
    found = decode(large, Decoding(size=32))
    whole = decode(encoded(small), Decoding(size=32))
    assert np.abs(found.astype(int) - whole.astype(int)).max() < 12
    assert peak_of(lambda: decode(large, Decoding(size=32))) < 60 * MIB


def test_a_large_image_with_transparency_needs_little_more_than_itself() -> None:
    # 25 million pixels, of which each is 4 bytes, and 3 in the result.
    large = encoded(Image.new("RGBA", (5000, 5000)))
    assert peak_of(lambda: decode(large, Decoding(size=8))) < 9 * 25 * MIB


def test_deep_grey_needs_little_more_than_itself() -> None:
    large = encoded(Image.fromarray(np.zeros((4000, 4000), np.uint16)))
    assert peak_of(lambda: decode(large, Decoding(size=8))) < 9 * 16 * MIB


def test_a_name_that_is_no_text_is_a_name(tmp_path: Path) -> None:
    for name in (b"caf\xe9.png", b"a\nb.png", b"\x1b[31mred.png"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(numbered(1))
    source = open_source(str(tmp_path))
    assert len(source.fingerprint()) == 16
    assert sum(len(batch) for batch in ImageSet(source, Decoding(size=4))) == 3


def test_the_peak_is_seen() -> None:
    assert peak_of(lambda: np.ones(100 * MIB, np.uint8)) > 90 * MIB
