"""Models that draw, by their names on the hub: found where they were fetched, else how to fetch them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from models.damaged_folders import pictures, refusal
from PIL import Image

from sightloop.cli import main
from sightloop.models import downloads
from sightloop.models.families import detect_family
from sightloop.models.show_o.checkpoint import read_show_o, write_magvit2, write_official
from sightloop.models.show_o.magvit2 import Magvit2
from sightloop.world.bundled import WEIGHTS

COMMIT = "0" * 40
NAMES = {"janus": "tiny/Janus-Pro", "show_o": "tiny/show-o"}


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what was fetched from the hub before the connection broke."""
    place = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    downloads._fetched.cache_clear()
    return place


def fetch(place: Path, name: str, folder: Path) -> None:
    """What `hf download` leaves behind for this folder."""
    at = place / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, at / "snapshots" / COMMIT)
    (at / "refs").mkdir()
    (at / "refs" / "main").write_text(COMMIT)


@pytest.mark.parametrize("family", NAMES)
def test_a_model_that_was_fetched_draws_and_answers_by_its_name(
    family: str, fetched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(fetched, NAMES[family], WEIGHTS / family)
    options = ["--per-prompt", "1", "--output"]
    for place, name in ((tmp_path / "by_name", NAMES[family]), (tmp_path / "by_folder", WEIGHTS / family)):
        main(["draw", "a red circle", "--model", str(name), *options, str(place)])
    images = [next((tmp_path / by).glob("*.png")) for by in ("by_name", "by_folder")]
    # The names of the models stand in the files.
    assert Image.open(images[0]).tobytes() == Image.open(images[1]).tobytes()

    capsys.readouterr()
    said = []
    for name in (NAMES[family], str(WEIGHTS / family)):
        main(["ask", str(images[0]), "What color is the circle?", "--model", name])
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_an_official_show_o_takes_its_parts_by_name(fetched: Path, tmp_path: Path) -> None:
    official, magvit = tmp_path / "official", tmp_path / "magvit"
    write_official(read_show_o(WEIGHTS / "show_o"), official)
    write_magvit2(Magvit2.from_folder(WEIGHTS / "show_o" / "magvit2"), magvit, official=True)
    for name, folder in (("tiny/show-o", official), ("tiny/magvitv2", magvit)):
        fetch(fetched, name, folder)
    fetch(fetched, "tiny/phi", WEIGHTS / "show_o" / "tokenizer")
    parts = ["--magvit", "tiny/magvitv2", "--tokenizer", "tiny/phi"]
    main(["draw", "a red circle", "--model", "tiny/show-o", *parts, "--per-prompt", "1", "--output",
          str(tmp_path / "drawn")])  # fmt: skip
    assert (tmp_path / "drawn" / "0001.png").is_file()
    main(["convert", "show-o", "tiny/show-o", str(tmp_path / "ours"), *parts])
    assert detect_family(tmp_path / "ours").form == "sightloop"


@pytest.mark.parametrize(
    "words",
    [
        ["draw", "a red circle", "--model", "NAME"],
        ["ask", "IMAGE", "What is it?", "--model", "NAME"],
        ["train", "unirl-grpo", "--model", "NAME", "--run", "FOLDER"],
        ["train", "unirl-sft", "--model", "NAME", "--run", "FOLDER"],
        ["convert", "janus", "NAME", "FOLDER"],
        ["convert", "show-o", "NAME", "FOLDER", "--magvit", "some/magvit"],
        ["convert", "magvit2", "NAME", "FOLDER"],
        ["evaluate", "joint", "--model", "NAME"],
        ["evaluate", "geneval", "--images", "FOLDER", "--model", "NAME", "--detector", "some/detector"],
        ["draw", "a red circle", "--model", "OFFICIAL", "--magvit", "NAME"],
        ["caption", "IMAGE", "--model", "NAME"],
    ],
)
def test_without_a_connection_every_command_says_how_to_fetch_it(
    words: list[str], fetched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetched.name == "hub"
    given = {"NAME": "deepseek-ai/Janus-Pro-1B", "FOLDER": str(tmp_path / "new"), "OFFICIAL": ""}
    given["IMAGE"] = str(pictures(tmp_path) / "0.png")
    if "OFFICIAL" in words:
        given["OFFICIAL"] = str(tmp_path / "official")
        write_official(read_show_o(WEIGHTS / "show_o"), tmp_path / "official")
    told = refusal(capsys, *(given.get(word, word) for word in words))
    assert "`hf download deepseek-ai/Janus-Pro-1B`" in told
    assert not (tmp_path / "new").exists()


def test_what_is_to_be_fetched_is_told_with_its_size(
    fetched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "one.png"
    Image.new("RGB", (32, 32)).save(image)
    with pytest.raises(SystemExit):
        main(["caption", str(image), "--model", "Salesforce/blip2-opt-2.7b"])
    assert "(`hf download Salesforce/blip2-opt-2.7b`, 15.0 GB of weights)" in capsys.readouterr().err
