"""The evaluations of the command line: `sightloop evaluate clip-recall | captions | answers | geneval`.

Networks are imported when a command needs them, so that help comes at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import tyro

from sightloop.cli.geneval_options import GenEvalOptions
from sightloop.cli.joint_options import BothSidesOptions

Positional = tyro.conf.Positional


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipRecall:
    """How well captions find their own images among all others (CLIP Recall, both directions, MRR,
    intervals).
    """

    captions: Path | None = None
    """File of captions: .jsonl or .json with "image" and "caption", or .csv with these columns."""
    model: str = ""
    """Captioner that writes the captions instead: a BLIP-2 folder, or a run folder."""
    images: str = ""
    """Folder, glob, shards or Karpathy JSON of the pictures; with --captions the folder its names start
    from.
    """
    image_root: str = ""
    split: str = "test"
    limit: int | None = None
    clip: str = ""
    """CLIP model: folder or hub name; default the run's own (held_out.clip). The bundled one measures the
    embedded world's images only.
    """
    ties: Literal["optimistic", "pessimistic", "expected"] = "optimistic"
    """Texts that are exactly as close to another picture: for them (the protocol), against them, or half."""
    prompt: str = ""
    beams: int | None = None
    """Beams; default as the run was evaluated, else the paper's 5."""
    no_repeat_ngram: int | None = None
    """Word sequences of this length never repeat, 0 = they may; default as the run was evaluated, else 2."""
    min_tokens: int | None = None
    """Default as the run was evaluated, else 4."""
    max_tokens: int | None = None
    """Default as the run was evaluated, else 60."""
    allow_empty: bool = False
    """Captions of the file may be empty: the captioner said nothing."""
    on_broken: Literal["leave-out", "stop"] = "stop"
    """Images that cannot be read stop the evaluation, or are left out of it and named."""
    device: str = "auto"
    output: Path | None = None
    """Write figures, ranks and captions there as JSON."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionMeasures:
    """Length, variety, repeats, colours, bad phrases of captions; CIDEr-D, ROUGE-L and BLEU against
    references; CHAIR against the objects of the pictures; CLIPScore.
    """

    captions: Positional[Path]
    """File of captions: .jsonl or .json with "image" and "caption", or .csv with these columns."""
    references: Path | None = None
    """File of true captions, several a picture allowed: adds CIDEr-D, ROUGE-L, BLEU and colour
    coverage.
    """
    objects: Path | None = None
    """File of the objects that the pictures hold: adds CHAIR. COCO's instances_*.json, or .jsonl with "image"
    and "objects".
    """
    clip: str = ""
    """CLIP model (folder or hub name): adds CLIPScore, and RefCLIPScore with references."""
    image_root: str = ""
    """Folder that the names of the pictures start from."""
    phrases: Path | None = None
    """File of bad phrases, one a line; default the paper's 212."""
    scenes: Path | None = None
    """Folder of pictures of the embedded world: checks every fact told."""
    allow_empty: bool = False
    """Captions may be empty: the captioner said nothing."""
    device: str = "auto"
    output: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerMeasures:
    """How many answers about pictures are right: yes-or-no questions in the manner of POPE, or free answers
    compared by their words or by a language model.
    """

    answers: Positional[Path]
    """File of answers, .jsonl: "question", "answer" and "truth" (POPE: "label") a line."""
    questions: Path | None = None
    """File of questions and true answers, if they are not beside the answers (POPE: "text", "label")."""
    judge: str = ""
    """"yes-no", "exact" (the same words), or a causal language model (folder or hub name) that compares;
    default yes-no if every true answer is yes or no, else exact.
    """
    reading: Literal["strict", "pope"] = "strict"
    """Yes-no: "strict" counts answers that say neither; "pope" takes all without no and not for a yes."""
    literal: bool = False
    """Language model: only the reply `same` counts, to the letter, as in UniRL's code."""
    device: str = "auto"
    output: Path | None = None
    """Write figures and every verdict there as JSON."""


def decode_of(options: Any) -> Any:
    """How captions are written, from the options of that name."""
    from sightloop.cli.captions import Decode

    return Decode(
        prompt=options.prompt,
        beams=options.beams,
        no_repeat_ngram=options.no_repeat_ngram,
        min_tokens=options.min_tokens,
        max_tokens=options.max_tokens,
    )


def clip_recall(options: ClipRecall) -> None:
    """Print and save CLIP Recall."""
    from sightloop.cli import captions as measure

    given = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(measure.RecallJob)
        if field.name != "decode"
    }
    _told(measure.measured_recall(measure.RecallJob(**given, decode=decode_of(options))), options.output)


def captions(options: CaptionMeasures) -> None:
    """Print and save what can be said about captions."""
    from sightloop.cli import captions as measure

    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(measure.CaptionsJob)}
    _told(measure.measured_captions(measure.CaptionsJob(**given)), options.output)


def answers(options: AnswerMeasures) -> None:
    """Print and save how many answers are right."""
    from sightloop.cli import answers as measure_answers

    job = measure_answers.AnswersJob(
        **{
            field.name: getattr(options, field.name)
            for field in dataclasses.fields(measure_answers.AnswersJob)
        }
    )
    _told(measure_answers.measured_answers(job), options.output)


def geneval(options: GenEvalOptions) -> None:
    """Print GenEval's table."""
    from sightloop.cli.geneval import evaluate_geneval

    print(evaluate_geneval(options))


def both_sides(options: BothSidesOptions) -> None:
    """Print how well one model or two draw and answer."""
    from sightloop.cli.joint import evaluate_both_sides

    print(evaluate_both_sides(options))


def _told(found: Any, output: Path | None) -> None:
    from sightloop.cli.captions import evaluation_table, save_evaluation

    print(evaluation_table(found))
    if output is not None:
        save_evaluation(found, output)
        print(f"wrote {output}")


EVALUATIONS: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "clip-recall": (ClipRecall, clip_recall),
    "captions": (CaptionMeasures, captions),
    "answers": (AnswerMeasures, answers),
    "geneval": (GenEvalOptions, geneval),
    "both-sides": (BothSidesOptions, both_sides),
}
