"""The options of caption, and of the evaluations of captions, answers and drawings; loads no network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sightloop.evaluators.settings import JointSettings
from sightloop.models.families import Parts
from sightloop.ranges import Count, CountOrNone, require_ranges

Positional = tyro.conf.Positional
BrokenImages = Literal["leave-out", "stop"]


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How captions are written."""

    prompt: str = ""
    """Text that captions go on from; default as the run was evaluated."""
    beams: Count | None = None
    """Beams; default as the run was evaluated, else the paper's 5."""
    no_repeat_ngram: CountOrNone | None = None
    """Word sequences of this length never repeat, 0 = they may; default as the run was evaluated, else 2."""
    min_tokens: CountOrNone | None = None
    """Default as the run was evaluated, else 4."""
    max_tokens: Count | None = None
    """Default as the run was evaluated, else 60."""


@dataclass(frozen=True, kw_only=True)
class CaptionOptions:
    """Write captions of images; the defaults are the paper's decoding (table 2)."""

    images: Positional[tuple[str, ...]]
    """Files, folders or globs."""
    model: str = ""
    """BLIP-2 or other captioner: folder, hub name, or a run folder. Without one only the embedded world's own
    images are captioned, by its tiny model.
    """
    decode: Annotated[DecodeOptions, tyro.conf.arg(name="")] = DecodeOptions()
    fit: Literal["crop", "squash"] = "crop"
    """How images become squares for captioners that read squares (BLIP-2): their middle is cropped out, or
    they are squashed.
    """
    on_broken: BrokenImages = "leave-out"
    """Images that cannot be read are left out and named at the end, or the first one stops the command."""
    device: str = "auto"
    """auto (an accelerator if there is one, else the CPU), cpu, cuda, cuda:1, xpu or mps."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Precision of the captioner's frozen weights; default that of the run, else float32."""
    output: Path | None = None
    """Write .jsonl with "image" and "caption" there instead; one that was not finished is gone on with."""

    def __post_init__(self) -> None:
        require_ranges(self)


@dataclass(frozen=True, kw_only=True)
class RecallOptions:
    """How well captions find their own images among all others (CLIP Recall, both directions, MRR,
    intervals).
    """

    captions: Path | None = None
    """File of captions: .jsonl or .json with "image" and "caption", or .csv with these columns."""
    model: str = ""
    """Captioner that writes the captions instead: a BLIP-2 folder, or a run folder."""
    images: str = ""
    """Folder, glob, shards or Karpathy JSON of the images; with --captions the folder its names start
    from.
    """
    image_root: str = ""
    """Folder that the names of the images start from."""
    split: str = "test"
    """Split of a Karpathy JSON."""
    limit: Count | None = None
    """At most so many images, from the first."""
    clip: str = ""
    """CLIP model: folder or hub name; default the run's own (held_out.clip). The bundled one measures the
    embedded world's images only.
    """
    ties: Literal["optimistic", "pessimistic", "expected"] = "optimistic"
    """Texts that are exactly as close to another image: for them (the protocol), against them, or half."""
    decode: Annotated[DecodeOptions, tyro.conf.arg(name="")] = DecodeOptions()
    allow_empty: bool = False
    """Captions of the file may be empty: the captioner said nothing."""
    on_broken: BrokenImages = "stop"
    """Images that cannot be read stop the evaluation, or are left out of it and named."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Precision of the captioner's frozen weights; default that of the run, else float32."""
    device: str = "auto"
    """auto (an accelerator if there is one, else the CPU), cpu, cuda, cuda:1, xpu or mps."""
    output: Path | None = None
    """Write figures, ranks and captions there as JSON."""

    def __post_init__(self) -> None:
        require_ranges(self)


