"""What GenEval's prompts ask for (arXiv 2310.11513), as its prompts file says it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""The colours that are told apart, in the order of the official texts."""
RELATIONS = ("left of", "right of", "above", "below")
CLASSES = tuple(
    """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
    stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe,
    backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat,
    baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl,
    banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch,
    potted plant, bed, dining table, toilet, tv, laptop, computer mouse, tv remote, computer keyboard,
    cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
    hair drier, toothbrush
    """.replace("\n", " ")
    .replace("    ", "")
    .strip()
    .split(", ")
)
"""COCO's 80 classes in COCO's order; GenEval calls three of them by a longer name (computer mouse, tv remote,
computer keyboard)."""


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One thing that a prompt asks for: `count` objects of a class."""

    name: str
    count: int
    colour: str | None = None
    relation: str | None = None
    """Where the objects are, seen from those of an earlier clause."""
    target: int | None = None
    """The place of that clause."""


@dataclass(frozen=True, kw_only=True)
class GenEvalPrompt:
    """One line of the prompts file."""

    tag: str
    """The task: single_object, two_object, counting, colors, position, color_attr."""
    text: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...] = ()
    """Wrong if there are `count` objects or more."""
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    """The line as it was read."""

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that the verdict depends on."""
        return tuple(dict.fromkeys(clause.name for clause in self.include + self.exclude))


def parse_prompt(record: Mapping[str, Any]) -> GenEvalPrompt:
    """A prompt from one line of the prompts file.

    >>> parse_prompt({"tag": "t", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}).names
    ('dog',)

    Raises:
        ValueError: something is missing or of another type, or a relation is to no earlier clause.
    """
    tag, text = record.get("tag"), record.get("prompt")
    if not isinstance(tag, str) or not isinstance(text, str):
        raise ValueError(f'metadata {dict(record)!r} needs texts "tag" and "prompt"')
    sides: dict[str, tuple[Clause, ...]] = {}
    for side in ("include", "exclude"):
        clauses = record.get(side) or []
        if not isinstance(clauses, list):
            raise ValueError(f"{side} of {text!r} is {clauses!r}; it is a list of clauses")
        sides[side] = tuple(_clause(clause, place, text) for place, clause in enumerate(clauses))
    if not sides["include"] and not sides["exclude"]:
        raise ValueError(f'metadata of {text!r} asks for nothing; "include" or "exclude" needs a clause')
    return GenEvalPrompt(
        tag=tag, text=text, include=sides["include"], exclude=sides["exclude"], metadata=dict(record)
    )


def read_prompts(path: str | Path) -> list[GenEvalPrompt]:
    """The prompts of a file, one JSON object a line.

    Raises:
        ValueError: the file is missing or a line is no prompt.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(
            f"{file} does not exist; GenEval's prompts are the file prompts/evaluation_metadata.jsonl of the "
            "repository djghosh13/geneval on GitHub"
        )
    prompts: list[GenEvalPrompt] = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            prompts.append(parse_prompt(json.loads(line)))
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{file} line {number}: {error}") from error
    if not prompts:
        raise ValueError(f"{file} holds no prompts")
    return prompts


def _clause(record: Any, place: int, text: str) -> Clause:
    if not isinstance(record, dict) or not isinstance(record.get("class"), str):
        raise ValueError(f'clause {place} of {text!r} is {record!r}; it needs "class" and "count"')
    count, colour, position = record.get("count"), record.get("color"), record.get("position")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"clause {place} of {text!r} has the count {count!r}; use a whole number from 1 on")
    if position is None:
        return Clause(name=record["class"], count=count, colour=colour)
    relation, target = position if isinstance(position, list | tuple) and len(position) == 2 else (None, None)
    if relation not in RELATIONS or not isinstance(target, int) or not 0 <= target < place:
        raise ValueError(
            f"clause {place} of {text!r} has the position {position!r}; use one of {', '.join(RELATIONS)} "
            "and the place of an earlier clause"
        )
    return Clause(name=record["class"], count=count, colour=colour, relation=relation, target=target)
