"""Messages advise what the command line has: an option that one names exists where the message can come."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache

import pytest
from test_architecture import PACKAGE, Source, functions

from sightloop.cli import main

TRAIN_UNIRL = ("train unirl-grpo", "train unirl-sft")
TRAIN = ("train vlrm", "train grpo", *TRAIN_UNIRL)
DRAWERS = ("draw", "ask", "evaluate geneval", "evaluate joint")
# From which commands a message of a module, or of one function of it, can come; only these may name options.
COMMANDS = {
    "data.batches": ("train vlrm",),
    "data.karpathy": ("train vlrm", "evaluate clip-recall"),
    "data.rows": ("train grpo",),
    "data.shards": ("train vlrm",),
    "data.sources": ("caption", "evaluate clip-recall", "train vlrm"),
    "evaluation.pairs": ("evaluate captions", "evaluate clip-recall"),
    "models.weight_files": (*DRAWERS, *TRAIN_UNIRL, "convert"),
    "models.captioners.family.load_encoder_decoder": ("train vlrm",),
    "models.captioners.from_parts": ("train vlrm", "caption", "evaluate clip-recall"),
    "models.janus.conversation": (*DRAWERS, *TRAIN_UNIRL, "convert"),
    "models.prompt_strings": (*DRAWERS, *TRAIN_UNIRL, "convert"),
    "models.show_o.checkpoint": (*DRAWERS, *TRAIN_UNIRL),
    "cli.joint": ("evaluate joint",),
    "cli.convert": ("convert",),
    "cli.timing": TRAIN,
    "cli.demo_run": ("demo unirl", "demo vlrm"),
    "runs.export": ("export",),
    "runs.push": ("export",),
    "api.caption_file": ("caption",),
    "cli.app": ("export",),
    "cli.app._chosen": TRAIN,
    "cli.app.report": ("report",),
    "cli.draw": ("draw",),
    "evaluators.geneval_run": ("evaluate geneval",),
    "cli.geneval": ("evaluate geneval",),
    "evaluators.geneval_options": ("evaluate geneval",),
    "evaluators.open_joint": ("evaluate joint", *TRAIN_UNIRL),
    "evaluators.open_detector": ("evaluate geneval", "evaluate joint", *TRAIN_UNIRL),
    "evaluators.open_detector.check_detector": ("evaluate geneval",),
    "evaluators.open_detector.open_detector": ("evaluate geneval",),
    "evaluators.open_detector.require_fit": ("evaluate geneval",),
    "planning.captioner_networks": ("train vlrm",),
    "planning.networks": TRAIN_UNIRL,
    "cli.captions": ("evaluate clip-recall",),
    "cli.captions.pairs_of": ("caption", "evaluate clip-recall"),
    "cli.answers": ("evaluate answers",),
    "recipes.inputs": TRAIN,
    "runs.identity": (*TRAIN, "export"),
    "runs.launch": TRAIN,
    "runs.trust": ("train",),
    "runs.restore": DRAWERS,
    "models.captioners.family": ("export",),
    "models.janus.family": (*DRAWERS, *TRAIN_UNIRL),
    "recipes.unirl.build": TRAIN_UNIRL,
    "recipes.unirl.config": TRAIN_UNIRL,
    "recipes.unirl.quizzes": TRAIN_UNIRL,
    "recipes.unirl.sft": ("train unirl-sft",),
    "recipes.rows.build": ("train grpo",),
    "recipes.vlrm.build": ("train vlrm", "doctor --recipe vlrm"),
    "training.checkpoint": ("train",),
    "process.time_limit": TRAIN,
    "training.progress": TRAIN,
    "training.run_folder": TRAIN,
    "training.tracking": TRAIN,
    "view.server": ("view",),
}
EVERY_COMMAND = {*TRAIN, "train", "report", "doctor"}.union(*COMMANDS.values())
# Options of other programs, and the one that every command has.
FOREIGN = {"--gen_kwargs", "--model_args", "--master-port", "--help-all", "--signal", "--version"}
OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*\w")
QUOTED_COMMAND = re.compile(r"`sightloop ([^`]+)`")
PYTHON = re.compile(r"\b\w+=(?:True|False|None)\b|\b[A-Z]\w+\(\w*=?|`\w+`\s*=")
ADVISED = re.compile(r"\b(?:set|raise|lower|use|pass|leave|choose \w+ by)\s+`?([a-z]\w*(?:[_.]\w+)+)")


@dataclass(frozen=True, kw_only=True)
class Message:
    """What a `raise` says; what is filled in stands as {}."""

    place: str
    module: str
    function: str = ""
    text: str

    @property
    def options(self) -> set[str]:
        """The options that it names."""
        return set(OPTION.findall(self.text)) - FOREIGN


def text_of(node: ast.expr, known: dict[str, str]) -> str:
    """A string as it is written, with {} for what is filled in; `known` are the constants of its file."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part, known) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return text_of(node.value, known)
    if isinstance(node, ast.BinOp):
        return text_of(node.left, known) + text_of(node.right, known)
    return known.get(node.id, "{}") if isinstance(node, ast.Name) else "{}"


