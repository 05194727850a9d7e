"""Rows: files and data sets of the forms that people have, and what is wrong with one in a sentence."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightloop.data.batches import Batching, ImageStream
from sightloop.data.decode import Decoding
from sightloop.data.images import ImageBatch
from sightloop.data.rows import give_rows, open_rows
from sightloop.data.settings import RowSettings
from sightloop.messages import MessagePrompt

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which gray?"}]


@pytest.fixture
def grays(tmp_path: Path) -> list[str]:
    """Names of six images, of which each has a gray of its own."""
    for level in range(6):
        Image.fromarray(np.full((20, 30, 3), level * 40, np.uint8)).save(tmp_path / f"{level}.png")
    return [f"{level}.png" for level in range(6)]


def batch_of(settings: RowSettings, size: int = 4) -> ImageBatch:
    """All rows in the order of the file, as a batch."""
    source = open_rows(settings)
    stream = ImageStream(source, Decoding(size=8), Batching(batch_size=size, shuffle=False))
    try:
        return next(stream)
    finally:
        stream.close()


def levels(batch: ImageBatch) -> list[list[int]]:
    parts = (batch.images, *batch.images.more)
    counts = batch.images.counts or [1] * len(batch)
    return [[int(part.pixels[row, 0, 0, 0]) for part in parts[:count]] for row, count in enumerate(counts)]


def written(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def rows_of(grays: list[str]) -> list[dict[str, Any]]:
    """Two rows of one image, one of two, one that is a conversation."""
    return [
        {"image": grays[0], "prompt": "a", "answer": 7, "reference": "dark"},
        {"image": [grays[1], grays[2]], "prompt": "b", "answer": None, "reference": ["x", "y"]},
        {"image": {"path": grays[3]}, "prompt": "c", "answer": 9, "reference": None},
        {"image": grays[4], "prompt": ASKED, "answer": 9, "reference": "light"},
    ]


def test_json_lines_keep_every_column_and_several_images(tmp_path: Path, grays: list[str]) -> None:
    batch = batch_of(RowSettings(rows=str(written(tmp_path / "rows.jsonl", rows_of(grays)))))
    assert levels(batch) == [[0], [40, 80], [120], [160]]
    assert batch.prompts[:3] == ["a", "b", "c"]
    assert isinstance(batch.prompts[3], MessagePrompt) and batch.prompts[3].messages == ASKED
    assert batch.columns["answer"] == [7, None, 9, 9]
    assert batch.references == ["dark", "x\ny", "", "light"]


def test_names_start_from_another_folder_and_images_may_be_inline(tmp_path: Path, grays: list[str]) -> None:
    inline = "data:image/png;base64," + base64.b64encode((tmp_path / grays[5]).read_bytes()).decode()
    rows = [{"pictures": inline, "q": "a"}, {"pictures": str(tmp_path / grays[1]), "q": "b"}]
    (tmp_path / "elsewhere").mkdir()
    file = written(tmp_path / "elsewhere" / "rows.jsonl", rows)
    settings = RowSettings(
        rows=str(file), image_root=str(tmp_path), column="pictures", prompt_column="q", reference_column="q"
    )
    batch = batch_of(settings, 2)
    assert (levels(batch), batch.references) == ([[200], [40]], ["a", "b"])


def as_parquet(tmp_path: Path, rows: Any) -> RowSettings:
    rows.to_parquet(tmp_path / "rows.parquet")
    return RowSettings(rows=str(tmp_path / "rows.parquet"))


def as_folder(tmp_path: Path, rows: Any) -> RowSettings:
    from datasets import DatasetDict

    DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(tmp_path / "set")
    return RowSettings(rows=str(tmp_path / "set"))


def as_given(tmp_path: Path, rows: Any) -> RowSettings:
    return RowSettings(rows=give_rows(rows))


def as_stream(tmp_path: Path, rows: Any) -> RowSettings:
    return RowSettings(rows=give_rows(rows.to_iterable_dataset()))


@pytest.mark.parametrize("form", [as_parquet, as_folder, as_given, as_stream])
def test_data_sets_are_the_same_in_every_form(
    tmp_path: Path, grays: list[str], form: Callable[[Path, Any], RowSettings]
) -> None:
    datasets = pytest.importorskip("datasets")
    kinds = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "prompt": [{"role": datasets.Value("string"), "content": datasets.Value("string")}],
            "solution": datasets.Value("string"),
        }
    )
    rows = [
        {"images": [str(tmp_path / name) for name in names], "prompt": ASKED, "solution": names[0]}
        for names in (grays[:1], grays[1:3], grays[3:4], grays[4:])
    ]
    batch = batch_of(form(tmp_path, datasets.Dataset.from_list(rows, features=kinds)))
    assert levels(batch) == [[0], [40, 80], [120], [160, 200]]
    assert batch.columns == {"solution": [grays[0], grays[1], grays[3], grays[4]]}
    assert all(isinstance(prompt, MessagePrompt) for prompt in batch.prompts)


def test_a_video_is_frames_evenly_spaced(tmp_path: Path, grays: list[str]) -> None:
    frames = tmp_path / "clip"
    frames.mkdir()
    for name in grays:
        (tmp_path / name).rename(frames / name)
    rows = [{"video": "clip", "prompt": "a"}, {"video": [f"clip/{name}" for name in grays], "prompt": "b"}]
    file = written(tmp_path / "rows.jsonl", rows)
    assert levels(batch_of(RowSettings(rows=str(file), frames=3), 2)) == [[0, 80, 200]] * 2


def test_a_text_alone_is_refused_unless_it_is_allowed(tmp_path: Path, grays: list[str]) -> None:
    rows = [{"image": grays[0], "prompt": "a"}, {"image": None, "prompt": "b"}]
    file = str(written(tmp_path / "rows.jsonl", rows))
    with pytest.raises(ValueError, match=r"rows\.jsonl!2 has no image .* --data\.allow-text"):
        open_rows(RowSettings(rows=file))
    assert batch_of(RowSettings(rows=file, allow_text=True), 2).images.counts == [1, 0]


@pytest.mark.parametrize(
    ("row", "settings", "said"),
    [
        ({"image": "0.png", "question": "a"}, {}, r"no prompt in a column 'prompt' \(it has image, question"),
        ({"image": "0.png", "prompt": ""}, {}, "--data.prompt-column"),
        ({"image": "0.png", "prompt": 3}, {}, "is 3; give a text, or messages"),
        ({"image": "0.png", "prompt": [{"role": "user"}]}, {}, "`role` and `content` each"),
        ({"image": "0.png", "prompt": [{"role": "system", "content": "a"}]}, {}, "no message of the user"),
        (
            {"image": "0.png", "prompt": [{"role": "user", "content": [{"type": "image"}] * 2}]},
            {},
            "2 places for 1 images",
        ),
        ({"image": "0.png", "video": "1.png", "prompt": "a"}, {}, "choose one with --data.column"),
        ({"image": "0.png", "prompt": "a"}, {"column": "picture"}, "has no column 'picture'; it has image"),
    ],
)
def test_what_is_wrong_with_a_row_is_one_sentence(
    tmp_path: Path, grays: list[str], row: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    file = written(tmp_path / "rows.jsonl", [{**row}])
    with pytest.raises(ValueError, match=said) as told:
        open_rows(RowSettings(rows=str(file), **settings))
    assert "rows.jsonl!1" in str(told.value)


def test_images_that_lead_elsewhere_are_broken(tmp_path: Path) -> None:
    for name, said in (("../x.png", "leads out of"), ("http://a/x.png", "not on a local disk")):
        file = written(tmp_path / "rows.jsonl", [{"image": name, "prompt": "a"}])
        with pytest.raises(ValueError, match=said):
            batch_of(RowSettings(rows=str(file)), 1)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.jsonl cannot be read"):
        open_rows(RowSettings(rows=str(tmp_path / "nowhere.jsonl")))
    with pytest.raises(ValueError, match="does not exist; give a file of JSON lines"):
        open_rows(RowSettings(rows=str(tmp_path / "nowhere")))
