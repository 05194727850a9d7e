"""The vocabulary: every word of the public names stands in docs/concepts.md, once, and is used as it says."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
import transformers
from sources import ROOT, FunctionNode, Source, read

PAGE = (ROOT / "docs" / "concepts.md").read_text()
PACKAGE = read("sightloop")
# What users write against; what is below (a family's parts, the plan's counts, a page's figures) is not.
INTERFACE = (
    "types",
    "models.protocols",
    "training.experiment",
    "training.schedule",
    *(
        f"{folder}."
        for folder in ("algorithms", "rollouts", "rewards", "quizzes", "evaluation", "evaluators")
    ),
)
WORD = re.compile(r"[A-Z]+[0-9A-Z]*(?![a-z])|[A-Z][a-z0-9]*")


def defined() -> list[str]:
    """Every entry of the page's tables."""
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| **")]
    return [entry for row in rows for entry in re.findall(r"\*\*([^*]+)\*\*", row)]


def plain() -> set[str]:
    return set(re.findall(r"[\w-]+", PAGE.split("## Words with their usual meaning")[1].split("\n\n")[2]))


def public_classes(source: Source) -> list[ast.ClassDef]:
    return [node for node in source.tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_"]


def aliases(source: Source) -> list[str]:
    """Names of types that are assigned: `Reward = Callable[...]`."""
    targets = [node.targets[0] for node in source.tree.body if isinstance(node, ast.Assign)]
    return [t.id for t in targets if isinstance(t, ast.Name) and re.match(r"[A-Z][a-z]", t.id)]


def stems(word: str) -> set[str]:
    """A word and what it may be the plural or the participle of."""
    return {word, *(word.removesuffix(end) for end in ("s", "es", "d", "ed", "r", "er"))}


def test_every_word_of_the_interface_is_in_the_vocabulary() -> None:
    entries = {part for entry in defined() for part in re.findall(r"\w+", entry)} | plain()
    known = {stem for entry in entries for stem in stems(entry)} | {"quizzes"}
    missing = {
        f"{word.lower()} ({source.module}.{name})"
        for source in PACKAGE
        if source.module.startswith(INTERFACE)
        for name in [*(node.name for node in public_classes(source)), *aliases(source)]
        for word in WORD.findall(name)
        if not stems(word.lower()) & known
    }
    assert not missing, "\n".join(sorted(missing))


def test_every_entry_stands_once_and_is_used() -> None:
    entries = defined()
    assert [entry for entry, number in Counter(entries).items() if number > 1] == []
    assert not set(entries) & plain()
    names = "\n".join(source.text.lower() for source in PACKAGE)
    unused = [entry for entry in [*entries, *plain()] if not re.search("[ _-]?".join(entry.split()), names)]
    assert not unused


def test_a_policy_scores_a_judge_gives_rewards_and_a_detector_detects() -> None:
    wrong: list[str] = []
    for source in PACKAGE:
        folder = source.module.split(".")[0]
        for node in public_classes(source):
            words = [word.lower() for word in WORD.findall(node.name)]
            methods = {each.name for each in node.body if isinstance(each, FunctionNode)}
            fields = {
                each.target.id
                for each in node.body
                if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
            }
            if words[-1] == "detector" and "detect" not in methods | fields:
                wrong.append(f"{node.name} does not detect")
            if "judge" in words and folder in {"evaluation", "geneval", "evaluators", "models", "algorithms"}:
                wrong.append(f"{node.name} judges in {folder}")
            if {"score", "scores"} & {*words, *methods} and folder in {"rewards", "geneval", "evaluators"}:
                wrong.append(f"{node.name} in {folder} scores")
    assert not wrong


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.name)
def test_pages_name_classes_that_exist(page: Path) -> None:
    text = page.read_text()
    made = set(re.findall(r"class (\w+)", text)) | {"LLMs"}
    exist = "\n".join(source.text for source in [*PACKAGE, *read("experiments"), *read("benchmarks")])
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    named = {
        word
        for code in re.findall(r"`([^`\n]+)`", prose)
        for word in re.findall(r"(?<![\w/.-])[A-Z][a-z]+[A-Z]\w*", code)
    }
    unknown = {name for name in named - made if not re.search(rf"\b{name}\b", exist)}
    # Tables of models name classes of transformers.
    assert {name for name in unknown if not hasattr(transformers, name)} == set()
