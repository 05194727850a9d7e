"""Versions outside the tested ranges are told; the ranges are pyproject.toml's."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from sightloop.doctor import tested_versions
from sightloop.doctor.environment import environment
from sightloop.doctor.tested_versions import in_words, outside

ROOT = Path(__file__).resolve().parent.parent.parent
NEEDS = [Requirement("torch<2.15,>=2.11"), Requirement("transformers<5.25,>=5.17")]


@pytest.mark.parametrize(
    ("torch", "transformers", "told"),
    [
        ("2.11.0", "5.17.0", []),
        ("2.14.1+cu130", "5.24.0", []),
        ("2.13.0+cpu", "5.24.3", []),
        ("2.15.0", "5.24.0", ["2.15.0"]),
        ("2.10.1", "5.25.0", ["2.10.1", "5.25.0"]),
        ("2.14.1", "6.0.0.dev0", ["6.0.0.dev0"]),
        ("", "5.16.9", ["5.16.9"]),
    ],
)
def test_a_version_outside_its_range_is_told(torch: str, transformers: str, told: list[str]) -> None:
    versions = {"torch": torch, "transformers": transformers}
    assert [found for found, _ in outside(NEEDS, versions)] == told


def test_the_doctor_names_the_version_the_range_and_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["numpy<1.5,>=1.0", "pillow>=11", "datasets<2; extra == 'data'"]
    monkeypatch.setattr(tested_versions, "requires", lambda _: lines)
    notes = [finding for finding in environment() if finding.name == "untested"]
    (note,) = notes
    assert note.mark == "warn"
    assert note.says.startswith("numpy 2.") and note.says.endswith("was tested with numpy >=1.0,<1.5")
    assert note.fix == "pip install 'numpy>=1.0,<1.5'"


def test_torch_and_transformers_have_both_ends_and_the_pinned_versions_are_between() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs = {(need := Requirement(line)).name: need for line in project["dependencies"]}
    pins = dict(
        re.findall(
            r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    for name in ("torch", "transformers"):
        assert re.fullmatch(r">=[\d.]+,<[\d.]+", in_words(needs[name])), name
        assert not list(outside([needs[name]], pins))
