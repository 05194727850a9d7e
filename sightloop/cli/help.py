"""Help that fits the screen: an example and the settings that people touch, the rest with `--help-all`."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import groupby

from sightloop.terminal import say

TWO_SCREENS = 60
"""Lines. Help that is longer is shortened where the table below says to what."""
ALL = "--help-all"
_WIDTH = 100
_ASKED = {"-h", "--help", ALL}
_OPTION = re.compile(r"│ (--[a-z][\w.-]*)")
_SENTENCE = re.compile(r"│( {6,})\S.* │")
_FRAME = re.compile(r"[╭╰]")


@dataclass(frozen=True, kw_only=True)
class Short:
    """The beginning of a command's help."""

    example: str
    options: tuple[str, ...]
    """Options by name, in this order."""


_TRAINED = ("--preset", "--run", "--steps", "--learning-rate", "--micro-batch", "--plan")
_QUIZZED = ("--model", "--model.trained", "--quiz-file", "--batch", "--group")
SHORT: dict[str, Short] = {
    "train vlrm": Short(
        example="sightloop train vlrm --model Salesforce/blip2-opt-2.7b --images photos/ --plan",
        options=(
            *("--model", "--images", "--held-out.images", "--held-out.clip", "--judge"),
            *("--custom-rewards", "--algorithm", "--batch", *_TRAINED),
        ),
    ),
    "train grpo": Short(
        example="sightloop train grpo --model Qwen/Qwen2-VL-2B-Instruct --rows rows.jsonl "
        "--custom-rewards mine.py:right --plan",
        options=(
            *("--model", "--rows", "--held-out.rows", "--custom-rewards", "--algorithm", "--kl-weight"),
            *("--batch", "--group", "--draw.max-tokens", *_TRAINED),
        ),
    ),
    "train unirl-grpo": Short(
        example="sightloop train unirl-grpo --model show-o-512x512/ --run runs/first --plan",
        options=(*_QUIZZED, "--algorithm", "--kl-weight", *_TRAINED),
    ),
    "train unirl-sft": Short(
        example="sightloop train unirl-sft --model show-o-512x512/ --run runs/first --plan",
        options=(*_QUIZZED, "--filter", "--end-to-end", *_TRAINED),
    ),
    "evaluate geneval": Short(
        example="sightloop evaluate geneval --images drawn/ --model RUN --detector DETECTOR --colors CLIP",
        options=(
            *("--images", "--model", "--detector", "--colors", "--detections", "--prompt-file"),
            *("--output", "--results", "--compare", "--device"),
        ),
    ),
    "evaluate joint": Short(
        example="sightloop evaluate joint --model RUN --against BASE",
        options=(
            *("--model", "--against", "--quiz-file", "--per-category", "--detector", "--colors"),
            *("--output", "--image-dir", "--dtype", "--device"),
        ),
    ),
}


def with_help(command: Callable[[list[str]], None], words: list[str], *, name: str) -> None:
    """Runs a command; where its words ask for help, prints the short form of it, or all with `--help-all`."""
    if not _ASKED & set(words):
        return command(words)
    asked = [word for word in words if word not in _ASKED]
    # Wider, groups of options would stand beside each other.
    os.environ["COLUMNS"] = str(min(shutil.get_terminal_size().columns, _WIDTH))
    printed = io.BytesIO()
    with io.TextIOWrapper(printed, encoding="utf-8", write_through=True) as stream:
        try:
            with redirect_stdout(stream):
                command([*asked, "--help"])
        except SystemExit as ended:
            # A mistyped name is no help: it ends as it does without one.
            if ended.code:
                raise
        text = printed.getvalue().decode()
    full_name = " ".join([name, *asked[:1]])
    chosen = SHORT.get(full_name)
    if chosen and ALL not in words and text.count("\n") > TWO_SCREENS:
        text = shortened(text, chosen, command=full_name)
    encoding = sys.stdout.encoding or "utf-8"
    say(reflowed(text).removesuffix("\n").encode(encoding, "replace").decode(encoding))
    raise SystemExit(0)


def shortened(text: str, short: Short, *, command: str) -> str:
    """The head of a help text, an example, and the blocks of the chosen options.

    Raises:
        KeyError: an option that the command does not have.
    """
    lines = text.splitlines()
    frame = next(number for number, line in enumerate(lines) if _FRAME.match(line))
    blocks = blocks_of(lines[frame:])
    number = len(blocks) - len(short.options)
    shown = [line for option in short.options for line in blocks[option]]
    end = next(line for line in reversed(lines) if _FRAME.match(line))
    begin = end.replace("╰", "╭").replace("╯", "╮")
    more = f"{number} more settings, each with a sentence: sightloop {command} {ALL}\n"
    return "\n".join([*lines[:frame], f"Example: {short.example}\n", begin, *shown, end, more])


def reflowed(text: str) -> str:
    """A help text whose sentences do not break where the lines of the source did.

    >>> print(reflowed("│ --run PATH │\\n│       a    │\\n│       b    │"))
    │ --run PATH │
    │       a b  │
    """
    out: list[str] = []
    for indent, group in groupby(text.split("\n"), _indent):
        lines = list(group)
        out += _wrapped(lines, indent) if indent else lines
    return "\n".join(out)


def _indent(line: str) -> int:
    """How far the words of a line of help are from the frame; 0 = no such line."""
    sentence = _SENTENCE.fullmatch(line)
    return len(sentence.group(1)) if sentence else 0


def _wrapped(lines: list[str], indent: int) -> list[str]:
    edge, room = lines[0][0], len(lines[0]) - 2
    words = " ".join(line[1:-1].strip() for line in lines)
    wrapped = textwrap.wrap(words, room - indent - 1, break_long_words=False, break_on_hyphens=False)
    return [f"{edge}{' ' * indent}{line}".ljust(room + 1) + edge for line in wrapped]


def blocks_of(lines: list[str]) -> dict[str, list[str]]:
    """The lines of each option of a help text, by its first name.

    >>> blocks_of(["│ --run PATH  │", "│     Folder. │", "│ --plan      │"])
    {'--run': ['│ --run PATH  │', '│     Folder. │'], '--plan': ['│ --plan      │']}
    """
    blocks: dict[str, list[str]] = {}
    name = ""
    for line in lines:
        if not line.startswith("│"):
            name = ""
        elif found := _OPTION.match(line):
            name = found.group(1)
            blocks[name] = [line]
        elif name:
            blocks[name].append(line)
    return blocks
