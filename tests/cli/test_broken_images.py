"""What the commands do about images that cannot be read, and about parquet files and names of captions."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightloop.cli import main
from sightloop.world.bundled import WEIGHTS

CAPTIONER, CLIP, JUDGE = (str(WEIGHTS / name) for name in ("captioner", "clip", "judge"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Forty images, the last but three cut."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    cut = folder / "37.png"
    cut.write_bytes(cut.read_bytes()[:500])
    return folder


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command says about a mistake."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sightloop: ")]
    return line


def captions_in(file: Path) -> list[str]:
    return [Path(json.loads(line)["image"]).name for line in file.read_text().splitlines()]


def test_one_damaged_image_costs_one_caption(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "captions.jsonl"
    few = ["--model", CAPTIONER, "--beams", "1", "--max-tokens", "4", "--min-tokens", "1"]
    main(["caption", str(images), *few, "--output", str(file)])
    told = capsys.readouterr().err
    assert "wrote 39 captions to" in told and "left out 1 broken images:" in told and "37.png: " in told
    assert captions_in(file) == [f"{number:02}.png" for number in range(40) if number != 37]
    file = tmp_path / "stopped.jsonl"
    stop = ["--on-broken", "stop", "--output", str(file)]
    told = refused(capsys, "caption", str(images), *few, *stop)
    assert "37.png" in told and told.endswith("leave such images out with --on-broken leave-out")
    # What was written before it is there.
    assert captions_in(file) == [f"{number:02}.png" for number in range(32)]
    other = tmp_path / "other.jsonl"
    told = refused(capsys, "caption", str(images / "37.png"), *few, "--output", str(other))
    assert "all 1 images" in told and "37.png: " in told
    assert not other.exists()


def test_a_file_of_captions_is_gone_on_with_where_it_was_stopped(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, few = tmp_path / "captions.jsonl", ["--beams", "1", "--max-tokens", "4", "--min-tokens", "1"]
    words = ["caption", str(images), "--model", CAPTIONER, *few, "--output", str(file)]
    main(words)
    whole = file.read_text()
    # Stopped in the middle of a line.
    lines = whole.splitlines(keepends=True)
    file.write_text("".join(lines[:30]) + lines[30][:20])
    capsys.readouterr()
    main([*words, "--dtype", "float32"])
    told = capsys.readouterr().err
    assert "30 captions are in" in told and "10 to go" in told and "wrote 9 captions" in told
    assert file.read_text() == whole
    told = refused(capsys, *words, "--max-tokens", "5")
    assert "was written with max_tokens 4, not 5; give the same, or choose another --output" in told
    (tmp_path / "captions.jsonl.settings.json").unlink()
    assert "nothing says how it was written" in refused(capsys, *words)
    assert file.read_text() == whole


def test_an_evaluation_leaves_images_out_only_if_it_is_told_to(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "clip-recall", "--images", str(images), "--model", CAPTIONER, "--clip", CLIP]
    words += ["--beams", "1", "--max-tokens", "4", "--min-tokens", "1"]
    assert "37.png" in refused(capsys, *words)
    main([*words, "--on-broken", "leave-out", "--output", str(tmp_path / "found.json")])
    assert "left out 1 broken images:" in capsys.readouterr().err
    assert json.loads((tmp_path / "found.json").read_text())["protocol"]["captions"] == "39"


def test_nothing_to_caption_is_said_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert "name the images to caption" in refused(capsys, "caption", "--model", CAPTIONER)


def test_names_of_a_captions_file_start_from_the_folder_of_images(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "captions.jsonl"
    file.write_text(
        "".join(json.dumps({"image": f"0{n}.png", "caption": f"a cat {n}"}) + "\n" for n in "0123")
    )
    words = ["evaluate", "clip-recall", "--captions", str(file), "--clip", CLIP]
    assert "missing" in refused(capsys, *words)
    main([*words, "--images", str(images)])
    assert "recall@1" in capsys.readouterr().out
    assert "is no folder" in refused(capsys, *words, "--images", str(images / "*.png"))
    assert "name one of them" in refused(capsys, *words, "--images", str(images), "--image-root", str(images))
    assert "name one" in refused(capsys, *words, "--model", CAPTIONER)


def test_the_column_of_a_parquet_file_and_its_largest_image_are_options_of_training(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    good = [(images / f"{number:02}.png").read_bytes() for number in range(8)]
    large = io.BytesIO()
    Image.new("RGB", (50, 50)).save(large, format="png")
    table = pa.table({"left": [large.getvalue()] * 8, "right": good})
    pq.write_table(table, tmp_path / "two.parquet")
    words = ["train", "vlrm", "--images", str(tmp_path / "two.parquet"), "--model", CAPTIONER]
    words += ["--preset", "shapes", "--judge", JUDGE, "--batch", "4", "--steps", "1"]
    words += ["--draw.max-tokens", "4", "--run", str(tmp_path / "run")]
    assert "--data.column" in refused(capsys, *words)
    told = refused(capsys, *words, "--data.column", "left", "--data.max-pixels", "2499")
    assert (
        "50 x 50 pixels, more than the 2499 that are accepted" in told
        and "--data.max-broken-fraction" in told
    )
    main([*words, "--data.column", "right", "--data.max-pixels", "2499"])
    assert "holds parquet files; name an image" in refused(capsys, "caption", str(tmp_path / "*.parquet"))
