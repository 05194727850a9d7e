"""Quizzes: a prompt to draw, a question about the image, and the answer that the prompt implies.

Six categories after GenEval (Ghosh et al., 2023), the training task of UniRL. A quiz also holds its atomic
facts, so that an answer can be judged fact by fact, and GenEval's clauses, so that an image can be judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args
from zlib import crc32

from sightloop.quizzes.vocabulary import NUMBER_WORDS, OPPOSITES, REAL, Vocabulary, with_article
from sightloop.text_files import form_of, read_json_lines
from sightloop.types import Fact

Category = Literal["single_object", "two_object", "counting", "colors", "position", "color_attr"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
"""GenEval's tags, in its order."""

QUESTIONS: dict[Category, tuple[str, ...]] = {
    "single_object": (
        "What is shown in this picture?",
        "Which object do you see?",
        "What is the main thing here?",
        "Name the object in the picture.",
    ),
    "two_object": (
        "Which two objects are shown?",
        "What are the two things in this picture?",
        "Name both objects that you see.",
        "Which pair of objects is here?",
    ),
    "counting": (
        "How many objects are shown, and of which kind?",
        "What is here, and how many of them?",
        "Count the objects and name them.",
        "How many things do you see, and what are they?",
    ),
    "colors": (
        "What is the color of the object?",
        "Which color does the object have?",
        "Name the color of the thing shown.",
        "In which color is the object?",
    ),
    "position": (
        "Which two objects are shown, and how are they placed?",
        "Where is one object seen from the other?",
        "Describe how the two objects are arranged.",
        "Name both objects and their relative position.",
    ),
    "color_attr": (
        "Which two objects are shown, and what are their colors?",
        "Name both objects with the color of each.",
        "What color does each of the two objects have?",
        "Describe the two things and their colors.",
    ),
}
"""Several wordings a category, so that the answering side cannot hang on one."""

PROMPT_START = "a photo of"
_WORDINGS = 2**16


@dataclass(frozen=True, kw_only=True)
class Clause:
    """Things of one kind that an image must show, as GenEval writes it."""

    noun: str
    count: int = 1
    color: str | None = None
    position: tuple[str, int] | None = None
    """Relation to the things of an earlier clause, and that clause's place."""

    @property
    def relation(self) -> str | None:
        """Where the things are, seen from those of an earlier clause."""
        return None if self.position is None else self.position[0]


@dataclass(frozen=True, kw_only=True)
class Quiz:
    """What to draw, what to ask about it, and what the answer must say."""

    category: Category
    prompt: str
    question: str
    answer: str
    facts: tuple[Fact, ...]
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...] = ()
    """Things of which there must be fewer than `count`."""

    def metadata(self) -> dict[str, Any]:
        """The quiz as a line of GenEval's prompts file, with question and answer as UniRL adds them."""
        record: dict[str, Any] = {"tag": self.category, "include": [_clause_json(c) for c in self.include]}
        if self.exclude:
            record["exclude"] = [_clause_json(clause) for clause in self.exclude]
        return record | {"prompt": self.prompt, "question": self.question, "answer": self.answer}


def quiz_of(
    category: Category, include: Sequence[Clause], vocabulary: Vocabulary, *, wording: int = 0
) -> Quiz:
    """The quiz about an image that fulfills the clauses. `wording` picks the question, cyclically.

    In the category `position` the first clause is the target, as in GenEval.

    >>> clauses = (Clause(noun="cat"), Clause(noun="dog", position=("left of", 0)))
    >>> quiz = quiz_of("position", clauses, REAL)
    >>> quiz.prompt, quiz.answer
    ('a photo of a dog left of a cat', 'The dog is left of the cat')
    """
    include = tuple(include)
    questions = QUESTIONS[category]
    prompt, answer = _prompt_and_answer(category, include, vocabulary)
    exclude = tuple(Clause(noun=c.noun, count=c.count + 1) for c in include) if category == "counting" else ()
    return Quiz(
        category=category,
        prompt=f"{PROMPT_START} {prompt}",
        question=questions[wording % len(questions)],
        answer=answer,
        facts=facts_of(category, include, vocabulary),
        include=include,
        exclude=exclude,
    )


