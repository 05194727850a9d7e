"""The how-tos of models, followed to the end: the model of each page trains two steps from its page alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_readme import ROOT, blocks
from torch import nn

from sightloop.cli import main
from sightloop.runs.restore import before_training, restore

CPU = torch.device("cpu")


def follow(page: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, Any]:
    """Run every block of a page in a folder; what the page defined."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page, (ROOT / page).read_text()):
        if block.language == "python runnable":
            exec(compile("\n" * (block.line - 1) + block.text, page, "exec", dont_inherit=True), names)
    return names


def has_learned(run: Path) -> None:
    """Two steps are recorded, and the weights of the last are not those of the start."""
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in steps) == 2
    before: Any = before_training(run, device=CPU)
    after: Any = restore(run, "last", device=CPU).policy
    assert isinstance(before, nn.Module)
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    assert any((one - other).abs().max() > 0 for one, other in pairs)


def refused(capsys: pytest.CaptureFixture[str], words: str) -> str:
    """The one sentence of a command that stops."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(words.split())
    assert stopped.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("sightloop: ")
    return last


def test_an_image_generator_is_a_folder_and_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = follow("docs/adding_an_image_generator.md", monkeypatch, tmp_path)
    run = tmp_path / "run"
    has_learned(run)
    assert len(list((tmp_path / "drawings").glob("0*.png"))) == 3
    assert "# A Mosaic that was trained" in (tmp_path / "trained" / "README.md").read_text()
    assert (run / "evaluations" / "joint_step_000002.json").is_file()

    tiny = f"{names['small']} {names['steps']}"
    train = f"train unirl-grpo --model mosaic --run other --quizzes.vocabulary shapes {tiny}"
    said = refused(capsys, f"{train} --likelihood.unmasking trajectory")
    assert "Mosaic has no `mixed`, `compute_in`, which full training in bfloat16 needs" in said
    assert "use --dtype float32" in said
    said = refused(capsys, f"{train} --dtype float32")
    assert "but Mosaic draws from left to right; use 'trajectory'" in said
    said = refused(
        capsys, f"{train} --dtype float32 --likelihood.unmasking trajectory --gradient-checkpointing"
    )
    assert "Mosaic has no `enable_gradient_checkpointing`, which gradient_checkpointing needs" in said
    said = refused(capsys, f"{train} --dtype float32 --likelihood.unmasking trajectory --model.trained lora")
    assert "Mosaic has no adapters; use --model.trained full" in said


def test_a_captioner_is_a_folder_and_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = follow("docs/adding_a_model.md", monkeypatch, tmp_path)
    has_learned(tmp_path / "run")
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("images/00000.png\t")

    said = refused(capsys, "export run --output trained")
    assert "the family Bigram cannot be exported" in said and "`export`" in said
    train = f"train vlrm --preset shapes --run other {names['models']} {names['images']} {names['steps']}"
    said = refused(capsys, train)
    assert "Bigram has no `hidden_size`, `trunk_linears`, `hidden_states`, which the critic of" in said
    assert "use --algorithm scst" in said
    scst = f"{train} --algorithm scst"
    said = refused(capsys, f"{scst} --held-out.beams 5")
    assert "Bigram has no `write`, which beam search needs" in said
    said = refused(capsys, f"{scst} --gradient-checkpointing")
    assert "Bigram has no `enable_gradient_checkpointing`" in said
    said = refused(capsys, f"{scst} --shard")
    assert "`shard_units`" in said
    said = refused(capsys, f"{scst} --captioner.lora-rank 3")
    assert "is a Bigram, which has no captioner.* settings" in said
    assert "Bigram has no `write`" in refused(capsys, "caption images/00000.png --model run --beams 3")
