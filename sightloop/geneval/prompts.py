"""What GenEval's prompts ask for (arXiv 2310.11513), as its prompts file says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sightloop.quizzes.grammar import Clause, Quiz, clauses_of
from sightloop.quizzes.vocabulary import OPPOSITES
from sightloop.text_files import form_of, read_json_lines

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""The colors that are told apart, in the order of the official texts."""
RELATIONS = tuple(OPPOSITES)
"""Left of, right of, above, below."""
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

_WHERE = "GenEval's prompts are the file prompts/evaluation_metadata.jsonl of djghosh13/geneval on GitHub"


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
        return tuple(dict.fromkeys(clause.noun for clause in self.include + self.exclude))


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
    fields = [name for name in ("include", "exclude") if record.get(name)]
    if not fields:
        raise ValueError(f'metadata of {text!r} asks for nothing; "include" or "exclude" needs a clause')
    try:
        clauses = {name: clauses_of(record[name], name, default_count=None) for name in fields}
    except ValueError as error:
        raise ValueError(f"metadata of {text!r}: {error}") from error
    return GenEvalPrompt(
        tag=tag,
        text=text,
        include=clauses.get("include", ()),
        exclude=clauses.get("exclude", ()),
        metadata=dict(record),
    )


def prompt_of(quiz: Quiz) -> GenEvalPrompt:
    """A quiz as GenEval's rules read it."""
    return GenEvalPrompt(
        tag=quiz.category,
        text=quiz.prompt,
        include=quiz.include,
        exclude=quiz.exclude,
        metadata=quiz.metadata(),
    )


def read_geneval_prompts(path: str | Path) -> list[GenEvalPrompt]:
    """The prompts of a file, one JSON object a line.

    Raises:
        ValueError: the file is missing or a line is no prompt.
    """
    prompts: list[GenEvalPrompt] = []
    for place, record in read_json_lines(path, fix=_WHERE):
        with form_of(place):
            prompts.append(parse_prompt(record))
    if not prompts:
        raise ValueError(f"{path} holds no prompts")
    return prompts
