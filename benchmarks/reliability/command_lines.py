"""Command lines that are mutated, and the options that each of them knows."""

from __future__ import annotations

import functools
import io
import re
from contextlib import redirect_stdout, suppress

from sightloop.cli.app import run_command

_LINES: dict[str, tuple[str, ...]] = {
    "train vlrm": ("--batch", "8", "--learning-rate", "1e-4"),
    "train unirl-grpo": ("--batch", "2", "--draw.guidance", "1.5", "--kl-weight", "0.1"),
    "train unirl-sft": ("--batch", "2", "--group", "4"),
    "train": ("--resume", "/nowhere"),
    "train ": ("--config", "/nowhere/config.json", "--run", "/nowhere/run"),
    "evaluate captions": ("/nowhere/captions.jsonl", "--references", "/nowhere/x.json"),
    "evaluate clip-recall": ("--captions", "/nowhere/x.csv", "--clip", "/nowhere/clip"),
    "evaluate answers": ("/nowhere/answers.jsonl",),
    "evaluate geneval": ("--results", "/nowhere/results.jsonl", "--threshold", "0.3"),
    "evaluate joint": ("--model", "/nowhere", "--per-category", "4"),
    "report": ("/nowhere",),
    "export": ("/nowhere", "--output", "/nowhere/out", "--step", "3"),
    "draw": ("a red circle", "--per-prompt", "1", "--model", "/nowhere", "--temperature", "1"),
    "ask": ("/nowhere/a.png", "what is it?"),
    "caption": ("/nowhere/a.png", "--beams", "2"),
    "convert": ("show-o", "/nowhere", "/nowhere/out"),
    "report ": ("/nowhere", "/nowhere/else"),
    "completion": ("bash",),
    "doctor": ("--check", "clip:/nowhere"),
}
_OPTION = re.compile(r"--[a-z][a-z0-9.-]*")


@functools.cache
def lines_and_options() -> tuple[dict[str, tuple[str, ...]], dict[str, list[str]]]:
    """Whole command lines, and every option that the help of their commands names."""
    lines = {name: (*name.split(), *rest) for name, rest in _LINES.items()}
    return lines, {name: _options(name.split()) for name in lines}


def _options(words: list[str]) -> list[str]:
    said = io.StringIO()
    with redirect_stdout(said), suppress(SystemExit):
        run_command([*words, "--help-all"])
    return sorted(set(_OPTION.findall(said.getvalue())) - {"--help", "--help-all"})
