"""Keeps test prompts out of training, however they are worded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path

from sightloop.quizzes.grammar import Quiz
from sightloop.quizzes.vocabulary import NUMBER_WORDS, OPPOSITES, REAL, Vocabulary
from sightloop.text_files import parse_json, read_lines

_ARTICLES = {"a", "an", "the"}
_START = re.compile(r"^(?:an?|the)? ?(?:photo|image|picture)s? of ")
_RELATION = re.compile(r"^(.+?) (?:is |are )?(?:to the )?(left of|right of|above|below) (.+)$")


def normalized_prompt(prompt: str, vocabulary: Vocabulary = REAL) -> str:
    """One spelling for all prompts of the same meaning: order of clauses, articles, case, plural, side named.

    >>> normalized_prompt("a photo of a dog left of the cats") == normalized_prompt("A cat right of a dog.")
    True
    """
    text = " ".join(re.findall(r"[a-z0-9-]+|,", prompt.lower()))
    text = _START.sub("", text)
    singular = vocabulary.singular
    related = _RELATION.match(text)
    if related:
        one, relation, other = related.groups()
        if relation in ("right of", "below"):
            one, relation, other = other, OPPOSITES[relation], one
        return f"{_clause_key(one, singular)} {relation} {_clause_key(other, singular)}"
    clauses = [part for part in re.split(r"\band\b|,", text) if part.strip()]
    return " and ".join(sorted(_clause_key(clause, singular) for clause in clauses))


_DIGITS = {word: str(number) for number, word in NUMBER_WORDS.items()}


def _clause_key(clause: str, singular: Mapping[str, str]) -> str:
    words = [_DIGITS.get(word, word) for word in clause.split() if word not in _ARTICLES]
    words = [word for word in words if word != "1"]
    for start in range(len(words)):
        if name := singular.get(" ".join(words[start:])):
            return " ".join([*words[:start], name])
    return " ".join(words)


def excludes(prompts: Iterable[str], vocabulary: Vocabulary = REAL) -> Callable[[Quiz], bool]:
    """Says of a quiz whether its prompt means the same as one of `prompts`: keeps test prompts out of
    training.
    """
    held = frozenset(normalized_prompt(prompt, vocabulary) for prompt in prompts)
    return lambda quiz: normalized_prompt(quiz.prompt, vocabulary) in held


def is_geneval_prompt(quiz: Quiz) -> bool:
    """Whether the quiz's prompt means the same as one of GenEval's 553 test prompts (arXiv 2310.11513).

    They are kept as digests of their normalized form, with the words of `vocabulary.REAL`.
    """
    return prompt_digest(quiz.prompt) in _geneval_digests()


def prompt_digest(prompt: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the normalized prompt."""
    return sha256(normalized_prompt(prompt).encode()).hexdigest()[:16]


@cache
def _geneval_digests() -> frozenset[str]:
    return frozenset(Path(__file__).with_name("geneval_digests.txt").read_text(encoding="ascii").split())


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file: one a line, or GenEval's JSON lines with a field `prompt`.

    Raises:
        ValueError: a JSON line has no text in `prompt`, with its number.
    """
    prompts: list[str] = []
    for line in read_lines(path):
        prompt = line.text.strip()
        if prompt.startswith("{"):
            prompt = parse_json(prompt, line.place).get("prompt")
            if not isinstance(prompt, str):
                raise ValueError(f"{line.place}: field 'prompt' is missing")
        prompts.append(prompt)
    return prompts
