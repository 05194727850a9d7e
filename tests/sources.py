"""Python files as syntax trees, for the rules that are read off them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_LATE = re.compile(r"(sightloop(?:\.\w+)+):(\w+)")
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True)
class Source:
    """One parsed file; `module` is its dotted name below the package, "" outside of it."""

    path: str
    module: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text)

    @property
    def unit(self) -> str:
        """The folder, or the file at the top, that the rules speak about."""
        return self.module.split(".")[0]


@dataclass(frozen=True, kw_only=True)
class Import:
    """One imported name: `target` is the dotted module, `name` what is taken from it ("": the module)."""

    target: str
    name: str
    line: int
    inside_function: bool


def read(folder: str) -> list[Source]:
    """Every Python file below `folder`."""
    sources: list[Source] = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = list(path.relative_to(ROOT / folder).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        module = ".".join(parts) if folder == "sightloop" else ""
        sources.append(Source(path=str(path.relative_to(ROOT)), module=module, text=path.read_text()))
    return sources


def imports(source: Source) -> Iterator[Import]:
    """Every import of a file: also inside functions, under TYPE_CHECKING, and by name as `late` takes it."""

    def walk(node: ast.AST, inside: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(target=alias.name, name="", line=child.lineno, inside_function=inside)
            elif isinstance(child, ast.ImportFrom):
                target = "." * child.level + (child.module or "")
                for alias in child.names:
                    yield Import(target=target, name=alias.name, line=child.lineno, inside_function=inside)
            elif isinstance(child, ast.Constant) and (named := _LATE.fullmatch(str(child.value))):
                yield Import(target=named[1], name=named[2], line=child.lineno, inside_function=False)
            else:
                yield from walk(child, inside or isinstance(child, FunctionNode | ast.Lambda))

    yield from walk(source.tree, False)


def functions(source: Source) -> Iterator[tuple[FunctionNode, bool]]:
    """Every function of a file, and whether it is a method with a `self` or `cls`."""
    for node in ast.walk(source.tree):
        in_class = isinstance(node, ast.ClassDef)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, FunctionNode):
                static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in child.decorator_list)
                yield child, in_class and not static
