"""The documentation is true: its code runs, its commands and options exist, its links lead somewhere.

Every fenced block names its language. Python blocks say `python runnable` (run here, page by page, in order)
or `python fragment` (only parsed). Options in shell blocks and in inline code are looked up in --help.
"""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SHELLS = {"sh", "bash", "shell", "console"}
PYTHONS = {"python runnable", "python fragment"}
# Shown as they are; nothing in them is a claim that could be checked here.
SHOWN = {"text", "json", "toml", "bibtex", "mermaid", "yaml", "diff", "math"}
# Run by `test_model_howtos.py`, which looks at what comes out.
ELSEWHERE = {"docs/adding_a_model.md", "docs/adding_an_image_generator.md"}
# Commands of other programs: their options are not ours to check.
OTHERS = {
    "cd",
    "source",
    "git",
    "pip",
    "pytest",
    "export",
    "ls",
    "cat",
    "open",
    "tensorboard",
    "wandb",
    "pre-commit",
    "pipx",
}


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page; `language` is everything behind the fence, `line` the first line inside."""

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command line that a page shows."""

    place: str
    words: tuple[str, ...]


def blocks(page: str, text: str) -> list[Block]:
    """Every fenced block of a page."""
    found: list[Block] = []
    opened: tuple[int, str, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.match(r"\s*(```+)\s*(.*?)\s*$", line)
        if opened is None and fence:
            opened, lines = (number, fence[1], fence[2]), []
        elif opened and fence and fence[1] == opened[1] and not fence[2]:
            body = "\n".join(lines) + "\n"
            found.append(Block(page=page, line=opened[0] + 1, language=opened[2], text=body))
            opened = None
        elif opened:
            lines.append(line)
    assert opened is None, f"{page}:{opened} is never closed"
    return found


def prose(text: str) -> str:
    """A page without its fenced blocks, which become empty lines."""
    return re.sub(r"^\s*(```+).*?^\s*\1\s*$", lambda m: "\n" * m[0].count("\n"), text, flags=re.M | re.S)


def commands(page: str, text: str) -> list[Command]:
    """Every command line in shell blocks, and every inline code that starts with our command or with make."""
    lines: list[tuple[int, str]] = []
    for block in blocks(page, text):
        if block.language not in SHELLS:
            continue
        shown = re.sub(r"\\\n", "  ", block.text).splitlines()
        if block.language == "console":
            shown = [line[2:] for line in shown if line.startswith("$ ")]
        lines += [(block.line, line) for line in shown]
    for number, line in enumerate(prose(text).splitlines(), 1):
        lines += [(number, code) for code in re.findall(r"`((?:sightloop|make) [^`]+)`", line)]
    found: list[Command] = []
    for number, line in lines:
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"\w+=.*", words[0]):
            words.pop(0)
        if words:
            found.append(Command(place=f"{page}:{number}", words=tuple(words)))
    return found


@functools.cache
def help_text(words: tuple[str, ...]) -> tuple[int, str]:
    """Exit status and output of `sightloop <words> --help`."""
    done = subprocess.run(
        [sys.executable, "-c", "from sightloop.cli import main; main()", *words, "--help-all"],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def wrong_options(place: str, words: tuple[str, ...]) -> list[str]:
    """Subcommands and options behind `sightloop` that its --help does not know."""
    first_option = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    status, text = help_text(words[:first_option])
    if status != 0:
        return [f"{place}: sightloop {shlex.join(words[:first_option])} --help fails: {text}"]
    if words[0] == "doctor" and "--recipe" in words:
        # It takes the settings of training.
        text += help_text(("train", words[words.index("--recipe") + 1]))[1]
    known = set(re.findall(r"(?<![\w-])--?[A-Za-z][\w.-]*", text))
    used = [word.split("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)]
    return [
        f"{place}: sightloop {shlex.join(words)} has no {option}" for option in used if option not in known
    ]


def wrong_command(command: Command) -> list[str]:
    """What is wrong with a command line, as sentences."""
    place, words = command.place, command.words
    program = Path(words[0]).name
    ours = next(
        (i for i, word in enumerate(words) if Path(word).name in {"sightloop", "sightloop.cli"}), None
    )
    if ours is not None and re.match(r"sightloop|torchrun|python", program):
        return wrong_options(place, words[ours + 1 :])
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
        asked = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
        return [f"{place}: the Makefile has no {word}" for word in asked if word not in targets]
    if program.startswith("python"):
        target = words[2].replace(".", "/") + ".py" if words[1:2] == ("-m",) else words[1]
        known_tool = words[1:2] == ("-m",) and words[2] in {"venv", "pip", "pytest"}
        return [] if known_tool or (ROOT / target).exists() else [f"{place}: {target} does not exist"]
    return (
        [] if program in OTHERS else [f"{place}: unknown program {program}; list it in OTHERS if it is right"]
    )


def wrong_links(page: str, text: str) -> list[str]:
    """Relative links of a page that lead nowhere, and anchors without their heading."""
    wrong: list[str] = []
    for link in re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", prose(text)):
        target = link[0] or link[1]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists():
            wrong.append(f"{page}: no {target}")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text() if path else text):
            wrong.append(f"{page}: no heading for {target}")
    return wrong


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+?)\s*$", prose(text), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def layout(text: str) -> set[str]:
    """The paths that the tree in a page names: of the package below it, of others with their folder."""
    tree = next(block.text for block in blocks("layout", text) if block.text.startswith("sightloop/\n"))
    paths: set[str] = set()
    parents: list[str] = []
    root = ""
    for line in tree.splitlines()[1:]:
        indent = (len(line) - len(line.lstrip())) // 2
        if not indent:
            root = f"{line.split()[0]}"
            continue
        for name in line.strip().split("  ")[0].split():
            parents[indent - 1 :] = [name.rstrip("/")]
            paths.add(root + "/".join(parents))
    return paths


@pytest.mark.parametrize("page", PAGES)
def test_every_block_names_a_language_that_is_handled(page: str) -> None:
    unknown = [
        f"{page}:{block.line} {block.language!r}"
        for block in blocks(page, (ROOT / page).read_text())
        if block.language not in SHELLS | PYTHONS | SHOWN
    ]
    assert not unknown, "\n".join(unknown)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE])
