"""Drawing and answering of two models in one call: what is printed, written and drawn, and wrong options."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from image_runs import STARTS, made_run
from PIL import Image

from sightloop.cli import main
from sightloop.cli.evaluation_options import JointOptions
from sightloop.cli.joint import evaluator_of, models_of
from sightloop.evaluation.protocol import protocol_hash
from sightloop.evaluators.image_sheets import SheetImage, drawn_by_run, sheet_of
from sightloop.evaluators.joint_changes import changes_of, changes_table, ratio_difference
from sightloop.types import Evaluation

SMALL = ["--per-category", "4", "--max-tokens", "8"]


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that fails says."""
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "joint", *words])
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_compared_with_the_model_it_started_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made_run(tmp_path / "run", STARTS["show-o"])
    output, pictures = tmp_path / "found" / "all.json", tmp_path / "pictures"
    words = ["evaluate", "joint", "--model", str(run), *SMALL]
    main([*words, "--output", str(output), "--image-dir", str(pictures)])
    printed = capsys.readouterr().out

    found = json.loads(output.read_text(encoding="utf-8"))
    before, after = found["models"].values()
    assert list(found["models"]) == ["show-o of the embedded world, before", "run"]
    assert printed.count("answered right  answered wrong") == 2
    for name in ("drawn", "answered", "both", "gap", "answered_fixed"):
        change = after["metrics"][name] - before["metrics"][name]
        assert found["changes"][name]["value"] == pytest.approx(change)
    assert [sample["source"] for sample in before["samples"]] == [s["source"] for s in after["samples"]]
    assert len(before["samples"]) == 6 * 4
    outcomes = before["shares"]["outcomes"]
    assert sum(outcomes.values()) == 24
    assert outcomes["both"] / 24 == pytest.approx(before["metrics"]["both"])

    protocol = found["protocol"]
    assert protocol["drawings judged by"] == "shapes-checker"
    told = {k: v for k, v in protocol.items() if k != "hash" and not k.startswith("weights of")}
    assert protocol["hash"] == protocol_hash(told)
    assert protocol["hash"] in printed
    weights = [value for name, value in protocol.items() if name.startswith("weights of")]
    assert len(set(weights)) == 2
    with Image.open(pictures / "sheet.png") as sheet:
        assert sheet.width > 2 * 112 and sheet.height > 6 * 112


@pytest.mark.slow
def test_a_run_that_changed_nothing_differs_in_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made_run(tmp_path / "run", STARTS["janus"], spread=0.0)
    words = ["evaluate", "joint", "--model", "", "--world-model", "janus", "--against", str(run)]
    main([*words, *SMALL, "--output", str(tmp_path / "a.json")])
    found = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert all(change == {"value": 0, "low": 0, "high": 0} for change in found["changes"].values())
    before, after = found["models"].values()
    assert before["samples"] == after["samples"]
    assert " *\n" not in capsys.readouterr().out


