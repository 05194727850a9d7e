"""Mutated inputs, disturbed runs and the page about both; `make fuzz` and `make resume-matrix` try more."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.reliability import page
from benchmarks.reliability.disturbances import DISTURBANCES
from benchmarks.reliability.soak import Reading, slope_of
from benchmarks.reliability.tiny_runs import RECIPES

ROOT = Path(__file__).resolve().parents[2]
_NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def run(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A measurement as its target runs it: here, annotations would be checked in its forks."""
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.reliability.{module}", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_thousand_mutated_inputs_are_taken_or_refused_by_name() -> None:
    done = run("fuzz", "--number", "1000", "--further", "0")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit_from_the_command_line() -> None:
    done = run("resume_matrix", "--only", "scst", "--ways", "SIGKILL during accumulation", "--forget")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_every_recipe_and_way_of_the_matrix_has_a_name_that_the_page_can_show() -> None:
    assert not any("|" in name for name in (*RECIPES, *DISTURBANCES))


def test_the_slope_is_that_of_the_line_with_an_interval_from_blocks() -> None:
    line = [Reading(step=step, mib=300 + step / 100, files=4, threads=8) for step in range(1000, 2000, 5)]
    slope, half_width = slope_of(line)
    assert slope == pytest.approx(0.01) and half_width == pytest.approx(0, abs=1e-9)
    swinging = [Reading(step=r.step, mib=r.mib + 10 * (r.step // 50 % 2), files=4, threads=8) for r in line]
    assert slope_of(swinging)[1] > 0.001


def test_the_tables_of_the_page_are_those_of_the_data() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.filled(text) == text, "run python -m benchmarks.reliability.page"


def test_every_kind_of_fault_names_tests_that_exist() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    kinds = [line for line in text.splitlines() if re.match(r"\| K\d+ ", line)]
    assert [line.split()[1] for line in kinds] == [f"K{number}" for number in range(1, 14)]
    for line in kinds:
        named = _NAMED.findall(line)
        assert named, line
        for file, name in named:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            known = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert not name or name in known, f"{file} has no {name}"
