"""The demonstration from training to the sheet of images, with a configuration of seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sightloop.cli import demo_run, main
from sightloop.cli.demo import free_folder, run_demo
from sightloop.cli.demo_run import before_after_sheet, demo_config, minutes, train_demo
from sightloop.recipes.catalog import RECIPES
from sightloop.recipes.inputs import settings_of_run


def test_demonstrations_are_presets_of_the_embedded_world() -> None:
    presets = RECIPES["unirl-grpo"].presets
    short, usual = demo_config("unirl"), presets["shapes"]
    assert short.schedule.steps < usual.schedule.steps
    assert replace(short, schedule=usual.schedule) == usual
    assert demo_config("unirl", "janus") == presets["shapes-janus"]
    assert demo_config("vlrm") == RECIPES["vlrm"].presets["shapes"]


@pytest.mark.slow
def test_a_demonstration_leaves_a_run_and_a_sheet(tmp_path: Path) -> None:
    usual = demo_config("unirl")
    rhythm = {"steps": 2, "save_every": 2, "eval_every": 2, "sample_every": 2}
    config = replace(
        usual,
        batch=2,
        group=2,
        joint=replace(usual.joint, per_category=4),
        schedule=replace(usual.schedule, **rhythm),
    )
    run = tmp_path / "run"
    train_demo("unirl", config, run)
    with pytest.raises(ValueError, match="is there already, and a demonstration replaces nothing"):
        train_demo("unirl", config, run)
    assert settings_of_run(run) == ("unirl-grpo", config)
    with Image.open(before_after_sheet(run)) as sheet:
        assert sheet.width > 2 * 4 * 112
        assert len(sheet.getcolors(2**24) or []) > 20
    main(["export", str(run), "--output", str(tmp_path / "exported")])
    card = (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")
    assert "| answered right about images not its own |" in card


def test_demonstrations_are_made_shorter_and_leave_other_runs_alone(tmp_path: Path) -> None:
    config = demo_config("vlrm", steps=5, seed=3)
    assert (config.schedule.steps, config.schedule.eval_every, config.schedule.seed) == (5, 5, 3)
    assert minutes("vlrm", "show-o", 120) == 6 and minutes("vlrm", "show-o", 5) == 1
    wanted = tmp_path / "demo-vlrm"
    assert free_folder(wanted) == wanted
    for taken in ("demo-vlrm", "demo-vlrm-2"):
        (tmp_path / taken).mkdir()
    assert free_folder(wanted) == tmp_path / "demo-vlrm-3"


def test_a_demonstration_says_how_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    trained: list[Path] = []

    def train(name: str, config: object, folder: Path) -> bool:
        trained.append(folder)
        return False

    monkeypatch.setattr(demo_run, "train_demo", train)
    run_demo(["vlrm", "--steps", "40"], lambda folder: None)
    assert capsys.readouterr().out == (
        "40 steps, about 2 minutes on a core of a laptop, fewer on several; run folder runs/demo-vlrm\n"
    )
    assert trained == [Path("runs/demo-vlrm")]


@pytest.mark.parametrize("words", [["demo", "unril"], ["demo"]])
def test_an_unknown_demonstration_is_told_which_there_are(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert "unirl" in printed.out + printed.err