def _prompt_and_answer(
    category: Category, include: tuple[Clause, ...], vocabulary: Vocabulary
) -> tuple[str, str]:
    first, last = include[0], include[-1]
    if category == "counting":
        number = NUMBER_WORDS.get(first.count, str(first.count))
        phrase = f"{number} {vocabulary.noun(first.noun).plural}"
        return phrase, phrase
    if category == "single_object":
        return with_article(first.noun), first.noun
    if category == "colors":
        return with_article(f"{first.color} {first.noun}"), str(first.color)
    if category == "two_object":
        both = f"{with_article(first.noun)} and {with_article(last.noun)}"
        return both, f"There is {both}"
    if category == "position":
        assert last.position is not None
        relation = last.position[0]
        return (
            f"{with_article(last.noun)} {relation} {with_article(first.noun)}",
            f"The {last.noun} is {relation} the {first.noun}",
        )
    return (
        " and ".join(with_article(f"{clause.color} {clause.noun}") for clause in include),
        f"The {first.noun} is {first.color} and the {last.noun} is {last.color}",
    )


def facts_of(category: Category, include: Sequence[Clause], vocabulary: Vocabulary) -> tuple[Fact, ...]:
    """What a right answer to the category's question says: 1 fact (single object, colors) to 4."""
    forms = [vocabulary.noun(clause.noun).forms for clause in include]
    nouns = [Fact(kind="noun", words=names) for names in forms]
    if category == "colors":
        return (Fact(kind="color", words=(str(include[0].color),), named=forms[0]),)
    if category == "counting":
        count = include[0].count
        return (Fact(kind="number", words=(NUMBER_WORDS.get(count, str(count)), str(count))), *nouns)
    if category == "position":
        found: list[Fact] = []
        for clause, names in zip(include, forms, strict=True):
            if clause.position is not None:
                relation, place = clause.position
                words = (relation, f"to the {relation}") if " of" in relation else (relation,)
                found.append(Fact(kind="relation", words=words, about=names, target=forms[place]))
        return (*nouns, *found)
    if category == "color_attr":
        colors = [
            Fact(kind="color", words=(str(clause.color),), about=names)
            for clause, names in zip(include, forms, strict=True)
        ]
        return (*nouns, *colors)
    return tuple(nouns)


def random_quiz(category: Category, vocabulary: Vocabulary, *, pick: Callable[[int], int]) -> Quiz:
    """A quiz of the category; `pick(n)` gives a random number below n.

    Two nouns and two colors of one quiz differ.
    """
    colored = category in ("colors", "color_attr")
    nouns = [noun.name for noun in vocabulary.nouns if noun.takes_color or not colored]
    wording = pick(_WORDINGS)
    first = nouns[pick(len(nouns))]
    others = [noun for noun in nouns if noun != first]
    if category == "counting":
        count = vocabulary.counts[pick(len(vocabulary.counts))]
        clauses = [Clause(noun=first, count=count)]
    elif category == "single_object":
        clauses = [Clause(noun=first)]
    elif category == "colors":
        clauses = [Clause(noun=first, color=vocabulary.colors[pick(len(vocabulary.colors))])]
    else:
        second = others[pick(len(others))]
        if category == "two_object":
            clauses = [Clause(noun=first), Clause(noun=second)]
        elif category == "position":
            relation = vocabulary.relations[pick(len(vocabulary.relations))]
            clauses = [Clause(noun=first), Clause(noun=second, position=(relation, 0))]
        else:
            color = vocabulary.colors[pick(len(vocabulary.colors))]
            rest = [name for name in vocabulary.colors if name != color]
            clauses = [
                Clause(noun=first, color=color),
                Clause(noun=second, color=rest[pick(len(rest))]),
            ]
    return quiz_of(category, clauses, vocabulary, wording=wording)


def _clause_json(clause: Clause) -> dict[str, Any]:
    record: dict[str, Any] = {"class": clause.noun, "count": clause.count}
    if clause.color is not None:
        record["color"] = clause.color
    if clause.position is not None:
        record["position"] = list(clause.position)
    return record


def user_quizzes(path: Path, vocabulary: Vocabulary = REAL) -> list[Quiz]:
    """Quizzes of a JSON-lines file with `tag`, `prompt`, `question`, `answer`, `include` and maybe `exclude`.

    GenEval's prompts file with the two fields that UniRL adds. `vocabulary` gives plurals and synonyms.

    Raises:
        ValueError: a line is no such record, with its number; or the file holds none.
    """
    quizzes: list[Quiz] = []
    for place, record in read_json_lines(path):
        with form_of(place):
            quizzes.append(_quiz_of_record(record, vocabulary))
    if not quizzes:
        raise ValueError(f"{path} holds no quiz; write one JSON object a line")
    return quizzes


