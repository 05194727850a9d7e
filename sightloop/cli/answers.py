"""What `sightloop evaluate answers` does once its options are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sightloop.evaluation.answer_files import read_answers, yes_no_truth
from sightloop.evaluation.answer_matching import AnswerJudge, ExactMatch, TextModelJudge, answer_measures
from sightloop.evaluation.pope import YesNoReading, yes_no_measures
from sightloop.evaluation.text_model import TextModel
from sightloop.models.named_models import model_config
from sightloop.training import distributed
from sightloop.types import Evaluation

YES_NO, EXACT = "yes-no", "exact"


@dataclass(frozen=True, kw_only=True)
class AnswersJob:
    """Which answers to judge, and how."""

    answers: Path
    questions: Path | None = None
    judge: str = ""
    """"yes-no", "exact" or a causal language model; "" = yes-no if all true answers are, else exact."""
    reading: YesNoReading = "strict"
    literal: bool = False
    device: str = "auto"


def measured_answers(job: AnswersJob) -> Evaluation:
    """How many answers are right.

    Raises:
        ValueError: files that do not fit together, or a setting without effect.
    """
    rows = read_answers(job.answers, questions=job.questions)
    truth = yes_no_truth(rows) if job.judge in ("", YES_NO) else None
    if job.judge == YES_NO and truth is None:
        other = next(row.truth for row in rows if row.truth.strip(" .").lower() not in ("yes", "no"))
        raise ValueError(f"a true answer is {other!r}, which is neither yes nor no; use --judge exact")
    if truth is None and job.reading != "strict":
        raise ValueError(f"reading {job.reading!r} is about yes-or-no questions; leave it out")
    if job.literal and (truth is not None or job.judge in ("", EXACT)):
        raise ValueError("literal is about a language model's replies; name one with --judge FOLDER")
    if truth is not None:
        return yes_no_measures([row.answer for row in rows], truth, reading=job.reading)
    judge: AnswerJudge = ExactMatch()
    if job.judge not in ("", EXACT):
        model_config(job.judge)
        model = TextModel.from_pretrained(job.judge, device=distributed.device(job.device))
        judge = TextModelJudge(model, literal=job.literal, protocol=model.protocol)
    return answer_measures(rows, judge=judge)
