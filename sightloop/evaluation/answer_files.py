"""Answers and true answers from files, one JSON object a line, also POPE's two and lmms-eval's samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sightloop.evaluation.answer_matching import Answered
from sightloop.text_files import read_json_lines

_QUESTION, _TRUTH, _ANSWER = ("question", "text"), ("truth", "label"), ("answer", "response", "text")
_SAMPLES = {"question": "input", "truth": "target", "answer": "filtered_resps"}
"""What lmms-eval calls the same in the files of `--log_samples`."""


def read_answers(file: str | Path, *, questions: str | Path | None = None) -> list[Answered]:
    """The answers of a file with the true ones.

    A line is `{"question": ..., "truth": ..., "answer": ...}`; `label` may stand for `truth`, as in POPE, and
    the samples of lmms-eval (`input`, `target`, `filtered_resps`) are read as well.
    With a file of `questions` (`question` or `text`, `truth` or `label`, `question_id`), the answers need
    none of these but the `question_id`; without ids both files have to be in one order, checked by the
    questions.

    Raises:
        ValueError: a file is missing or empty, a line lacks something, or the two files do not fit together.
    """
    rows = _records(file)
    if questions is None:
        return [
            Answered(
                question=_text(row, ("question", _SAMPLES["question"]), place, required=False),
                truth=_text(row, (*_TRUTH, _SAMPLES["truth"]), place),
                answer=_text(row, ("answer", "response", _SAMPLES["answer"]), place),
            )
            for place, row in rows
        ]
    asked = _records(questions)
    return [
        Answered(
            question=_text(question, _QUESTION, where),
            truth=_text(question, _TRUTH, where),
            answer=_text(row, _ANSWER, place),
        )
        for (where, question), (place, row) in zip(
            asked, _in_order(asked, rows, str(questions), str(file)), strict=True
        )
    ]


def yes_no_truth(rows: Sequence[Answered]) -> list[bool] | None:
    """The true answers as yes and no; None if one of them is neither."""
    truth = [{"yes": True, "no": False}.get(row.truth.strip().strip(".").lower()) for row in rows]
    known = [each for each in truth if each is not None]
    return known if len(known) == len(truth) else None


Rows = list[tuple[str, dict[str, Any]]]
"""Records with their place in a file, for messages."""


def _records(file: str | Path) -> Rows:
    rows = read_json_lines(file)
    if not rows:
        raise ValueError(f"{file} holds no lines")
    return rows


def _text(record: Mapping[str, Any], names: Sequence[str], place: str, *, required: bool = True) -> str:
    for name in names:
        value = record.get(name)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, str | int | float):
            return str(value)
    if required:
        raise ValueError(f"{place} has no {' or '.join(map(repr, names))}: {dict(record)!r}")
    return ""


def _in_order(asked: Rows, rows: Rows, questions: str, file: str) -> Rows:
    """The answers in the order of the questions."""
    for place, record in (*asked, *rows):
        if isinstance(named := record.get("question_id"), dict | list):
            raise ValueError(f"{place} has the question_id {named!r}; give a number or a text")
    ids = [[record.get("question_id") for _, record in each] for each in (asked, rows)]
    if all(None not in each for each in ids):
        for name, each in zip((questions, file), ids, strict=True):
            if len(set(each)) != len(each):
                twice = next(value for value in each if each.count(value) > 1)
                raise ValueError(f"{name} has the question_id {twice!r} more than once")
        if missing := [value for value in ids[0] if value not in set(ids[1])]:
            raise ValueError(
                f"{file} has no answer to {len(missing)} questions, the first is question_id {missing[0]!r}"
            )
        if left := [value for value in ids[1] if value not in set(ids[0])]:
            raise ValueError(f"{file} answers question_id {left[0]!r}, which {questions} does not ask")
        by_id = {record["question_id"]: (place, record) for place, record in rows}
        return [by_id[value] for value in ids[0]]
    if len(asked) != len(rows):
        raise ValueError(
            f"{file} has {len(rows)} answers to {len(asked)} questions of {questions}; give one a question, "
            "or question_id in both files"
        )
    for (where, question), (place, row) in zip(asked, rows, strict=True):
        wording = _text(row, ("question",), place)
        if wording != _text(question, _QUESTION, where):
            raise ValueError(
                f"{place} answers {wording!r}, {where} asks {_text(question, _QUESTION, where)!r}; the files "
                "are in another order: give question_id in both"
            )
    return rows