def quiz_of_metadata(record: Any, vocabulary: Vocabulary = REAL) -> Quiz:
    """The quiz of a line of GenEval's prompts file; the grammar asks and answers where the line does not.

    Raises:
        ValueError: it is no such record.
    """
    if isinstance(record, dict) and cast("dict[str, Any]", record).get("tag") in CATEGORIES:
        fields = cast("dict[str, Any]", record)
        clauses = clauses_of(fields.get("include"), "include")
        _check_category(fields["tag"], clauses)
        made = quiz_of(fields["tag"], clauses, vocabulary)
        record = {"question": made.question, "answer": made.answer, **fields}
    return _quiz_of_record(record, vocabulary)


def _quiz_of_record(record: Any, vocabulary: Vocabulary) -> Quiz:
    if not isinstance(record, dict):
        raise ValueError(f"{record!r} is no JSON object")
    fields = cast("dict[str, Any]", record)
    if "tag" in fields and not (isinstance(fields["tag"], str) and fields["tag"] in CATEGORIES):
        raise ValueError(f"unknown category {fields['tag']!r}; use one of {', '.join(CATEGORIES)}")
    for key in ("tag", "prompt", "question", "answer", "include"):
        if key not in fields:
            raise ValueError(f"field {key!r} is missing")
    for key in ("prompt", "question", "answer"):
        if not isinstance(fields[key], str) or not fields[key].strip():
            raise ValueError(f"field {key!r} is {fields[key]!r}; write a text")
    include = clauses_of(fields["include"], "include")
    _check_category(fields["tag"], include)
    return Quiz(
        category=fields["tag"],
        prompt=fields["prompt"],
        question=fields["question"],
        answer=fields["answer"],
        facts=facts_of(fields["tag"], include, vocabulary),
        include=include,
        exclude=clauses_of(fields["exclude"], "exclude") if fields.get("exclude") else (),
    )


def clauses_of(records: Any, field: str, *, default_count: int | None = 1) -> tuple[Clause, ...]:
    """Clauses from their form in a prompts file; without a `default_count` each must have its own.

    Raises:
        ValueError: one is no such record; it is named by `field` and its place.
    """
    if not isinstance(records, list) or not records:
        raise ValueError(f"field {field!r} is {records!r}; write a list of clauses")
    listed = enumerate(cast("list[Any]", records))
    return tuple(_clause(record, place, field, default_count) for place, record in listed)


def _clause(record: Any, place: int, field: str, default_count: int | None) -> Clause:
    fields = cast("Mapping[str, Any]", record) if isinstance(record, dict) else {}
    noun, count = fields.get("class"), fields.get("count", default_count)
    color, position = fields.get("color"), fields.get("position")
    if not isinstance(noun, str) or not noun:
        raise ValueError(f"{field} clause {place} has no 'class': {record!r}")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{field} clause {place} has 'count' {count!r}; use a whole number from 1")
    if color is not None and not isinstance(color, str):
        raise ValueError(f"{field} clause {place} has 'color' {color!r}; use a word")
    if position is None:
        return Clause(noun=noun, count=count, color=color)
    if not isinstance(position, list | tuple) or len(cast("Sequence[Any]", position)) != 2:
        raise ValueError(f"{field} clause {place} has 'position' {position!r}; use [relation, place]")
    relation, target = cast("list[Any]", position)
    if not isinstance(relation, str) or relation not in OPPOSITES:
        raise ValueError(f"{field} clause {place}: unknown relation {relation!r}; use {', '.join(OPPOSITES)}")
    if type(target) is not int or not 0 <= target < place:
        raise ValueError(f"{field} clause {place} points at clause {target!r}; use an earlier one")
    return Clause(noun=noun, count=count, color=color, position=(relation, target))


def _check_category(category: Category, include: tuple[Clause, ...]) -> None:
    needed = 1 if category in ("single_object", "counting", "colors") else 2
    if len(include) != needed:
        raise ValueError(f"a {category} quiz needs {needed} include clauses, not {len(include)}")
    if category in ("colors", "color_attr") and any(clause.color is None for clause in include):
        raise ValueError(f"every include clause of a {category} quiz needs 'color'")
    if category == "position" and include[1].position is None:
        raise ValueError("the second include clause of a position quiz needs 'position'")


def identification_question(quiz: Quiz, vocabulary: Vocabulary) -> tuple[str, tuple[Fact, ...]] | None:
    """What to ask besides where the quiz's question leaves out which thing it is; None where it does not."""
    if any(fact.kind == "noun" for fact in quiz.facts):
        return None
    asked = quiz_of("single_object", quiz.include[:1], vocabulary, wording=crc32(quiz.question.encode()))
    return asked.question, asked.facts