def messages(source: Source) -> Iterator[Message]:
    """Every message of a file."""
    known = {
        node.targets[0].id: text_of(node.value, {})
        for node in source.tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for function, _ in functions(source):
        for node in ast.walk(function):
            if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
                continue
            for given in [*node.exc.args, *(each.value for each in node.exc.keywords)]:
                yield Message(
                    place=f"{source.path}:{node.lineno}",
                    module=source.module,
                    function=function.name,
                    text=text_of(given, known),
                )


@cache
def options_of(command: str) -> frozenset[str]:
    """The options in a command's help."""
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        main([*command.split(), "--help-all"])
    return frozenset(OPTION.findall(printed.getvalue()))


ALL = [message for source in PACKAGE if source.module for message in messages(source)]


def wrong_options(message: Message) -> list[str]:
    """Options that a message names and its command lacks."""
    if not message.options:
        return []
    commands = COMMANDS.get(f"{message.module}.{message.function}", COMMANDS.get(message.module))
    if commands is None:
        return [f"{message.place} names {sorted(message.options)}: say in COMMANDS whose they are"]
    quoted = QUOTED_COMMAND.findall(message.text)
    # Where commands call a thing differently, a message names each of them.
    everywhere = {"train"} | {command for each in COMMANDS.values() for command in each}
    known = {option for command in (*everywhere, *quoted) for option in options_of(command)}
    wrong = [f"{message.place} names {option}, which no command has" for option in message.options - known]
    for command in () if quoted else commands:
        if not message.options & options_of(command):
            wrong.append(f"{message.place} names {sorted(message.options)}; {command!r} has none of them")
    return wrong


def python_only(message: Message) -> list[str]:
    """Python that a message speaks to people at the command line."""
    known = {option[2:].replace("-", "_") for command in TRAIN for option in options_of(command)}
    names = {name.split(".")[-1] for name in known} | known
    wrong = [match[0] for match in PYTHON.finditer(message.text)]
    # Keys of a checkpoint's files are no settings of ours.
    advised = ADVISED.findall(re.sub(r"\w+ in config\.json", "", message.text))
    wrong += [name for name in advised if name not in names]
    return [f"{message.place} says {each!r}: {message.text}" for each in wrong]


def test_there_are_messages() -> None:
    assert len(ALL) > 500 and sum(bool(message.options) for message in ALL) >= 40


def test_every_option_that_a_message_names_is_one_of_its_command() -> None:
    assert [line for message in ALL for line in wrong_options(message)] == []


def texts(source: Source) -> Iterator[tuple[int, str]]:
    """Every string of a file but its docstrings: sentences that are returned, printed, or kept in tables."""
    said = {id(node.value) for node in ast.walk(source.tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.lineno, node.value


def unknown_options(source: Source) -> list[str]:
    """Options in texts of a file that no command has; other programs' stand behind their names."""
    known = FOREIGN | {o for command in EVERY_COMMAND for o in options_of(command)}
    return [
        f"{source.path}:{line} names {option}"
        for line, text in texts(source)
        for option in OPTION.findall(re.sub(r"`(?:git|pip|hf|torchrun)\b[^`]*`", "", text))
        if option not in known
    ]


def test_every_option_in_any_sentence_exists() -> None:
    sources = [source for source in PACKAGE if source.module not in {"", "former_names"}]
    assert [line for source in sources for line in unknown_options(source)] == []


def test_an_unknown_option_in_a_table_is_seen() -> None:
    text = 'TAKES = {"clip": ("a CLIP", "--clip and --clop take it")}\n"""--clap"""\n'
    assert unknown_options(Source(path="x", module="models.x", text=text)) == ["x:1 names --clop"]


def test_no_message_speaks_python() -> None:
    assert [line for message in ALL for line in python_only(message)] == []


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("recipes.measure", "name a CLIP with --clipp"),
        ("runs.restore", "name its folder with --model.magvit"),
        ("models.janus", "name it with --model"),
    ],
)
def test_a_wrong_option_is_seen(module: str, text: str) -> None:
    assert wrong_options(Message(place="x", module=module, text=text))


@pytest.mark.parametrize(
    "text",
    [
        'set on_broken to "leave out"',
        "raise max_broken_pixels to accept it",
        "choose one by `its_column`",
        "use several=True if that is meant",
        "use CaptionerSettings(reuse_features=False)",
        "set prompt.images",
    ],
)
def test_python_is_seen(text: str) -> None:
    assert python_only(Message(place="x", module="data.images", text=text))
