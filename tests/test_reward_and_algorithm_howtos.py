"""The how-tos of a reward and an algorithm, followed to the end: each trains two steps from its page."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_readme import ROOT, blocks, commands

from sightloop.cli import main


def code_of(page: str, language: str) -> list[str]:
    """The blocks of a page in one language."""
    return [block.text for block in blocks(page, (ROOT / page).read_text()) if block.language == language]


def lines_of(page: str) -> list[tuple[str, ...]]:
    """What stands behind `sightloop` in the shell blocks of a page, line by line."""
    shown = [each.words for each in commands(page, (ROOT / page).read_text())]
    return [words[1:] for words in shown if words[0] == "sightloop"]


def steps_of(run: Path) -> list[dict[str, float]]:
    """The training records of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if "credit" in line]


def test_a_reward_is_a_function_and_no_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "docs/adding_a_reward.md"
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("\n".join(code_of(page, "python runnable")[:2]))
    doctor, *trained = lines_of(page)
    main([*doctor, "--output", "found.json"])
    (found,) = [
        one for one in json.loads(Path("found.json").read_text())["findings"] if "says_where" in one["name"]
    ]
    assert found["mark"] == "pass"
    assert [words[1] for words in trained] == ["vlrm", "unirl-grpo"]
    for words, run in zip(trained, ("captions", "drawings"), strict=True):
        main(list(words))
        steps = steps_of(tmp_path / "runs" / run)
        assert len(steps) == 2 and all("reward/says_where" in step for step in steps)


def test_an_algorithm_is_a_file_and_a_row(tmp_path: Path) -> None:
    page, package = "docs/adding_an_algorithm.md", tmp_path / "sightloop"
    shutil.copytree(ROOT / "sightloop", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "algorithms" / "ranked.py").write_text("\n".join(code_of(page, "python runnable")[:2]))
    table = package / "recipes" / "vlrm" / "algorithms.py"
    (fragment,) = code_of(page, "python fragment")
    head = "ALGORITHMS: dict[str, AlgorithmRow] = {\n"
    row = fragment.partition("# the others\n")[2].rpartition("}")[0]
    assert head in table.read_text() and row.strip()
    table.write_text(table.read_text().replace(head, head + row))
    (words,) = lines_of(page)
    done = subprocess.run(
        [sys.executable, "-m", "sightloop", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(steps_of(tmp_path / "runs" / "ranked")) == 2
