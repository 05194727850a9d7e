"""Random orders and seeds, exact replacement of broken images, and sets in file order."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_samples import numbered, numbers, write_folder, write_parquet, write_tars, write_video

from sightloop.data.batches import Batching, ImageStream
from sightloop.data.decode import Decoding
from sightloop.data.images import ImageBatch, ImageSet
from sightloop.data.order import derive, mix, permutation, sample_seeds
from sightloop.data.sources import open_source

KINDS = ["folder", "tar", "parquet"]


def write(kind: str, folder: Path, count: int, broken: tuple[int, ...] = ()) -> str:
    """A source of `count` numbered images of a kind, shards of unequal length; its spec."""
    if kind == "folder":
        return write_folder(folder, count, broken)
    sizes = [count // 2, count // 3, count - count // 2 - count // 3]
    if kind == "tar":
        return write_tars(folder, sizes, broken)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object] | None] = [
        {"bytes": numbered(n)[: 40 if n in broken else None], "path": None} for n in range(count)
    ]
    for shard, start in enumerate(np.cumsum([0, *sizes[:2]]).tolist()):
        write_parquet(folder / f"{shard}.parquet", rows[start : start + sizes[shard]])
    return str(folder)


def stream(spec: str, batch_size: int = 4, **settings: Any) -> ImageStream:
    """A stream over small images, with a buffer smaller than the source."""
    settings = {"shuffle_buffer": 5, **settings}
    return ImageStream(open_source(spec), Decoding(size=4), Batching(batch_size=batch_size, **settings))


def shown(batches: ImageStream, count: int) -> list[int]:
    """The numbers of the images of the next batches."""
    return [number for batch in itertools.islice(batches, count) for number in numbers(batch)]


def equal(a: ImageBatch, b: ImageBatch) -> bool:
    """True if two batches agree in every field."""
    return torch.equal(a.images.pixels, b.images.pixels) and (
        a.sources,
        a.references,
        a.indices,
        a.seeds,
    ) == (b.sources, b.references, b.indices, b.seeds)


def test_mix_is_splitmix64() -> None:
    # The published first outputs of SplitMix64 for the seed 1234567.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert mix(1234567, np.arange(4, dtype=np.uint64)).tolist() == expected


def test_sample_seeds_have_63_bits_and_depend_on_seed_and_number_alone() -> None:
    seeds = sample_seeds(7, list(range(1000)))
    assert len(set(seeds)) == 1000 and min(seeds) >= 0 and 2**62 < max(seeds) < 2**63
    assert sample_seeds(7, [999, 3]) == [seeds[999], seeds[3]]
    assert not set(sample_seeds(8, list(range(1000)))) & set(seeds)
    assert sample_seeds(-1, [0]) != sample_seeds(0, [0])


def test_seeds_and_orders_never_change_between_versions() -> None:
    # A run that is resumed with a later version must go on with the same samples.
    assert sample_seeds(0, [0, 1]) == [6017775124710473527, 6467540162864785327]
    assert permutation(derive(0, 1), 10).tolist() == [3, 1, 9, 7, 0, 6, 4, 5, 8, 2]


def test_a_permutation_has_everything_once_and_all_places_alike() -> None:
    places = np.stack([permutation(key, 5) for key in range(3000)])
    assert (np.sort(places, 1) == np.arange(5)).all()
    # 600 expected in each cell, standard deviation 22.
    assert np.abs(np.stack([(places == thing).sum(0) for thing in range(5)]) - 600).max() < 110


def test_a_buffer_as_large_as_the_source_shuffles_across_shards(tmp_path: Path) -> None:
    spec = write("tar", tmp_path, 40)
    first = [shown(stream(spec, batch_size=40, shuffle_buffer=40, seed=seed), 1)[0] for seed in range(40)]
    assert len(set(first)) > 15


def test_a_video_resumes_too(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is an optional dependency")
    frames = [np.full((32, 32, 3), 20 * place, np.uint8) for place in range(10)]
    path = write_video(tmp_path / "a.mp4", frames, keyframe_every=1)
    whole, resumed = stream(path), stream(path)
    shown(whole, 3)
    resumed.load_state_dict(whole.state_dict())
    assert all(equal(next(whole), next(resumed)) for _ in range(5))


def test_threads_change_nothing(tmp_path: Path) -> None:
    spec = write("tar", tmp_path, 30, broken=(2,))
    one, many = stream(spec, workers=1), stream(spec, workers=5)
    assert all(equal(next(one), next(many)) for _ in range(15))


def test_a_state_is_that_of_the_batches_handed_out_not_of_those_made_ahead(tmp_path: Path) -> None:
    batches = stream(write_folder(tmp_path, 20))
    assert batches.state_dict()["next_index"] == 0
    next(batches)
    assert batches.state_dict()["next_index"] == 4
    assert batches.num_seen == 4


def test_a_broken_image_is_replaced_by_the_one_a_batch_later(tmp_path: Path) -> None:
    # In file order, 4 a batch: places 5, 9 and 10 are broken. 5 -> 9 is broken too -> 10 is broken too -> 11.
    # 9 -> 13, and 10 -> 14.
    spec = write_folder(tmp_path, 40, broken=(5, 9, 10))
    batches = stream(spec, shuffle=False, max_broken_fraction=0.2)
    assert shown(batches, 4) == [0, 1, 2, 3, 4, 11, 6, 7, 8, 13, 14, 11, 12, 13, 14, 15]
    assert [Path(broken.source).name for broken in batches.broken] == ["00005.png", "00009.png", "00010.png"]
    # 16 samples and 3 + 1 + 1 further attempts; 5, 9, 10 and once more 9, 10 were broken.
    assert (batches.num_seen, batches.num_broken) == (21, 5)


def test_a_broken_image_is_found_around_even_if_the_batch_is_as_long_as_the_source(tmp_path: Path) -> None:
    batches = stream(write_folder(tmp_path, 4, broken=(1,)), shuffle=False, max_broken_fraction=0.9)
    assert shown(batches, 2) == [0, 2, 2, 3] * 2


def test_a_broken_image_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    batches = stream(write_folder(tmp_path, 8, broken=(3,)), max_broken_fraction=0.9)
    with caplog.at_level(logging.WARNING):
        shown(batches, 10)
    assert batches.num_broken > 1
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [f"{tmp_path}/00003.png"]


def test_too_many_broken_images_stop_the_run(tmp_path: Path) -> None:
    # 6 of 100 are more than 5 %; 5 are not.
    spec = write_folder(tmp_path / "six", 100, broken=tuple(range(10, 70, 10)))
    with pytest.raises(
        ValueError, match=r"6 of \d+ images of .*six' are broken, more than max_broken_fraction 0\.05"
    ):
        shown(stream(spec, shuffle=False), 25)
    spec = write_folder(tmp_path / "five", 100, broken=tuple(range(10, 60, 10)))
    assert len(shown(stream(spec, shuffle=False), 25)) == 100


def test_a_file_that_vanishes_is_a_broken_image(tmp_path: Path) -> None:
    batches = stream(write_folder(tmp_path, 40), shuffle=False)
    (tmp_path / "00001.png").unlink()
    assert shown(batches, 1) == [0, 5, 2, 3]
    assert "No such file" in batches.broken[0].reason


def test_closing_ends_the_threads(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    batches = stream(write_folder(tmp_path, 8), workers=3)
    next(batches)
    started = set(threading.enumerate()) - before
    assert started
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread in started]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_ranks": 3}, "batch_size 4 cannot be split over 3 ranks"),
        ({"rank": 2, "num_ranks": 2}, "rank is 2; ranks count from 0 to 1"),
        ({"workers": 0}, "workers is 0"),
        ({"shuffle_buffer": 0}, "shuffle_buffer is 0"),
        ({"max_broken_fraction": 1.0}, "max_broken_fraction is 1.0; use a share"),
    ],
)
def test_a_setting_that_cannot_work_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batching(batch_size=4, **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_set_is_in_file_order_and_can_be_passed_again(kind: str, tmp_path: Path) -> None:
    pictures = ImageSet(open_source(write(kind, tmp_path, 10)), Decoding(size=4), batch_size=4)
    for _ in range(2):
        batches = list(pictures)
        assert [numbers(batch) for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert [index for batch in batches for index in batch.indices] == list(range(10))
    limited = ImageSet(open_source(write(kind, tmp_path, 10)), Decoding(size=4), batch_size=4, limit=6)
    assert [numbers(batch) for batch in limited] == [[0, 1, 2, 3], [4, 5]]


def test_an_image_set_refuses_broken_images_unless_told_to_leave_them_out(tmp_path: Path) -> None:
    source = open_source(write_folder(tmp_path, 6, broken=(1, 4)))
    with pytest.raises(ValueError, match=r"broken image .*00001\.png: .*Repair or remove it"):
        list(ImageSet(source, Decoding(size=4)))
    rest = ImageSet(source, Decoding(size=4), batch_size=3, on_broken="leave out")
    batches = list(rest)
    assert [numbers(batch) for batch in batches] == [[0, 2], [3, 5]]
    assert [batch.indices for batch in batches] == [[0, 2], [3, 5]]
    assert [Path(broken.source).name for broken in rest.left_out] == ["00001.png", "00004.png"]
    assert Counter(seed for batch in batches for seed in batch.seeds) == Counter(
        sample_seeds(0, [0, 2, 3, 5])
    )


def test_an_image_set_of_broken_images_is_an_error(tmp_path: Path) -> None:
    source = open_source(write_folder(tmp_path, 2, broken=(0, 1)))
    with pytest.raises(ValueError, match=r"all 2 images of .* are broken"):
        list(ImageSet(source, Decoding(size=4), on_broken="leave out"))


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"limit": 0}, {"workers": 0}])
def test_a_wrong_setting_of_an_image_set_is_named(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is 0"):
        ImageSet(open_source(write_folder(tmp_path, 1)), Decoding(size=4), **settings)
