"""The house rules, read off the source: who may import whom, how long things may be, what must be said."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from sources import ROOT, FunctionNode, Import, Source, functions, imports, read
from style_rules import badly_named, careless, undocumented
from transformers_rules import changing_imports, private_names

# Who may import what of the package. A folder may always import itself; `module:Name` allows that one name.
# Every folder of `models` is a unit of its own; so are those of `recipes`. Model families are
# known by their rows of `models.families`: only the plan, which counts their networks, knows more.
FLOOR = {"types", "image_files"}
MODELS = {"models", "models.decoding"}
OPENED = {"models.open", "models.only_numbers", "models.written_text"}
FAMILIES = {"models.captioners", "models.show_o", "models.janus"}
JUDGED = {"rewards", "quizzes", "world"}
MEASURED = {"evaluation", "geneval", "evaluators"}
RECIPES = {"recipes", "recipes.vlrm", "recipes.rows", "recipes.unirl"}
BELOW = {
    *FLOOR, *MODELS, *JUDGED, *MEASURED, "algorithms", "data", "rollouts", "storage", "training",
}  # fmt: skip
EVERYONES = {
    *("accelerator", "former_names", "late", "messages", "other_libraries", "picking", "process"),
    *("ranges", "terminal", "text_files"),
}
ALLOWED: dict[str, set[str]] = {
    "accelerator": set(),
    "former_names": set(),
    "late": set(),
    "messages": set(),
    "picking": set(),
    "ranges": set(),
    "other_libraries": set(),
    "terminal": set(),
    "process": {"terminal"},
    "text_files": set(),
    "types": set(),
    "image_files": set(),
    "storage": set(),
    "algorithms": {"types"},
    "data": FLOOR,
    "quizzes": {"types", "data.order"},
    "models": FLOOR | {
        "models.decoding", "models.captioners.family", "models.show_o.family", "models.janus.family",
    },
    "models.decoding": FLOOR | {"models"},
    "models.captioners": FLOOR | MODELS,
    "models.show_o": FLOOR | MODELS,
    "models.janus": FLOOR | MODELS,
    "rewards": OPENED | {"types", "quizzes", "models.clip", "models.captioners.prompt_reader:processed"},
    "rollouts": {"types", "quizzes", "data.images:ImageBatch", "models.protocols"},
    "training": FLOOR | {
        "storage", "algorithms.masked", "evaluation.intervals",
        "models.open:read_saved", "models.open:read_tensors",
    },
    "evaluation": FLOOR | OPENED | {"models.clip", "rewards.phrases"},
    "geneval": FLOOR | OPENED | {"quizzes", "evaluation", "models.clip", "models.transformers_internals"},
    "world": FLOOR | {"quizzes", "geneval.rules"},
    "evaluators": FLOOR | MODELS | JUDGED | {
        "evaluation", "geneval", "data", "rollouts.seeds", "rollouts.caption", "training.distributed",
        "training.gallery",
    },
    "report": {"evaluation.intervals", "evaluation.shares", "image_files"},
    "recipes": BELOW | RECIPES,
    "recipes.vlrm": BELOW | {"recipes", "models.captioners.critic", "models.captioners.vision_towers"},
    "recipes.rows": BELOW | {"recipes"},
    "recipes.unirl": BELOW | {"recipes"},
    "planning": BELOW | RECIPES | FAMILIES,
    "runs": BELOW | RECIPES | {"planning", "report.page:write_report"},
    "integrations": BELOW | RECIPES | {"runs"},
    "doctor": BELOW | RECIPES | {"runs"},
    "api": BELOW | RECIPES | {"runs", "integrations", "report"},
    "view": {"image_files", "report", "api.model"},
    # The public names, imported when they are used.
    "": {"api", "recipes.rows.config", "recipes.unirl.config", "recipes.vlrm.config", "types"},
    "cli": BELOW | RECIPES | {
        "", "planning", "runs", "doctor", "integrations", "report", "api", "view",
        # `convert` names the family whose files it rewrites.
        "models.show_o.checkpoint", "models.show_o.magvit2", "models.janus.checkpoint",
    },
    "__main__": {"cli"},
}  # fmt: skip
# Where the libraries from outside are limited too; everyone else may import what pyproject.toml declares.
OUTSIDE = {
    "accelerator": {"torch"},
    "types": {"torch", "jaxtyping", "PIL"},
    "algorithms": {"torch", "jaxtyping"},
    "evaluation.intervals": {"numpy"},
    "report": {"numpy"},
}
# Large, optional and imported where they are used, so that the core installs and starts without them.
LAZY = {
    "av",
    "datasets",
    "lmms_eval",
    "pandas",
    "pyarrow",
    "tensorboard",
    "trackio",
    "wandb",
}
TABLE = "models.families"
IMPORT_NAMES = {"pillow": "PIL"}
MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS, MAX_FOLDER = 400, 60, 7, 20


def own_target(found: Import, modules: set[str]) -> str | None:
    """The module of the package that an import reaches, by its name below the package; None if outside."""
    if found.target.split(".")[0] != "sightloop":
        return None
    target = found.target.removeprefix("sightloop").removeprefix(".")
    deeper = f"{target}.{found.name}".removeprefix(".")
    return deeper if deeper in modules else target


def edge_is_allowed(unit: str, target: str, name: str) -> bool:
    """True if `unit` may take `name` from the package's module `target`; some are everyone's."""
    if unit_of(target) in {unit, *EVERYONES}:
        return True
    allowed = ALLOWED.get(unit, set())
    return bool(allowed & {unit_of(target), target, f"{target}:{name}"})


def unit_of(module: str) -> str:
    """The folder that a rule is about: the first two names where the table has them, else the first.

    >>> unit_of("models.janus.body"), unit_of("models.open"), unit_of("training.loop")
    ('models.janus', 'models', 'training')
    """
    deeper = ".".join(module.split(".")[:2])
    return deeper if deeper in ALLOWED else module.split(".")[0]


def forbidden_edges(source: Source, modules: set[str]) -> list[str]:
    """Imports inside the package that the table does not allow; relative ones, which hide where they go."""
    wrong: list[str] = []
    for found in imports(source):
        if found.target.startswith("."):
            wrong.append(f"{source.path}:{found.line} relative import {found.target}")
            continue
        target = own_target(found, modules)
        if target is not None and not edge_is_allowed(unit_of(source.module), target, found.name):
            wrong.append(
                f"{source.path}:{found.line} {unit_of(source.module)} may not import {target}:{found.name}"
            )
    return wrong


def forbidden_libraries(source: Source, declared: set[str]) -> list[str]:
    """Imports of libraries that are undeclared or not for this folder; torch.distributed outside its file."""
    limits = [names for unit, names in OUTSIDE.items() if f"{source.module}.".startswith(f"{unit}.")]
    usable = limits[0] if limits else declared
    wrong: list[str] = []
    for found in imports(source):
        root = found.target.split(".")[0]
        if root not in sys.stdlib_module_names | usable | {"sightloop", ""}:
            wrong.append(f"{source.path}:{found.line} imports {root}")
    if source.module == "training.distributed":
        return wrong
    for found in imports(source):
        if f"{found.target}.{found.name}.".startswith("torch.distributed."):
            wrong.append(f"{source.path}:{found.line} imports torch.distributed")
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.distributed":
            wrong.append(f"{source.path}:{node.lineno} uses torch.distributed")
    return wrong


def hidden_imports(source: Source) -> list[str]:
    """Imports inside functions, except optional libraries and the command line's."""
    return [
        f"{source.path}:{found.line} imports {found.target} inside a function"
        for found in imports(source)
        if found.inside_function
        and not f"{source.module}.".startswith("cli.")
        and not LAZY & set(found.target.split("."))
    ]


