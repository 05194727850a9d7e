"""What the command `convert` does: checkpoints of models that draw, from their authors' form and back."""

from __future__ import annotations

from dataclasses import replace

from sightloop.cli.image_options import ConvertOptions
from sightloop.models.families import require
from sightloop.models.janus.checkpoint import (
    read_janus,
    read_janus_strings,
    read_janus_tokenizer,
    write_janus,
    write_official_janus,
)
from sightloop.models.open import local_folder
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
from sightloop.text_files import read_json


def convert_checkpoint(options: ConvertOptions) -> None:
    """Write the output; it appears when it is complete.

    Raises:
        ValueError: the source is another family or has that form already, a part is missing or does not fit,
            an option has no effect, or the output is in the way.
    """
    options = replace(options, source=local_folder(options.source))
    if options.family == "show-o":
        _convert_show_o(options)
    elif options.family == "magvit2":
        _refuse_options(options, "magvit", "tokenizer", "max_text_tokens", "prompts")
        images = Magvit2.from_folder(options.source)
        write_magvit2(images, options.output, official=options.to == "official")
    else:
        _refuse_options(options, "magvit", "max_text_tokens")
        _refuse_same_form(options)
        model = read_janus(options.source, tokenizer=options.tokenizer)
        words = read_janus_tokenizer(options.source if options.tokenizer is None else options.tokenizer)
        strings = read_janus_strings(options.source, words, options.prompts)
        write = write_janus if options.to == "sightloop" else write_official_janus
        write(model, options.output, tokenizer=words, strings=strings)


def _convert_show_o(options: ConvertOptions) -> None:
    _refuse_same_form(options)
    config = read_json(options.source / "config.json")
    if options.to == "official":
        _refuse_options(options, "magvit", "tokenizer", "max_text_tokens", "prompts")
        own = chosen_strings(config, has_tower=False, prompts=None)
        refuse_problems(
            "the authors' program has its own strings around questions", list(map(repr, own.values()))
        )
        write_official(read_show_o(options.source), options.output)
        return
    if options.magvit is None:
        raise ValueError(
            "name the folder of MAGVIT-v2 (showlab/magvitv2) with --magvit; Show-o draws with it"
        )
    weights = read_show_o(options.source)
    if options.max_text_tokens is not None:
        weights = replace(weights, sizes=replace(weights.sizes, max_text_tokens=options.max_text_tokens))
    words = read_tokenizer(options.source if options.tokenizer is None else options.tokenizer, weights.sizes)
    strings = chosen_strings(config, has_tower=weights.projector is not None, prompts=options.prompts)
    images = Magvit2.from_folder(options.magvit)
    write_show_o(weights, options.output, tokenizer=words, magvit=images, strings=strings)


def _refuse_options(options: ConvertOptions, *names: str) -> None:
    unset = (None, PromptOptions())
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) not in unset]
    refuse_problems(f"{options.family} to {options.to} takes no such options", given)


def _refuse_same_form(options: ConvertOptions) -> None:
    is_official = require(options.source, options.family) == "official"
    if is_official == (options.to == "official"):
        fix = "" if options.to == "official" else "; --to official goes back"
        raise ValueError(f"{options.source} has that form already{fix}")