def test_python_on_the_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page, (ROOT / page).read_text()):
        if block.language == "python fragment":
            ast.parse(block.text)
        if block.language == "python runnable":
            code = "\n" * (block.line - 1) + block.text
            exec(compile(code, str(ROOT / page), "exec", dont_inherit=True), namespace)


@pytest.mark.parametrize("page", PAGES)
def test_commands_on_the_page_exist_with_their_options(page: str) -> None:
    wrong = [line for each in commands(page, (ROOT / page).read_text()) for line in wrong_command(each)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES)
def test_links_on_the_page_lead_somewhere(page: str) -> None:
    wrong = wrong_links(page, (ROOT / page).read_text())
    assert not wrong, "\n".join(wrong)


def test_the_makefile_starts_what_exists() -> None:
    started = re.findall(r"^\t(?:\w+=\S+ )*\$\(BIN\)/(.+)$", (ROOT / "Makefile").read_text(), flags=re.M)
    ours = [shlex.split(line) for line in started if re.search("sightloop|experiments", line)]
    wrong = [line for words in ours for line in wrong_command(Command(place="Makefile", words=tuple(words)))]
    assert len(ours) >= 3
    assert not wrong, "\n".join(wrong)


def test_the_checks_see_what_is_wrong() -> None:
    page = (
        "# A page\n`sightloop train vlrm --no-such-option 3` and [a link](nowhere.md)\n[another](#a-page)\n"
    )
    page += "```sh\nmake no-target\nsightloop no-such-verb\npython -m sightloop.nowhere\nfrobnicate\n```\n"
    wrong = [line for command in commands("page", page) for line in wrong_command(command)]
    assert len(wrong) == 5, "\n".join(wrong)
    assert wrong_links("CHANGELOG.md", page) == ["CHANGELOG.md: no nowhere.md"]


def test_the_layout_names_every_file_of_the_package() -> None:
    package, beside = ROOT / "sightloop", ROOT / "experiments"
    real = {str(path.relative_to(package)) for path in package.rglob("*.py") if path.name != "__init__.py"}
    real |= {str(path.relative_to(ROOT)) for path in beside.rglob("*.py") if path.name != "__init__.py"}
    named = layout((ROOT / "docs/architecture.md").read_text())
    assert {path for path in named if path.endswith(".py")} == real
    assert not [path for path in named if not (package / path).exists() and not (ROOT / path).exists()]


def test_examples_in_docstrings_give_what_they_say() -> None:
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(verbose=False)
    for path in sorted((ROOT / "sightloop").rglob("*.py")):
        tree = ast.parse(path.read_text())
        nodes = [tree, *(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef))]
        texts = [text for node in nodes if ">>>" in (text := ast.get_docstring(node) or "")]
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for text in texts:
            namespace = dict(vars(importlib.import_module(name)))
            report: list[str] = []
            result = runner.run(parser.get_doctest(text, namespace, name, str(path), 0), out=report.append)
            assert result.failed == 0, "".join(report)
