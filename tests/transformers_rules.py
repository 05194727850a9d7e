"""Rules that keep to one file what changes between versions of transformers."""

from __future__ import annotations

import ast
import re

from sources import FunctionNode, Source, imports

# The one file that knows what differs between the versions of transformers.
INTERNALS = "models.transformers_internals"
# Files that name what is forbidden in order to forbid it.
_RULES = {"tests/test_architecture.py", "tests/transformers_rules.py"}


def changing_imports(source: Source) -> list[str]:
    """Imports from transformers that are neither its top level nor a class of its `models`; the old name of
    a cache.
    """
    if source.module == INTERNALS or source.path in _RULES:
        return []
    wrong: list[str] = []
    for found in imports(source):
        is_class = found.target.startswith("transformers.models.") and found.name[:1].isupper()
        is_top = found.target == "transformers" and not found.name[:1].islower()
        is_top |= (found.target, found.name) == ("transformers.utils", "logging")
        if found.target.split(".")[0] == "transformers" and not (is_class or is_top):
            wrong.append(f"{source.path}:{found.line} imports {found.target}:{found.name}")
    if "past_key_values" in source.text:
        wrong.append(f"{source.path} names past_key_values, which is `cache` from 5.24 on")
    return wrong


def private_names(source: Source) -> list[str]:
    """Private names of others, which change without notice: read, or set in a subclass."""
    if source.module == INTERNALS:
        return []
    nodes = list(ast.walk(source.tree))
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    own = {node.name for node in nodes if isinstance(node, FunctionNode | ast.ClassDef)}
    own |= {
        node.attr
        for node in attributes
        if isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
    }
    wrong = [
        f"{source.path}:{node.lineno} reads the private {ast.unparse(node)}"
        for node in attributes
        # A documented function, in spite of its name.
        if re.match(r"_[a-z]", node.attr) and node.attr not in own and ast.unparse(node) != "os._exit"
    ]
    for node in nodes:
        lines = node.body if isinstance(node, ast.ClassDef) and node.bases else []
        wrong += [
            f"{source.path}:{line.lineno} sets a private name in a subclass"
            for line in lines
            if isinstance(line, ast.Assign | ast.AnnAssign) and re.match(r"_[a-z]", ast.unparse(line))
        ]
    return wrong