@dataclass(frozen=True, kw_only=True)
class CaptionMeasureOptions:
    """Length, variety, repeats, colors, bad phrases of captions; CIDEr-D, ROUGE-L and BLEU against
    references; CHAIR against the objects of the images; CLIPScore.
    """

    captions: Positional[Path]
    """File of captions: .jsonl or .json with "image" and "caption", or .csv with these columns; COCO's
    results or CLIPScore's candidates.
    """
    references: Path | None = None
    """File of true captions, several an image allowed: adds CIDEr-D, ROUGE-L, BLEU and color coverage. As
    captions, or COCO's annotations, Karpathy's JSON, CLIPScore's references.
    """
    objects: Path | None = None
    """File of the objects that the images hold: adds CHAIR. COCO's instances_*.json, or .jsonl with "image"
    and "objects".
    """
    clip: str = ""
    """CLIP model (folder or hub name): adds CLIPScore, and RefCLIPScore with references."""
    image_root: str = ""
    """Folder that the names of the images start from."""
    phrases: Path | None = None
    """File of bad phrases, one a line; default the paper's 212."""
    scenes: Path | None = None
    """Folder of images of the embedded world: checks every fact told."""
    allow_empty: bool = False
    """Captions may be empty: the captioner said nothing."""
    device: str = "auto"
    """auto (an accelerator if there is one, else the CPU), cpu, cuda, cuda:1, xpu or mps."""
    output: Path | None = None
    """Write the metrics and the values behind them there as JSON."""


@dataclass(frozen=True, kw_only=True)
class AnswerMeasureOptions:
    """How many answers about images are right: yes-or-no questions in the manner of POPE, or free answers
    compared by their words or by a language model.
    """

    answers: Positional[Path]
    """File of answers, .jsonl: "question", "answer" and "truth" (POPE: "label") a line."""
    questions: Annotated[Path | None, tyro.conf.arg(name="question-file")] = None
    """File of questions and true answers, if they are not beside the answers (POPE: "text", "label")."""
    judge: Annotated[str, tyro.conf.arg(name="matching")] = ""
    """"yes-no", "exact" (the same words), or a causal language model (folder or hub name) that compares;
    default yes-no if every true answer is yes or no, else exact.
    """
    reading: Literal["strict", "pope"] = "strict"
    """Yes-no: "strict" counts answers that say neither; "pope" takes all without no and not for a yes."""
    literal: bool = False
    """Language model: only the reply `same` counts, to the letter, as in UniRL's code."""
    device: str = "auto"
    """auto (an accelerator if there is one, else the CPU), cpu, cuda, cuda:1, xpu or mps."""
    output: Path | None = None
    """Write figures and every verdict there as JSON."""


@dataclass(frozen=True, kw_only=True)
class JointOptions:
    """How well a model draws and how well it answers, on the same prompts; two models side by side.

    Every prompt is drawn several times with seeds made from its text; each drawing is judged by the embedded
    world's checker or by GenEval's rules on what a detector sees, and the model is asked about it, and about
    images that are not its own. Two models get the same prompts, seeds and images, so that their
    differences have paired intervals.
    """

    policy: Annotated[str, tyro.conf.arg(name="model")] = ""
    """Folder or hub name of a Show-o or Janus, or a run (its best step); empty = the embedded world's."""
    against: str | None = None
    """What it is compared with, named in the same way. Left out, a run is compared with the model that it
    started from, and any other policy with nothing; "none" = nothing.
    """
    world_model: Literal["show-o", "janus"] = "show-o"
    """Which of the embedded world's models, if none is named."""
    parts: Annotated[Parts, tyro.conf.arg(name="")] = field(default_factory=Parts)
    evaluation: Annotated[JointSettings, tyro.conf.arg(name="")] = field(default_factory=JointSettings)
    vocabulary: Literal["auto", "real", "shapes"] = "auto"
    """Words of the quizzes; auto = as the run was trained, the embedded world's for its own models, else
    "real".
    """
    max_tokens: Count | None = None
    """Longest answer; default as the run was trained, else 32."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of frozen weights."""
    device: str = "auto"
    """auto (an accelerator if there is one, else the CPU), cpu, cuda, cuda:1, xpu or mps."""
    output: Path | None = None
    """Write everything there as JSON: figures, intervals, every drawing's verdict and answer."""
    pictures: Annotated[Path | None, tyro.conf.arg(name="image-dir")] = None
    """Folder for sheet.png: the drawings of both models side by side, right ones framed in green."""

    def __post_init__(self) -> None:
        require_ranges(self)
