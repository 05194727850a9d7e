"""What the command `convert` does: checkpoints of models that draw, from their authors' form and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sightloop.models.atomic_files import read_json
from sightloop.models.families import require
from sightloop.models.janus.checkpoint import (
    read_janus,
    read_janus_strings,
    read_janus_tokenizer,
    write_janus,
    write_official_janus,
)
from sightloop.models.prompt_strings import PromptOptions
from sightloop.models.show_o.checkpoint import (
    chosen_strings,
    read_show_o,
    read_tokenizer,
    write_magvit2,
    write_official,
    write_show_o,
)
from sightloop.models.show_o.magvit2 import Magvit2
from sightloop.models.weight_files import refuse_problems

Target = Literal["sightloop", "official"]


@dataclass(frozen=True, kw_only=True)
class ConvertJob:
    """From where to where, and what else it takes."""

    family: Literal["show-o", "magvit2", "janus"]
    source: Path
    output: Path
    to: Target = "sightloop"
    magvit: Path | None = None
    tokenizer: Path | None = None
    max_text_tokens: int | None = None
    prompts: PromptOptions | None = None
    """Strings that the output states instead of the source's."""


def convert(job: ConvertJob) -> None:
    """Write the output; it appears when it is complete.

    Raises:
        ValueError: the source is another family or has that form already, a part is missing or does not fit,
            an option has no effect, or the output is in the way.
    """
    if job.family == "show-o":
        _convert_show_o(job)
    elif job.family == "magvit2":
        _refuse_options(job, "magvit", "tokenizer", "max_text_tokens", "prompts")
        pictures = Magvit2.from_folder(job.source)
        write_magvit2(pictures, job.output, official=job.to == "official")
    else:
        _refuse_options(job, "magvit", "max_text_tokens")
        _refuse_same_form(job)
        model = read_janus(job.source, tokenizer=job.tokenizer)
        words = read_janus_tokenizer(job.source if job.tokenizer is None else job.tokenizer)
        strings = read_janus_strings(job.source, words, job.prompts)
        write = write_janus if job.to == "sightloop" else write_official_janus
        write(model, job.output, tokenizer=words, strings=strings)


def _convert_show_o(job: ConvertJob) -> None:
    _refuse_same_form(job)
    config = read_json(job.source / "config.json")
    if job.to == "official":
        _refuse_options(job, "magvit", "tokenizer", "max_text_tokens", "prompts")
        own = chosen_strings(config, has_tower=False, prompts=None)
        refuse_problems(
            "the authors' program has its own strings around questions", list(map(repr, own.values()))
        )
        write_official(read_show_o(job.source), job.output)
        return
    if job.magvit is None:
        raise ValueError(
            "name the folder of MAGVIT-v2 (showlab/magvitv2) with --magvit; Show-o draws with it"
        )
    weights = read_show_o(job.source)
    if job.max_text_tokens is not None:
        weights = replace(weights, sizes=replace(weights.sizes, max_text_tokens=job.max_text_tokens))
    words = read_tokenizer(job.source if job.tokenizer is None else job.tokenizer, weights.sizes)
    strings = chosen_strings(config, has_tower=weights.projector is not None, prompts=job.prompts)
    pictures = Magvit2.from_folder(job.magvit)
    write_show_o(weights, job.output, tokenizer=words, magvit=pictures, strings=strings)


def _refuse_options(job: ConvertJob, *names: str) -> None:
    given = [f"--{name.replace('_', '-')}" for name in names if vars(job)[name] is not None]
    refuse_problems(f"{job.family} to {job.to} takes no such options", given)


def _refuse_same_form(job: ConvertJob) -> None:
    is_official = require(job.source, job.family) == "official"
    if is_official == (job.to == "official"):
        fix = "" if job.to == "official" else "; --to official goes back"
        raise ValueError(f"{job.source} has that form already{fix}")
