"""Functions that somebody else's configuration names are listed, and run only after a yes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sightloop.cli import main
from sightloop.recipes.catalog import RECIPES
from sightloop.recipes.config_json import config_to_json
from sightloop.recipes.vlrm import build as vlrm
from sightloop.runs.trust import functions_of

CODE = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
def long(completions, **columns):
    return [float(len(text)) for text in completions]
"""
SMALL = ["--batch", "4", "--steps", "1", "--held-out.limit", "4", "--algorithm", "group"]
SMALL += ["--draw.per-image", "2", "--rewards.similarity", "0", "--rewards.reference", "0"]


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vlrm, "NUM_SCENES", 4)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == 2
    return capsys.readouterr().err


def test_a_foreign_configuration_runs_code_only_after_a_yes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, ran, run = tmp_path / "mine.py", tmp_path / "ran", tmp_path / "run"
    mine.write_text(CODE)
    main(["train", "vlrm", "--run", str(run), *SMALL, "--custom-rewards", f"{mine}:long=0.01"])
    assert ran.exists()
    ran.unlink()
    # One's own run goes on; a copy is anybody's.
    main(["train", "--resume", str(run)])
    ran.unlink(missing_ok=True)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for words in (["--resume", str(copy)], ["--config", str(run / "config.json"), "--run", str(copy) + "2"]):
        told = refused(capsys, "train", *words)
        assert f"{mine}:long" in told and "--trust-rewards" in told
    told = refused(capsys, "train", f"--resume={copy}")
    assert "--trust-rewards" in told
    assert not ran.exists() and not Path(f"{copy}2").exists()


@pytest.mark.parametrize(
    ("recipe", "setting", "value"),
    [
        ("vlrm", "custom_rewards", ("os:system=0.1",)),
        ("unirl-grpo", "custom_rewards", ("ocr:evil.py:read",)),
        ("unirl-grpo", "judge.detector", "evil.py:detect"),
        ("unirl-sft", "joint.detector", "evil:detect"),
    ],
)
def test_every_setting_that_names_code_is_listed(
    recipe: str,
    setting: str,
    value: str | tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = config_to_json(RECIPES[recipe].config())
    group, _, name = setting.rpartition(".")
    (config[group] if group else config)[name] = value
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"recipe": recipe, "format": 3, "config": config}))
    told = refused(capsys, "train", "--config", str(file), "--run", str(tmp_path / "run"))
    named = value if isinstance(value, str) else value[0].partition("=")[0].removeprefix("ocr:")
    assert named in told and "--trust-rewards" in told and not (tmp_path / "run").exists()


def test_rewards_of_the_library_need_no_yes() -> None:
    config = replace(RECIPES["vlrm"].config(), custom_rewards=("length=0.01", "clip:folder=2", "clip:a/b"))
    assert functions_of(config) == []
