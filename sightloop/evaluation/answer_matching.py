"""Free answers compared with true ones, as in UniRL's test of understanding (arXiv 2505.23380).

There a language model says whether an answer means the same as the truth. Here that is one judge of two; the
other compares words. Differences from UniRL's test:
1. The instruction is worded by us.
2. The model's verdict is read with tolerance for case and punctuation ("Same."), where UniRL takes anything
   but the bare word `same` for a no (`literal=True`). A reply that is neither is wrong and is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

from sightloop.evaluation.protocol import protocol_hash
from sightloop.evaluation.words import caption_words
from sightloop.process.long_work import counted
from sightloop.types import Evaluation

_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = {"zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"} | {
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_SPELLINGS = {"grey": "gray"}
INSTRUCTION = (
    "Question about a picture: {question}\n"
    "True answer: {truth}\n"
    "Given answer: {answer}\n"
    "Does the given answer say the same as the true answer? Details that the true answer leaves open do not "
    "matter. Reply with one of two phrases and nothing else: same, or not same."
)


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A question, its true answer and the answer that was given."""

    question: str
    truth: str
    answer: str


class AnswerComparison(Protocol):
    """Says whether an answer is right."""

    protocol: dict[str, str]
    """What its verdicts depend on, for the record."""

    def verdicts(self, rows: Sequence[Answered]) -> list[bool | None]:
        """One an answer; None where no verdict could be read."""
        ...


class ExactMatch:
    """Right if the words are the same but for case, punctuation, articles and the spelling of numbers."""

    def __init__(self) -> None:
        self.protocol = {"judge": "exact-match"}

    def verdicts(self, rows: Sequence[Answered]) -> list[bool | None]:
        """Whether the words are the same."""
        return [plain_words(row.answer) == plain_words(row.truth) for row in rows]


class TextModelComparison:
    """Asks a text model: any function from a text to its reply.

    `literal` reads replies as UniRL does: right only if the reply is exactly `same`. `protocol` says which
    model it is.
    """

    def __init__(
        self, ask: Callable[[str], str], *, literal: bool = False, protocol: Mapping[str, str] | None = None
    ) -> None:
        self.ask, self.literal = ask, literal
        self.protocol = {"judge": "text-model", "literal": str(literal), **(protocol or {})}

    def verdicts(self, rows: Sequence[Answered]) -> list[bool | None]:
        """The model's verdicts; equal rows are asked once."""
        several = dict.fromkeys(rows)
        by_row = {
            row: read_verdict(self.ask(_asked(row)), literal=self.literal)
            for row in counted(several, "compared", total=len(several), unit="answers")
        }
        return [by_row[row] for row in rows]


def plain_words(text: str) -> list[str]:
    """Words without articles, numbers as digits.

    >>> plain_words("The three grey cats.")
    ['3', 'gray', 'cats']
    """
    words = [_NUMBERS.get(word, _SPELLINGS.get(word, word)) for word in caption_words(text)]
    return [word for word in words if word not in _ARTICLES]


def read_verdict(reply: str, *, literal: bool = False) -> bool | None:
    """What a judge's reply says; None if it is no verdict.

    >>> [read_verdict(reply) for reply in ("Same.", "not same", "Not the same!", "They differ")]
    [True, False, False, None]
    """
    if literal:
        return reply == "same"
    words = [word for word in caption_words(reply) if word != "the"]
    if words[:2] == ["not", "same"] or words[:1] in (["not-same"], ["different"], ["no"]):
        return False
    return True if words[:1] in (["same"], ["yes"]) else None


def answer_measures(rows: Sequence[Answered], *, judge: AnswerComparison) -> Evaluation:
    """`accuracy` of answers and the share `unparsable` of verdicts, which count as wrong.

    Raises:
        ValueError: no answers, or a row without a true answer.
    """
    if not rows:
        raise ValueError("no answers to evaluate")
    for number, row in enumerate(rows):
        if not row.truth.strip():
            raise ValueError(f"answer {number} ({row.question!r}) has no true answer to compare with")
    found = judge.verdicts(rows)
    per_sample = {
        "accuracy": [float(each is True) for each in found],
        "unparsable": [float(each is None) for each in found],
    }
    names = {True: "right", False: "wrong", None: "unparsable"}
    samples = [
        {"question": row.question, "truth": row.truth, "answer": row.answer, "verdict": names[each]}
        for row, each in zip(rows, found, strict=True)
    ]
    protocol = {**judge.protocol, "answers": str(len(rows))}
    return Evaluation(
        metrics={name: fmean(values) for name, values in per_sample.items()},
        per_sample=per_sample,
        samples=samples,
        protocol=protocol | {"hash": protocol_hash(protocol)},
    )


def _asked(row: Answered) -> str:
    return INSTRUCTION.format(question=row.question, truth=row.truth, answer=row.answer)