def test_models_are_named_by_folder_run_or_nothing(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", replace(STARTS["show-o"]))

    def names(policy: str, against: str | None) -> list[str]:
        return [each.name for each in models_of(JointOptions(policy=policy, against=against))]

    world = "the embedded world's show-o"
    assert names("", None) == names("", "none") == [world]
    assert names(str(run), None) == ["show-o of the embedded world, before", "run"]
    assert names(str(run), "none") == ["run"]
    assert names(str(run), "") == [world, "run"]
    assert names("b/run", str(run)) == [str(run), "b/run"]
    with pytest.raises(ValueError, match="would be compared with itself"):
        names("", "")
    options = JointOptions(policy="", against=str(run))
    assert evaluator_of(options).max_answer == STARTS["show-o"].answer.max_tokens
    assert evaluator_of(replace(options, max_tokens=5)).max_answer == 5


def test_wrong_options_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--per-category is 0; use" in said(["--per-category", "0"], capsys)
    assert "colors is 'x' without a detector" in said([*SMALL, "--colors", "x"], capsys)
    assert "nosuch is not a folder" in said([*SMALL, "--model", "nosuch"], capsys)
    told = said([*SMALL, "--vocabulary", "real"], capsys)
    assert "nothing judges the drawings; name a Mask2Former with --detector" in told
    assert "is not a folder" in said(
        [*SMALL, "--model", str(tmp_path / "a"), "--vocabulary", "shapes"], capsys
    )


def evaluation(drawn: list[int], answered: list[int]) -> Evaluation:
    """Four drawings of two prompts."""
    pairs = list(zip(drawn, answered, strict=True))
    rows = {
        "drawn": [float(d) for d in drawn],
        "answered": [float(a) for a in answered],
        "both": [float(d and a) for d, a in pairs],
        "only_drawn": [float(d and not a) for d, a in pairs],
        "only_answered": [float(a and not d) for d, a in pairs],
        "answered_fixed": [1.0, 0.0],
    }
    samples = [{"source": prompt} for prompt in ("a", "a", "b", "b")]
    return Evaluation(metrics={}, per_sample=rows, samples=samples, protocol={})


def test_changes_are_those_worked_out_by_hand() -> None:
    before = evaluation([1, 0, 0, 0], [1, 1, 0, 0])
    after = evaluation([1, 1, 1, 0], [1, 0, 1, 0])
    changes = changes_of(before, after, fixed_prompts=["a", "b"])
    values = {name: change.value for name, change in changes.items()}
    assert values == pytest.approx(
        {
            "drawn": 0.5,
            "answered": 0.0,
            "both": 0.25,
            "imbalance": 0.0,
            "only_drawn": 0.25,
            "only_answered": -0.25,
            "gap": -0.5,
            "answered_if_drawn": 2 / 3 - 1,
            "drawn_if_answered": 1 - 1 / 2,
            "answered_fixed": 0.0,
        }
    )
    assert changes["drawn"].low == changes["drawn"].high == 0.5, "both prompts rose by a half"
    assert "drawn right                                 +0.500   [+0.500, +0.500] *" in changes_table(changes)
    none = evaluation([0, 0, 0, 0], [0, 0, 0, 0])
    assert "answered_if_drawn" not in changes_of(none, after, fixed_prompts=["a", "b"])


def test_the_change_of_a_share_among_others_draws_whole_prompts() -> None:
    rng = np.random.default_rng(0)
    prompts = [f"{row // 4}" for row in range(400)]
    among = (rng.random(400) < 0.6).astype(float)
    hits = among * (rng.random(400) < 0.5)
    found = ratio_difference([(hits, among), (among, among)], prompts)
    assert found is not None
    assert found.value == pytest.approx(1 - hits.sum() / among.sum())
    # The interval of a share of about 240 is about 2 x 1.96 x sqrt(.25 / 240) wide.
    assert found.high - found.low == pytest.approx(0.127, rel=0.2)
    assert ratio_difference([(hits * 0, among * 0), (hits, among)], prompts) is None


def test_a_sheet_frames_right_drawings_in_green_and_the_same_rows_of_both_sides() -> None:
    def drawn(right: bool) -> list[SheetImage]:
        return [
            SheetImage(
                row=row,
                prompt=f"prompt {row // 2}",
                category="counting",
                picture=Image.new("RGB", (32, 32), (0, 0, 255)),
                is_right=right,
            )
            for row in range(4)
        ]

    sheet = sheet_of({"before": drawn(False), "after": drawn(True)})
    counted = {color: number for number, color in sheet.getcolors(10_000) or []}
    frame = 120 * 120 - 112 * 112
    assert counted[46, 160, 67] == counted[205, 60, 50] == 4 * frame
    assert counted[0, 0, 255] == 8 * 112 * 112


def test_a_run_without_images_of_a_step_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="was not evaluated at step 3"):
        drawn_by_run(tmp_path, 3)
    (tmp_path / "evaluations").mkdir()
    file = tmp_path / "evaluations" / "joint_step_000003.json"
    file.write_text('{"samples": []}', encoding="utf-8")
    with pytest.raises(ValueError, match="kept no images of step 3"):
        drawn_by_run(tmp_path, 3)
