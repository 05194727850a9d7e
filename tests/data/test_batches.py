"""The stream of training images: exact epochs, exact resume, any number of ranks, broken images named."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from image_samples import numbered, numbers, write_folder, write_parquet, write_tar, write_tars

from sightloop.data.batches import Batching, ImageStream
from sightloop.data.decode import Decoding
from sightloop.data.images import ImageBatch
from sightloop.data.sources import open_source

TINY = Decoding(size=4)


def stream(spec: str, **settings: Any) -> ImageStream:
    """A stream of 4 x 4 images."""
    return ImageStream(open_source(spec), TINY, Batching(**{"seed": 7, "batch_size": 4, **settings}))


def same(one: ImageBatch, other: ImageBatch) -> bool:
    """True if the two batches agree in everything."""
    return (
        bool((one.images.pixels == other.images.pixels).all())
        and one.sources == other.sources
        and one.references == other.references
        and one.indices == other.indices
        and one.seeds == other.seeds
    )


def folder(path: Path) -> str:
    """Eleven files."""
    return write_folder(path / "files", 11)


def broken_folder(path: Path) -> str:
    """Eleven files of which two are cut off."""
    return write_folder(path / "cut", 11, broken=(2, 9))


def tars(path: Path) -> str:
    """Four shards of unequal size, one of them without an image."""
    return write_tars(path / "shards", [5, 2, 0, 6])


def broken_tars(path: Path) -> str:
    """Three shards with two images cut off."""
    return write_tars(path / "cut_shards", [5, 2, 6], broken=(1, 8))


def parquet(path: Path) -> str:
    """Eleven rows in groups of three."""
    rows: list[dict[str, object] | None] = [{"bytes": numbered(n), "path": None} for n in range(11)]
    return write_parquet(path / "pictures.parquet", rows)


KINDS = pytest.mark.parametrize("make", [folder, broken_folder, tars, broken_tars, parquet])


@pytest.mark.parametrize(("make", "size"), [(folder, 11), (tars, 13), (parquet, 11)])
@pytest.mark.parametrize("buffer", [3, 1024])
def test_every_epoch_shows_every_image_once(
    make: Callable[[Path], str], size: int, buffer: int, tmp_path: Path
) -> None:
    batches = stream(make(tmp_path), batch_size=size, shuffle_buffer=buffer)
    epochs = [numbers(batch) for batch in islice(batches, 4)]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_another_seed_gives_another_order_and_the_same_seed_the_same(tmp_path: Path) -> None:
    spec = write_folder(tmp_path, 40)
    first, again, other = (next(stream(spec, batch_size=40, seed=seed)) for seed in (1, 1, 2))
    assert same(first, again)
    assert numbers(first) != numbers(other)
    assert set(first.seeds).isdisjoint(other.seeds)


@pytest.mark.parametrize("make", [folder, tars, parquet])
def test_without_shuffling_the_order_is_that_of_the_files(
    make: Callable[[Path], str], tmp_path: Path
) -> None:
    seen = [n for batch in islice(stream(make(tmp_path), shuffle=False), 2) for n in numbers(batch)]
    assert seen == list(range(8))


@KINDS
@pytest.mark.parametrize("workers", [1, 3])
def test_a_resumed_stream_goes_on_as_if_it_had_never_stopped(
    make: Callable[[Path], str], workers: int, tmp_path: Path
) -> None:
    # Batches of 3 over epochs of 11 or 13 end in the middle of shards, of epochs and of a batch.
    settings = {"batch_size": 3, "shuffle_buffer": 4, "max_broken_fraction": 0.5, "workers": workers}
    spec = make(tmp_path)
    whole = stream(spec, **settings)
    states: list[str] = []
    batches: list[ImageBatch] = []
    for _ in range(14):
        states.append(json.dumps(whole.state_dict()))
        batches.append(next(whole))
    for start in range(14):
        resumed = stream(spec, **settings)
        resumed.load_state_dict(json.loads(states[start]))
        assert all(same(batch, expected) for batch, expected in zip(resumed, batches[start:], strict=False))
        rest = stream(spec, **settings)
        rest.load_state_dict(json.loads(states[start]))
        for _ in range(14 - start):
            next(rest)
        assert rest.state_dict() == whole.state_dict()


@KINDS
def test_two_ranks_together_see_what_one_rank_sees(make: Callable[[Path], str], tmp_path: Path) -> None:
    settings = {"batch_size": 6, "shuffle_buffer": 4, "max_broken_fraction": 0.5}
    spec = make(tmp_path)
    alone = stream(spec, **settings)
    left, right = (stream(spec, rank=rank, num_ranks=2, **settings) for rank in range(2))
    for _ in range(8):
        one, first, second = next(alone), next(left), next(right)
        assert len(first) == len(second) == 3
        assert one.sources == first.sources + second.sources
        assert numbers(one) == numbers(first) + numbers(second)
        assert one.indices == first.indices + second.indices
        assert one.seeds == first.seeds + second.seeds


@KINDS
def test_a_state_of_one_rank_serves_two(make: Callable[[Path], str], tmp_path: Path) -> None:
    settings = {"batch_size": 6, "shuffle_buffer": 4, "max_broken_fraction": 0.5}
    spec = make(tmp_path)
    alone = stream(spec, **settings)
    for _ in range(3):
        next(alone)
    second = stream(spec, rank=1, num_ranks=2, **settings)
    second.load_state_dict(alone.state_dict())
    for expected, got in zip(islice(alone, 4), islice(second, 4), strict=True):
        assert got.sources == expected.sources[3:]
        assert got.seeds == expected.seeds[3:]


def test_running_numbers_and_seeds_never_repeat(tmp_path: Path) -> None:
    batches = list(islice(stream(write_folder(tmp_path, 5)), 6))
    assert [index for batch in batches for index in batch.indices] == list(range(24))
    seeds = [seed for batch in batches for seed in batch.seeds]
    assert len(set(seeds)) == 24
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_rows_of_a_batch_keep_what_belongs_together(tmp_path: Path) -> None:
    batch = next(stream(write_folder(tmp_path, 9)))
    picked = batch.rows(torch.tensor([3, 1]))
    assert numbers(picked) == [numbers(batch)[3], numbers(batch)[1]]
    assert picked.sources == [batch.sources[3], batch.sources[1]]
    assert picked.references == ["", ""]
    assert picked.indices == [3, 1]
    assert picked.seeds == [batch.seeds[3], batch.seeds[1]]


def test_a_loaded_state_discards_what_was_made_ahead(tmp_path: Path) -> None:
    batches = stream(write_folder(tmp_path, 11))
    start = batches.state_dict()
    expected = list(islice(batches, 5))
    batches.load_state_dict(start)
    assert all(same(one, other) for one, other in zip(batches, expected, strict=False))


def test_a_broken_image_is_replaced_reported_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = write_folder(tmp_path, 10, broken=(3,))
    batches = stream(spec, batch_size=10, max_broken_fraction=0.2)
    with caplog.at_level(logging.WARNING):
        seen = [numbers(batch) for batch in islice(batches, 4)]
    assert all(len(epoch) == 10 and 3 not in epoch for epoch in seen)
    # One other image stands in, so that one is there twice.
    assert all(sorted(Counter(epoch).values()) == [1] * 8 + [2] for epoch in seen)
    path = str(tmp_path / "00003.png")
    assert [broken.source for broken in batches.broken] == [path]
    assert sum(path in record.getMessage() for record in caplog.records) == 1
    assert batches.num_broken >= 4
    assert batches.num_seen == 40 + batches.num_broken


def test_a_resumed_stream_does_not_report_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = write_folder(tmp_path, 10, broken=(3,))
    first = stream(spec, batch_size=10, max_broken_fraction=0.2)
    next(first)
    caplog.clear()
    resumed = stream(spec, batch_size=10, max_broken_fraction=0.2)
    resumed.load_state_dict(first.state_dict())
    next(resumed)
    assert not caplog.records
    assert resumed.broken == first.broken


def test_too_many_broken_images_stop_the_stream_with_their_names(tmp_path: Path) -> None:
    spec = write_folder(tmp_path, 120, broken=tuple(range(0, 120, 8)))
    with pytest.raises(ValueError, match=r"max_broken_fraction 0\.05.*0\d+\.png"):
        next(stream(spec, batch_size=120))


def test_a_few_broken_images_among_the_first_do_not_stop_the_stream(tmp_path: Path) -> None:
    spec = write_folder(tmp_path, 120, broken=(0, 1, 2))
    batches = stream(spec, batch_size=3, shuffle=False)
    assert numbers(next(batches)) == [3, 4, 5]
    assert len(batches.broken) == 3


def test_a_source_of_nothing_but_broken_images_ends_in_an_error(tmp_path: Path) -> None:
    spec = write_folder(tmp_path, 2, broken=(0, 1))
    with pytest.raises(ValueError, match="are broken"):
        next(stream(spec, max_broken_fraction=0.9))


def test_the_same_error_comes_again_when_asked_again(tmp_path: Path) -> None:
    batches = stream(write_folder(tmp_path, 2, broken=(0, 1)))
    for _ in range(2):
        with pytest.raises(ValueError, match="are broken"):
            next(batches)


def test_a_damaged_shard_counts_as_a_broken_image(tmp_path: Path) -> None:
    spec = write_tars(tmp_path, [6, 6])
    shard = tmp_path / "001.tar"
    # An image and its caption take four blocks of 512 bytes; the second image loses its header.
    shard.write_bytes(shard.read_bytes()[:2048] + b"\1" * 512 + shard.read_bytes()[2560:])
    batches = stream(spec, batch_size=12, shuffle=False, max_broken_fraction=0.5)
    assert set(numbers(next(batches))) == set(range(7))
    assert any(broken.source == str(shard) for broken in batches.broken)


def test_a_state_of_other_images_or_another_seed_is_refused(tmp_path: Path) -> None:
    spec = write_folder(tmp_path / "one", 5)
    state = stream(spec).state_dict()
    for other in (
        stream(write_folder(tmp_path / "two", 6)),
        stream(spec, seed=8),
        stream(spec, shuffle=False),
    ):
        with pytest.raises(ValueError, match="another stream"):
            other.load_state_dict(state)


def test_a_state_survives_a_move_of_the_folder(tmp_path: Path) -> None:
    first = stream(write_folder(tmp_path / "here", 9))
    next(first)
    moved = stream(write_folder(tmp_path / "there", 9))
    moved.load_state_dict(first.state_dict())
    assert numbers(next(moved)) == numbers(next(first))


def test_a_shard_that_shrank_since_the_state_is_named(tmp_path: Path) -> None:
    spec = write_tars(tmp_path, [9])
    first = stream(spec, batch_size=2, shuffle_buffer=6)
    next(first)
    state = first.state_dict()
    write_tar(tmp_path / "000.tar", {"0.png": numbered(0)})
    with pytest.raises(ValueError, match=r"000\.tar no longer has image"):
        stream(spec, batch_size=2, shuffle_buffer=6).load_state_dict(state)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 5, "num_ranks": 2}, "batch_size 5 .* 2 ranks"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"rank": 2, "num_ranks": 2}, "rank is 2"),
        ({"workers": 0}, "workers is 0"),
        ({"shuffle_buffer": 0}, "shuffle_buffer is 0"),
        ({"max_broken_fraction": 1.0}, "max_broken_fraction is 1.0"),
    ],
)
def test_a_wrong_setting_of_a_stream_is_named(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batching(**{"batch_size": 4, **wrong})  # pyright: ignore[reportArgumentType]
