"""What `import sightloop` offers: the names are frozen, documented, typed, and cost nothing to import."""

from __future__ import annotations

import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sightloop

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    "Evaluation",
    "GrpoConfig",
    "Model",
    "Outcome",
    "RowsConfig",
    "SftConfig",
    "TrainingRun",
    "VlrmConfig",
    "evaluate",
    "load",
    "train",
]
MEMBERS = {
    "Model": [
        "answer",
        "can_caption",
        "can_generate",
        "caption",
        "captioner",
        "generate",
        "generator",
        "score",
    ],
    "TrainingRun": ["captions", "changes", "metrics", "report", "verdict"],
    "evaluate": ["captions", "clip_recall"],
}
"""A test of what users write: take none away without a line in CHANGELOG.md."""


def test_the_public_names_are_these() -> None:
    assert sorted(sightloop.__all__) == sorted(["__version__", *NAMES])
    assert set(NAMES) <= set(dir(sightloop))
    for name, members in MEMBERS.items():
        assert [each for each in members if not hasattr(getattr(sightloop, name), each)] == []


def test_all_of_them_are_documented_and_typed() -> None:
    for name in NAMES:
        assert inspect.getdoc(getattr(sightloop, name)), name
    functions = [sightloop.train, sightloop.load, *(vars(sightloop.Model).values())]
    for function in filter(inspect.isfunction, functions):
        untyped = [
            each.name
            for each in inspect.signature(function).parameters.values()
            if each.annotation is each.empty and each.name != "self"
        ]
        assert not untyped, f"{function.__name__}: {untyped}"


def test_a_name_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(AttributeError, match=r"sightloop has no 'Trainer'; it has Evaluation, GrpoConfig"):
        sightloop.Trainer  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_it_loads_no_network() -> None:
    code = (
        "import sys, sightloop; print(sightloop.__version__, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [sightloop.__version__, "False", "False"]


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"] and "version" not in project["project"]
    assert project["tool"]["hatch"]["version"] == {"path": "sightloop/__init__.py"}
