"""What a source names: folders, globs, shards, tables, COCO and videos, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_samples import (
    encoded,
    numbered,
    photo_like,
    write_folder,
    write_parquet,
    write_tar,
    write_tars,
    write_video,
)
from PIL import Image

from sightloop.data.decode import Decoding
from sightloop.data.encoded import Broken, load
from sightloop.data.shards import tar_images
from sightloop.data.sources import FileSource, ShardSource, Source, expand_braces, open_source


def contents(source: Source) -> list[int]:
    """The numbers of the images in their order; -1 where one is broken."""
    loaded = [load(picture, Decoding(size=4)) for picture in source.pictures()]
    return [-1 if isinstance(p, Broken) else int(p[0, 0, 0]) + 256 * int(p[0, 0, 1]) for p in loaded]


def names(source: Source, folder: Path) -> list[str]:
    """Where the images are, seen from `folder`."""
    return [picture.source.removeprefix(f"{folder}/") for picture in source.pictures()]


def test_a_folder_is_searched_with_its_subfolders_in_sorted_order(tmp_path: Path) -> None:
    write_folder(tmp_path / "b", 2)
    (tmp_path / "a.JPG").write_bytes(encoded(photo_like(8, 8), "JPEG"))
    (tmp_path / "scenes.jsonl").write_text("{}")
    (tmp_path / "._a.jpg").write_bytes(b"what a Mac leaves behind")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "c.png").write_bytes(numbered(3))
    source = open_source(str(tmp_path))
    assert names(source, tmp_path) == ["a.JPG", "b/00000.png", "b/00001.png"]
    assert isinstance(source, FileSource) and len(source) == 3


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", 1)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "pictures").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
    assert names(open_source(str(tmp_path / "set")), tmp_path) == ["set/pictures/00000.png"]


def test_a_glob_names_files(tmp_path: Path) -> None:
    write_folder(tmp_path / "x" / "y", 3)
    write_folder(tmp_path / "z", 1)
    assert names(open_source(f"{tmp_path}/**/*1.png"), tmp_path) == ["x/y/00001.png"]
    assert contents(open_source(f"{tmp_path}/{{z,x/y}}/*.png")) == [0, 0, 1, 2]


def test_one_file_is_a_source(tmp_path: Path) -> None:
    assert contents(open_source(write_folder(tmp_path, 1) + "/00000.png")) == [0]


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path) -> None:
    (tmp_path / "[1]{a,b}.png").write_bytes(numbered(9))
    assert contents(open_source(f"{tmp_path}/[1]{{a,b}}.png")) == [9]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{008..010}.tar", ["008.tar", "009.tar", "010.tar"]),
        ("{a,b}{1..2}", ["a1", "a2", "b1", "b2"]),
    ],
)
def test_braces_stand_for_numbers_and_choices(pattern: str, expected: list[str]) -> None:
    assert expand_braces(pattern) == expected


def test_tar_shards_give_their_images_in_order(tmp_path: Path) -> None:
    source = open_source(write_tars(tmp_path, [2, 0, 3]))
    assert isinstance(source, ShardSource) and contents(source) == [0, 1, 2, 3, 4]
    assert names(source, tmp_path) == [
        f"00{shard}.tar!0000{n}.png" for n, shard in enumerate([0, 0, 2, 2, 2])
    ]
    assert (
        contents(open_source(str(tmp_path))) == contents(open_source(f"{tmp_path}/*.tar")) == [0, 1, 2, 3, 4]
    )


@pytest.mark.parametrize("start", range(4))
def test_masks_and_depths_of_a_sample_are_no_photographs(tmp_path: Path, start: int) -> None:
    kinds = {"depth.png": 90, "jpg": 0, "seg.png": 50}
    members = {f"x/{n}.{kind}": numbered(n + more) for n in range(3) for kind, more in kinds.items()}
    tar = write_tar(tmp_path / "masks.tar", members)
    found = [image.source.rpartition("!")[2] for image in tar_images(str(tar), start)]
    assert found == [f"x/{n}.jpg" for n in range(start, 3)]
    # Two sides of a pair, or a name with dots, are the only images of their samples.
    both = write_tar(tmp_path / "b.tar", {f"{n}.{side}.png": numbered(n) for n in (1, 2) for side in "lr"})
    assert contents(open_source(str(both))) == [1, 1, 2, 2]


@pytest.mark.parametrize("start", range(6))
def test_a_shard_can_be_entered_anywhere(tmp_path: Path, start: int) -> None:
    tar = write_tar(tmp_path / "a.tar", {f"{n}.png": numbered(n) for n in range(5)})
    values: list[dict[str, object] | None] = [{"bytes": numbered(n), "path": None} for n in range(5)]
    table = write_parquet(tmp_path / "a.parquet", values, rows_a_group=2)
    for spec in (tar, table):
        source = open_source(spec)
        assert isinstance(source, ShardSource)
        entered = [picture.source for picture in source.walk(source.shards[0], start)]
        assert entered == [picture.source for picture in source.pictures()][start:]
        assert len(entered) == 5 - start


def test_long_member_names_and_folders_inside_an_archive_are_fine(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {f"{'d' * 90}/{'f' * 90}{n}.png": numbered(n) for n in range(3)})
    assert contents(open_source(str(tmp_path / "a.tar"))) == [0, 1, 2]


def test_an_archive_cut_inside_an_image_breaks_that_image_only(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, {f"{n}.png": numbered(n) for n in range(3)})
    # A member takes a header and one block: the third image starts at byte 2 * 1024 + 512.
    path.write_bytes(path.read_bytes()[: 2 * 1024 + 512 + 10])
    loaded = [load(picture, Decoding(size=4)) for picture in open_source(str(path)).pictures()]
    assert [isinstance(result, Broken) for result in loaded] == [False, False, True, True]
    assert isinstance(loaded[2], Broken) and loaded[2].source == f"{path}!2.png"
    assert isinstance(loaded[3], Broken) and "cannot be read beyond 3 images" in loaded[3].reason


def test_garbage_inside_an_archive_is_not_taken_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, {f"{n}.png": numbered(n) for n in range(3)})
    data = bytearray(path.read_bytes())
    data[1024 : 1024 + 512] = b"\xaa" * 512
    path.write_bytes(bytes(data))
    loaded = [load(picture, Decoding(size=4)) for picture in open_source(str(path)).pictures()]
    assert len(loaded) == 2 and isinstance(loaded[1], Broken)
    assert "no valid header at byte 1024" in loaded[1].reason


def test_an_archive_without_its_end_mark_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, {f"{n}.png": numbered(n) for n in range(2)})
    path.write_bytes(path.read_bytes()[:2048])
    assert contents(open_source(str(path))) == [0, 1]


def test_a_table_gives_its_images_from_bytes_or_by_path(tmp_path: Path) -> None:
    (tmp_path / "beside.png").write_bytes(numbered(300))
    values: list[dict[str, object] | None] = [{"bytes": numbered(n), "path": "x"} for n in range(4)]
    values += [{"bytes": None, "path": "beside.png"}, {"bytes": None, "path": None}, None]
    path = write_parquet(tmp_path / "a.parquet", values)
    source = open_source(path)
    assert contents(source) == [0, 1, 2, 3, 300, -1, -1]
    assert [picture.source for picture in source.pictures()] == [f"{path}!{row}" for row in range(7)]


def test_a_table_written_by_the_datasets_library_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is an optional dependency")
    column = [Image.new("RGB", (4, 4), (n, 0, 77)) for n in range(3)]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"image": column, "text": ["a"] * 3}, features=features)
    table.to_parquet(str(tmp_path / "a.parquet"))
    assert contents(open_source(str(tmp_path))) == [0, 1, 2]


def test_a_column_of_plain_bytes_is_found_or_chosen(tmp_path: Path) -> None:
    left, right = [numbered(1)], [numbered(2)]
    pq.write_table(pa.table({"text": ["a"], "jpg": left}), tmp_path / "one.parquet")
    pq.write_table(pa.table({"left": left, "right": right}), tmp_path / "two.parquet")
    pq.write_table(pa.table({"image": left, "mask": right}), tmp_path / "named.parquet")
    assert contents(open_source(str(tmp_path / "one.parquet"))) == [1]
    assert contents(open_source(str(tmp_path / "named.parquet"))) == [1]
    assert contents(open_source(str(tmp_path / "two.parquet"), column="right")) == [2]
    with pytest.raises(ValueError, match=r"--data\.column or --held-out\.column: left, right"):
        open_source(str(tmp_path / "two.parquet"))
    with pytest.raises(
        ValueError, match=r"column 'text' of .* holds no images; its columns are text \(string\)"
    ):
        open_source(str(tmp_path / "one.parquet"), column="text")


@pytest.mark.parametrize("kind", [pa.binary(), pa.struct([("bytes", pa.binary()), ("path", pa.string())])])
def test_a_row_with_a_list_of_one_image_is_that_image(kind: pa.DataType, tmp_path: Path) -> None:
    def stored(number: int) -> object:
        return numbered(number) if kind == pa.binary() else {"bytes": numbered(number), "path": None}

    rows = [[stored(1)], [stored(2), stored(3)], [], None, [stored(4)]]
    pq.write_table(pa.table({"images": pa.array(rows, pa.list_(kind))}), tmp_path / "a.parquet")
    source = open_source(str(tmp_path / "a.parquet"))
    assert contents(source) == [1, -1, -1, -1, 4]
    said = [load(image, Decoding(size=4)) for image in source.pictures()]
    assert isinstance(said[1], Broken) and "the row holds 2 images; rows of one image are read" in str(
        said[1]
    )


def test_a_folder_of_the_datasets_library_gets_the_way_on(tmp_path: Path) -> None:
    (tmp_path / "data-00000-of-00001.arrow").write_bytes(b"")
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(ValueError, match="`save_to_disk` of datasets; write it with `to_parquet`"):
        open_source(str(tmp_path))


def test_a_table_without_images_names_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"has no column of images .* text \(string\), n \(int64\)"):
        open_source(str(tmp_path / "a.parquet"))


def test_a_damaged_table_is_one_broken_image(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_parquet(tmp_path / f"{name}.parquet", [{"bytes": numbered(5), "path": None}])
    (tmp_path / "b.parquet").write_bytes(b"no longer a table")
    assert contents(open_source(str(tmp_path))) == [5, -1]


def test_the_splits_of_a_folder_of_tables_are_not_mixed(tmp_path: Path) -> None:
    for name in ("test", "train"):
        write_parquet(tmp_path / f"{name}-00000-of-00001.parquet", [{"bytes": numbered(1), "path": None}])
    with pytest.raises(ValueError, match="holds the splits test, train; name one by a glob"):
        open_source(str(tmp_path))
    assert contents(open_source(f"{tmp_path}/train-*.parquet")) == [1]


def write_coco(folder: Path, pictures: str = "val2014") -> Path:
    """A Karpathy JSON of four images, one a split, and the images."""
    write_folder(folder / "pictures" / pictures, 4)
    entries = [
        {
            "filepath": "val2014",
            "filename": f"{number:05d}.png",
            "split": split,
            "sentences": [{"raw": f"A {split} image. "}, {"raw": "two\nlines"}],
        }
        for number, split in enumerate(["train", "restval", "val", "test"])
    ]
    (folder / "dataset_coco.json").write_text(json.dumps({"images": entries, "dataset": "coco"}))
    return folder / "dataset_coco.json"


def test_a_split_of_coco_has_its_images_and_sentences(tmp_path: Path) -> None:
    source = open_source(str(write_coco(tmp_path)), split="test", image_root=str(tmp_path / "pictures"))
    assert isinstance(source, FileSource)
    assert contents(source) == [3]
    assert source.all_references == (("A test image.", "two lines"),)
    assert [picture.reference for picture in source.pictures()] == ["A test image."]


def test_train_of_coco_includes_restval_and_splits_can_be_joined(tmp_path: Path) -> None:
    spec, root = str(write_coco(tmp_path)), str(tmp_path / "pictures")
    assert contents(open_source(spec, split="train", image_root=root)) == [0, 1]
    assert contents(open_source(spec, split="val+test", image_root=root)) == [2, 3]
    assert contents(open_source(spec, split="restval", image_root=root)) == [1]


def test_images_of_coco_may_lie_in_one_folder(tmp_path: Path) -> None:
    spec = str(write_coco(tmp_path, pictures="."))
    assert contents(open_source(spec, split="val", image_root=str(tmp_path / "pictures"))) == [2]


def test_the_first_image_of_coco_may_be_missing_as_any_other(tmp_path: Path) -> None:
    spec = str(write_coco(tmp_path))
    (tmp_path / "pictures" / "val2014" / "00000.png").unlink()
    assert contents(open_source(spec, split="train", image_root=str(tmp_path / "pictures"))) == [-1, 1]


def test_what_is_wrong_with_coco_is_said(tmp_path: Path) -> None:
    spec = str(write_coco(tmp_path))
    with pytest.raises(
        ValueError, match=re.escape("no split 'dev'; it has restval (1), test (1), train (1), val (1)")
    ):
        open_source(spec, split="dev")
    with pytest.raises(
        ValueError,
        match=r"name the folder of the images with --image-root, in training with --data\.image-root",
    ):
        open_source(spec, split="test")
    (tmp_path / "captions.json").write_text(json.dumps({"images": [{"id": 1}], "annotations": []}))
    with pytest.raises(ValueError, match="is no Karpathy JSON"):
        open_source(str(tmp_path / "captions.json"), split="test")
    with pytest.raises(ValueError, match=r"does not exist; Karpathy's splits are at https://"):
        open_source(str(tmp_path / "none.json"), split="test")


def flat_frames(levels: list[int], height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frames of one grey each, the left half 60 darker."""
    frames = [np.full((height, width, 3), level, np.uint8) for level in levels]
    for frame in frames:
        frame[:, : width // 2] -= 60
    return frames


def test_a_video_gives_its_keyframes(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is an optional dependency")
    levels = [70 + 15 * place for place in range(12)]
    path = write_video(tmp_path / "a.mp4", flat_frames(levels), keyframe_every=5)
    pictures = list(open_source(path).pictures())
    assert [picture.source for picture in pictures] == [
        f"{path}!{second}s" for second in ("0.000", "0.500", "1.000")
    ]
    loaded = [load(picture, Decoding(size=16, fit="squash")) for picture in reversed(pictures)]
    seen = [int(pixels[8, 12].mean()) for pixels in loaded if not isinstance(pixels, Broken)]
    assert np.abs(np.array(seen[::-1]) - [levels[0], levels[5], levels[10]]).max() <= 4


def test_a_turned_video_is_upright(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is an optional dependency")
    path = tmp_path / "a.mp4"
    write_video(path, flat_frames([200]), keyframe_every=1)
    data = bytearray(path.read_bytes())
    # The matrix of the track header: a quarter turn clockwise, as phones write it.
    at = data.index(b"tkhd") + 44
    matrix = [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000]
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(bytes(data))
    pixels = load(next(open_source(str(path)).pictures()), Decoding(size=48))
    # What is stored on the left is shown on top.
    assert not isinstance(pixels, Broken)
    assert pixels[4].mean() < 150 and pixels[-4].mean() > 190


def test_a_damaged_video_is_one_broken_image(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is an optional dependency")
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    assert contents(open_source(str(tmp_path))) == [-1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "the source of images is empty"),
        ("nowhere", "no images found in '{folder}/nowhere'"),
        ("*.webp", "no images found in"),
        ("{{00000,00009}}.png", "no images found in '{folder}/00009.png' of"),
        ("text", "no images found in"),
    ],
)
def test_an_empty_source_says_what_could_be_given(tmp_path: Path, spec: str, message: str) -> None:
    write_folder(tmp_path, 1)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("a")
    spec = f"{tmp_path}/{spec}".format() if spec else ""
    with pytest.raises(
        ValueError, match=re.escape(message.format(folder=tmp_path)) + ".* Give a folder or a glob"
    ):
        open_source(spec)


def test_shards_without_an_image_are_an_empty_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no image: 2 tar shards, all without one"):
        open_source(write_tars(tmp_path, [0, 0]))


def test_what_cannot_work_is_refused_with_the_fix(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pictures", 1)
    with pytest.raises(ValueError, match="is not on a local disk"):
        open_source("https://example.com/a.tar")
    with pytest.raises(ValueError, match=r"column 'image' has no effect on .*: it belongs to parquet files"):
        open_source(folder, column="image")
    with pytest.raises(ValueError, match=r"image_root 'x' has no effect on .* belongs to a Karpathy JSON"):
        open_source(folder, image_root="x")
    (tmp_path / "pictures" / "a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="holds images and videos; give a glob"):
        open_source(folder)
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is compressed, .* decompress it"):
        open_source(str(tmp_path / "a.tar.gz"))


def test_a_fingerprint_moves_with_the_folder_but_not_with_its_files(tmp_path: Path) -> None:
    first, second = (open_source(write_folder(tmp_path / name, 3)).fingerprint() for name in ("a", "b"))
    assert first == second != open_source(write_folder(tmp_path / "c", 4)).fingerprint()
