"""What `sightloop evaluate answers` does once its options are read."""

from __future__ import annotations

from sightloop.cli.evaluation_options import AnswerMeasureOptions
from sightloop.evaluation.answer_files import read_answers, yes_no_truth
from sightloop.evaluation.answer_matching import (
    AnswerComparison,
    ExactMatch,
    TextModelComparison,
    answer_measures,
)
from sightloop.evaluation.pope import yes_no_measures
from sightloop.evaluation.text_model import TextModel
from sightloop.models.named_models import model_config
from sightloop.training import distributed
from sightloop.types import Evaluation

YES_NO, EXACT = "yes-no", "exact"


def measured_answers(options: AnswerMeasureOptions) -> Evaluation:
    """How many answers are right.

    Raises:
        ValueError: files that do not fit together, or a setting without effect.
    """
    rows = read_answers(options.answers, questions=options.questions)
    truth = yes_no_truth(rows) if options.judge in ("", YES_NO) else None
    if options.judge == YES_NO and truth is None:
        other = next(row.truth for row in rows if row.truth.strip(" .").lower() not in ("yes", "no"))
        raise ValueError(f"a true answer is {other!r}, which is neither yes nor no; use --matching exact")
    if truth is None and options.reading != "strict":
        raise ValueError(f"reading {options.reading!r} is about yes-or-no questions; leave it out")
    if options.literal and (truth is not None or options.judge in ("", EXACT)):
        raise ValueError("literal is about a language model's replies; name one with --matching FOLDER")
    if truth is not None:
        return yes_no_measures([row.answer for row in rows], truth, reading=options.reading)
    judge: AnswerComparison = ExactMatch()
    if options.judge not in ("", EXACT):
        model_config(options.judge)
        model = TextModel.from_pretrained(options.judge, device=distributed.device(options.device))
        judge = TextModelComparison(model, literal=options.literal, protocol=model.protocol)
    return answer_measures(rows, judge=judge)
