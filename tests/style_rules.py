"""House rules that one file alone can keep or break: docstrings, careless constructions, names of files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from sources import FunctionNode, Source

# Makes one sentence of whatever the libraries below raise for a damaged model, which may be `Exception`.
BOUNDARY = {"models.downloads", "process.boundary"}
# Spells what others wrote so that a terminal obeys none of it.
PRINTER = "terminal"
BANNED_WORDS = {
    "utils",
    "util",
    "common",
    "helpers",
    "helper",
    "misc",
    "base",
    "manager",
    "handler",
    "v2",
    "new",
}


def undocumented(source: Source) -> list[str]:
    """Files, public classes, their public methods and public functions without a docstring."""
    wrong = (
        []
        if ast.get_docstring(source.tree) or not source.text.strip()
        else [f"{source.path} has no docstring"]
    )

    def look(body: list[ast.stmt]) -> None:
        for node in body:
            if not isinstance(node, ast.ClassDef | FunctionNode) or node.name.startswith("_"):
                continue
            if ast.unparse(node.body[-1]) == "..." and len(node.body) == 1:
                continue  # a protocol's stub: its class says what it is for
            if not ast.get_docstring(node):
                wrong.append(f"{source.path}:{node.lineno} {node.name} has no docstring")
            if isinstance(node, ast.ClassDef):
                look(node.body)

    look(source.tree.body)
    return wrong


def careless(source: Source) -> list[str]:
    """Probing for attributes, catching everything, printing, thawed dataclasses, TODOs nobody tracks."""
    wrong: list[str] = []
    for node in ast.walk(source.tree):
        place = f"{source.path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name, count = node.func.id, len(node.args)
            if name == "hasattr" or (name == "getattr" and (count > 2 or source.unit == "models")):
                wrong.append(f"{place} probes with {name}")
        if isinstance(node, ast.Call) and source.module != PRINTER:
            called = ast.unparse(node.func)
            if called.endswith(".resolve") and called != "Path(__file__).resolve":
                wrong.append(f"{place} follows links with {called}, which a link to itself breaks")
            if called == "print" or re.fullmatch(r"sys\.std(out|err)\.write", called):
                wrong.append(f"{place} prints with {called}")
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            if caught in {"everything", "Exception", "BaseException"} and source.module not in BOUNDARY:
                wrong.append(f"{place} catches {caught}")
        if isinstance(node, ast.ClassDef):
            for decorator in map(ast.unparse, node.decorator_list):
                is_dataclass = re.match(r"(dataclasses\.)?dataclass\b", decorator)
                if is_dataclass and not {"frozen=True", "kw_only=True"} <= set(
                    re.findall(r"\w+=\w+", decorator)
                ):
                    wrong.append(f"{place} dataclass {node.name} is not frozen and keyword-only")
    wrong += [
        f"{source.path}:{number} TODO without an issue number"
        for number, line in enumerate(source.text.splitlines(), 1)
        if re.search(r"#.*\bTODO\b(?!\(#\d+\))", line)
    ]
    return wrong


def badly_named(source: Source) -> list[str]:
    """Files named for nothing in particular."""
    words = set(Path(source.path).stem.split("_"))
    return [f"{source.path} is named for nothing in particular: {words & BANNED_WORDS}"] * bool(
        words & BANNED_WORDS
    )