def oversized(source: Source) -> list[str]:
    """Files, functions and parameter lists beyond the limits."""
    wrong: list[str] = []
    if (lines := source.text.count("\n")) > MAX_FILE:
        wrong.append(f"{source.path} has {lines} lines, at most {MAX_FILE}")
    for function, is_method in functions(source):
        place = f"{source.path}:{function.lineno} {function.name}"
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > MAX_FUNCTION:
            wrong.append(f"{place} has {lines} lines, at most {MAX_FUNCTION}")
        a = function.args
        count = len([*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, [a.vararg, a.kwarg])]) - is_method
        if count > MAX_PARAMETERS:
            wrong.append(f"{place} takes {count} parameters, at most {MAX_PARAMETERS}")
    return wrong


def declared_libraries() -> set[str]:
    """Import names of every dependency in pyproject.toml: extras for users too, tools for developers not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [
        line
        for name, lines in project["optional-dependencies"].items()
        if name not in {"dev", "real"}
        for line in lines
    ]
    names = {re.match(r"[\w-]+", line).group() for line in [*project["dependencies"], *extras]}  # pyright: ignore
    # transformers brings tokenizers and is useless without it.
    return {IMPORT_NAMES.get(name, name).replace("-", "_") for name in names} | {"tokenizers"}


PACKAGE = read("sightloop")
MODULES = {source.module for source in PACKAGE}
RULES: dict[str, Callable[[Source], list[str]]] = {
    "no_edge_outside_the_table": lambda source: forbidden_edges(source, MODULES),
    "no_library_outside_the_list": lambda source: forbidden_libraries(source, declared_libraries()),
    "no_changing_import_of_transformers": changing_imports,
    "no_private_name_of_others": private_names,
    "no_import_inside_functions": hidden_imports,
    "nothing_oversized": oversized,
    "nothing_public_undocumented": undocumented,
    "nothing_careless": careless,
    "no_vague_file_names": badly_named,
}


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_every_rule(rule: str) -> None:
    problems = [line for source in PACKAGE for line in RULES[rule](source)]
    assert not problems, "\n".join(problems)


def test_tests_and_benchmarks_keep_the_limits_and_the_names() -> None:
    sources = [*read("tests"), *read("benchmarks"), *read("experiments")]
    rules = (oversized, badly_named, changing_imports)
    problems = [line for source in sources for rule in rules for line in rule(source)]
    assert not problems, "\n".join(problems)


def test_tests_mirror_the_package_under_unique_names() -> None:
    paths = [Path(source.path) for source in read("tests")]
    folders = {path.parts[1] for path in paths if len(path.parts) > 2}
    assert folders <= {path.name for path in (ROOT / "sightloop").iterdir() if path.is_dir()} | {
        "oracles",
        "real",
        "reliability",
    }
    named = [path.name for path in paths if path.name != "conftest.py"]
    assert len(set(named)) == len(named)


def test_every_folder_of_the_package_has_its_rule() -> None:
    assert {unit_of(source.module) for source in PACKAGE} | {""} == set(ALLOWED)


def test_no_public_name_stands_in_two_files() -> None:
    places: dict[str, list[str]] = {}
    for source in PACKAGE:
        for node in source.tree.body:
            if isinstance(node, ast.ClassDef | FunctionNode) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(source.path)
    # What each recipe has under one name: its `build`, and what the doctor asks of it; and what users call by
    # the name of the verb or metric that does it further down.
    shared = {"build", "judges_of", "opened", "policy_of", "clip_recall", "load", "train"}
    assert {name: paths for name, paths in places.items() if len(paths) > 1 and name not in shared} == {}


# Words that stand for others of the field's; `docs/concepts.md` says which.
FORMER_WORDS = re.compile(
    r"(?<![a-z])(?:pictures?|colours?|coloured|told|law|grader|sides|silent|eyes)(?![a-z])"
)


def test_public_names_are_words_of_the_field() -> None:
    spelled = {
        re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.name).lower(): source.path
        for source in PACKAGE
        for node in source.tree.body
        if isinstance(node, ast.ClassDef | FunctionNode) and not node.name.startswith("_")
    }
    found = {
        f"{path} {name}" for name, path in spelled.items() if FORMER_WORDS.search(name.replace("_", " "))
    }
    assert found == set()


def test_no_folder_holds_more_than_twenty_files() -> None:
    folders = Counter(
        Path(source.path).parent for source in PACKAGE if Path(source.path).name != "__init__.py"
    )
    assert {str(folder): number for folder, number in folders.items() if number > MAX_FOLDER} == {}


@pytest.mark.parametrize(
    ("module", "most"),
    [("recipes.vlrm.build", 55), ("recipes.unirl.grpo", 80), ("recipes.unirl.sft", 80)],
)
def test_a_recipe_reaches_few_files(module: str, most: int) -> None:
    code = f"import sys, sightloop.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    files = [source.path for source in PACKAGE if f"sightloop.{source.module}" in loaded and source.text]
    assert len(files) <= most, f"{module} imports {len(files)} files, at most {most}: {' '.join(files)}"


def test_no_module_imports_itself_over_others() -> None:
    graph = {
        source.module: {own for found in imports(source) if (own := own_target(found, MODULES))}
        - {source.module}
        # Rows of the table name their families' functions, which are imported when they are called.
        - ({name for name in MODULES if name.endswith(".family")} if source.module == TABLE else set())
        for source in PACKAGE
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(
    "module", ["sightloop.cli", "sightloop.report.page", "sightloop.evaluation.intervals"]
)
def test_what_must_start_fast_does_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("no_edge_outside_the_table", "from sightloop.models.captioners.blip2 import Blip2"),
        ("no_edge_outside_the_table", "def f():\n    import sightloop.training.loop"),
        ("no_edge_outside_the_table", "from .masked import mean"),
        ("no_edge_outside_the_table", "loop = late('sightloop.training.loop:train')"),
        ("no_library_outside_the_list", "import transformers"),
        ("no_library_outside_the_list", "import torch.distributed as dist"),
        ("no_changing_import_of_transformers", "from transformers.cache_utils import Cache"),
        (
            "no_changing_import_of_transformers",
            "from transformers.models.phi.modeling_phi import rotate_half",
        ),
        ("no_changing_import_of_transformers", "from transformers import logging"),
        ("no_private_name_of_others", "x = model.config._attn_implementation"),
        ("no_private_name_of_others", "class A(B):\n    _keep: list[str] = []"),
        ("no_changing_import_of_transformers", "layer(x, past_key_values=y)"),
        ("no_import_inside_functions", "def f():\n    import math"),
        ("nothing_oversized", "def f(a, b, c, d, *, e, f, g, h): ..."),
        ("nothing_oversized", "def f():\n" + "    x = 1\n" * 60),
        ("nothing_oversized", "x = 1\n" * 401),
        ("nothing_public_undocumented", '"""File."""\nclass A:\n    """A."""\n    def f(self): return 1'),
        ("nothing_public_undocumented", "x = 1"),
        ("nothing_careless", "hasattr(x, 'y')"),
        ("nothing_careless", "print(x)"),
        ("nothing_careless", "sys.stderr.write(x)"),
        ("nothing_careless", "getattr(x, 'y', None)"),
        ("nothing_careless", "try: x\nexcept Exception: y"),
        ("nothing_careless", "@dataclass(frozen=True)\nclass A: ..."),
        ("nothing_careless", "x = 1  # TODO later"),
    ],
)
def test_the_rules_see_what_they_forbid(rule: str, text: str) -> None:
    source = Source(path="sightloop/algorithms/sample.py", module="algorithms.sample", text=text)
    assert len(RULES[rule](source)) == 1


def test_the_rules_pass_what_they_allow() -> None:
    text = (
        '"""A file."""\nimport math\nfrom sightloop.algorithms.masked import mean\n'
        'from sightloop.types import Tokens\n\n\ndef f(a, b, *, c):\n    """Says."""\n    # TODO(#12): more\n'
    )
    source = Source(path="sightloop/algorithms/sample.py", module="algorithms.sample", text=text)
    assert [line for rule in RULES.values() for line in rule(source)] == []
    assert badly_named(Source(path="sightloop/data/image_utils.py", module="data.image_utils", text="")) != []
