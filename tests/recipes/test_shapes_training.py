"""The recipe on the embedded world, through the command line, end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sightloop.cli import main
from sightloop.recipes.config_json import config_from_json, config_to_json
from sightloop.recipes.vlrm import build as vlrm
from sightloop.recipes.vlrm.config import SHAPES, VlrmConfig

SMALL = ["--batch", "16", "--micro-batch", "8", "--steps", "2", "--save-every", "1", "--eval-every", "2"]
TIMED = ("seconds/", "speed/", "memory/")


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world of few images is drawn in no time."""
    monkeypatch.setattr(vlrm, "NUM_SCENES", 32)


def run_world(folder: Path, *more: str) -> list[dict[str, float]]:
    """Train two steps and return the figures without those of the clock."""
    main(["train", "vlrm", "--run", str(folder), "--held-out.limit", "12", *SMALL, *more])
    return figures(folder)


def figures(folder: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what depends on the clock."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith(TIMED)}
        for line in lines
    ]


def test_a_run_writes_everything_and_a_second_one_repeats_it(tmp_path: Path) -> None:
    first, second = run_world(tmp_path / "a"), run_world(tmp_path / "b")
    assert [record["step"] for record in first] == [0, 1, 2, 2]
    assert first == second
    assert {"reward/similarity", "reward/reference", "reward/bad_phrases"} <= first[1].keys()
    assert {"critic/explained_variance", "tokens/ended", "gradient/norm_critic"} <= first[1].keys()
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert "vlrm" in page
    weights = [(tmp_path / run / "checkpoints/step_000002/trainable.safetensors") for run in "ab"]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_resumed_run_repeats_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = run_world(tmp_path / "whole")
    run_world(tmp_path / "cut", "--steps", "1")
    config = json.loads((tmp_path / "cut" / "config.json").read_text(encoding="utf-8"))
    config["config"]["schedule"]["steps"] = 2
    (tmp_path / "cut" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    main(["train", "--resume", str(tmp_path / "cut")])
    resumed = [record for record in figures(tmp_path / "cut") if record["step"] == 2]
    assert resumed == [record for record in whole if record["step"] == 2]


@pytest.mark.parametrize(
    "options",
    [
        ["--algorithm", "scst"],
        ["--algorithm", "greedy-baseline", "--objective", "log_probability"],
        ["--algorithm", "group", "--draw.per-image", "2"],
        ["--preset", "shapes-rs"],
        ["--gradient-checkpointing", "--draw-batch", "8", "--no-keep-features"],
        ["--objective", "log_probability", "--score-under", "sampling", "--critic.position", "post"],
    ],
)
def test_every_variant_takes_its_steps(tmp_path: Path, options: list[str]) -> None:
    records = run_world(tmp_path / "run", *options)
    assert records[-1]["step"] == 2
    assert records[-1]["kind"] == "eval"


def test_recomputation_and_chunks_leave_the_figures_unchanged(tmp_path: Path) -> None:
    plain = run_world(tmp_path / "plain")
    other = run_world(
        tmp_path / "other", "--gradient-checkpointing", "--draw-batch", "8", "--no-keep-features"
    )
    for one, two in zip(plain, other, strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() - {"kind"}:
            assert two[name] == pytest.approx(one[name], rel=2e-3, abs=2e-4), name


def test_caption_export_and_evaluation_read_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_world(tmp_path / "run")
    pictures = tmp_path / "run" / "pictures" / "held_out"
    capsys.readouterr()
    main(["caption", str(pictures / "00000.png"), "--model", str(tmp_path / "run")])
    assert "\ta " in capsys.readouterr().out
    main(["evaluate", "clip-recall", "--images", str(pictures), "--model", str(tmp_path / "run")])
    assert "recall@1" in capsys.readouterr().out
    main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "out")])
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert "arXiv 2404.01911" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_a_configuration_survives_json() -> None:
    config = replace(SHAPES, score_under="sampling")
    assert config_from_json(VlrmConfig, json.loads(json.dumps(config_to_json(config)))) == config


def test_an_unknown_setting_is_named_with_its_nearest_match() -> None:
    with pytest.raises(ValueError, match="did you mean 'gamma'"):
        config_from_json(VlrmConfig, {"gama": 1.0})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "vlrm", "--preset", "nothing"], "preset 'nothing' does not exist"),
        (["caption", "no/such/folder"], "no/such/folder"),
        (["report", "no_run"], "no_run"),
        (["train", "--resume", "no_run"], "no_run"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["trainn"])
    assert "did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.slow
def test_forty_five_steps_make_captions_tell_more_and_keep_them_grammatical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vlrm, "NUM_SCENES", 1024)
    length = ["--steps", "45", "--eval-every", "45", "--batch", "128", "--held-out.limit", "300"]
    main(["train", "vlrm", "--run", str(tmp_path / "run"), *length, "--learning-rate", "5e-4"])
    before, after = (record for record in figures(tmp_path / "run") if record["kind"] == "eval")
    assert after["held_out/recall@1"] > before["held_out/recall@1"] + 0.08
    assert after["held_out/told"] > 1.25 * before["held_out/told"]
    assert after["held_out/precision"] > 0.93
    assert after["held_out/grammatical"] > 0.95
