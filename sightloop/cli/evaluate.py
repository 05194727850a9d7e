"""The evaluations of the command line: `sightloop evaluate NAME`.

Networks are imported when a command needs them, so that help comes at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sightloop.cli.evaluation_options import (
    AnswerMeasureOptions,
    CaptionMeasureOptions,
    JointOptions,
    RecallOptions,
)
from sightloop.evaluators.geneval_options import GenEvalOptions
from sightloop.terminal import say


def evaluate_recall(options: RecallOptions) -> None:
    """Print and save CLIP Recall."""
    from sightloop.cli.captions import measured_recall

    _report(measured_recall(options), options.output)


def evaluate_captions(options: CaptionMeasureOptions) -> None:
    """Print and save what can be said about captions."""
    from sightloop.cli.captions import measured_captions

    _report(measured_captions(options), options.output)


def evaluate_answers(options: AnswerMeasureOptions) -> None:
    """Print and save how many answers are right."""
    from sightloop.cli.answers import measured_answers

    _report(measured_answers(options), options.output)


def evaluate_images(options: GenEvalOptions) -> None:
    """Print GenEval's table."""
    from sightloop.cli.geneval import evaluate_geneval

    say(evaluate_geneval(options))


def evaluate_both(options: JointOptions) -> None:
    """Print how well one model or two generate and answer."""
    from sightloop.cli.joint import evaluate_joint

    say(evaluate_joint(options))


def _report(found: Any, output: Path | None) -> None:
    from sightloop.cli.captions import evaluation_table, save_evaluation

    say(evaluation_table(found))
    if output is not None:
        save_evaluation(found, output)
        say(f"wrote {output}")


EVALUATIONS: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "clip-recall": (RecallOptions, evaluate_recall),
    "captions": (CaptionMeasureOptions, evaluate_captions),
    "answers": (AnswerMeasureOptions, evaluate_answers),
    "geneval": (GenEvalOptions, evaluate_images),
    "joint": (JointOptions, evaluate_both),
}
