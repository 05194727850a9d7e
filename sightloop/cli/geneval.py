"""`sightloop evaluate geneval` from options to what it prints, also for images that are yet to be drawn."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sightloop.accelerator import in_float64
from sightloop.evaluators.geneval_images import Drawing, draw_prompts
from sightloop.evaluators.geneval_options import DrawerOptions, GenEvalOptions
from sightloop.evaluators.geneval_run import (
    GenEvalRun,
    compared,
    geneval_table,
    read_geneval_run,
    record_path,
    run_geneval,
)
from sightloop.evaluators.open_detector import EMBEDDED
from sightloop.geneval.prompts import read_geneval_prompts
from sightloop.models.protocols import ImageGenerator
from sightloop.quizzes.grammar import CATEGORIES, Quiz
from sightloop.runs.restore import open_generator
from sightloop.training import distributed
from sightloop.world.boundary import drawn_by
from sightloop.world.quizzes import sample_quiz

_WORLD_PROMPTS_EACH = 4
_SOURCE = (
    "GenEval's prompts are the file prompts/evaluation_metadata.jsonl of the repository djghosh13/geneval on "
    "GitHub"
)


def evaluate_geneval(options: GenEvalOptions) -> str:
    """Evaluate a folder of images, drawn first if a policy is named; what to tell the user.

    Raises:
        ValueError: options that do not go together; or as for `run_geneval`, `draw_prompts` and
            `read_geneval_run`.
    """
    if options.results is not None:
        return _reported_again(options, options.results)
    options = _with_world_prompts(options)
    output = options.results_file
    if _is_same(options.compare, output):
        raise ValueError(f"{output} would be compared with itself; name another --output or --compare")
    if options.drawer.policy:
        run, lines = _drawn_first(options), [f"drew into {options.images}, see contact_sheet.png there"]
    else:
        _refuse_drawing_options(options.drawer)
        run, lines = run_geneval(options), []
    lines = [geneval_table(run), *lines, f"wrote {output} and {record_path(output)}"]
    return "\n".join([*lines, *_change(options, output)])


def evaluate_drawn(
    policy: ImageGenerator, options: GenEvalOptions, *, name: str, drawing: Drawing, changes: dict[str, Any]
) -> GenEvalRun:
    """Draw the prompts of `options.prompts` into `options.images`, then evaluate them; both go on.

    `changes` are changes of the policy's usual way of drawing, such as `guidance` and `decode_steps`.

    Raises:
        ValueError: no prompts file is named, or as for `draw_prompts` and `run_geneval`.
    """
    if options.prompts is None:
        raise ValueError(f"name what to draw with --prompt-file FILE; {_SOURCE}")
    prompts = read_geneval_prompts(options.prompts)
    sampling = policy.default_sampling(**changes)
    draw_prompts(policy, prompts, options.folder, name=name, sampling=sampling, drawing=drawing)
    return run_geneval(options)


def weights_digest(model: Any) -> str:
    """Tells two sets of weights of one name apart, by the sum of each tensor."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {float(in_float64(value).sum())}".encode())
    return digest.hexdigest()[:12]


def world_prompts() -> list[Quiz]:
    """Distinct prompts of the embedded world, four of each task, always the same."""
    rng = np.random.default_rng(0)
    quizzes: dict[str, Quiz] = {}
    for category in CATEGORIES:
        wanted = len(quizzes) + _WORLD_PROMPTS_EACH
        while len(quizzes) < wanted:
            quiz = sample_quiz(rng, category)
            quizzes.setdefault(quiz.prompt, quiz)
    return list(quizzes.values())


def _with_world_prompts(options: GenEvalOptions) -> GenEvalOptions:
    if options.prompts != Path(EMBEDDED):
        return options
    file = options.folder / "prompts.jsonl"

    def write() -> None:
        options.folder.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(quiz.metadata()) + "\n" for quiz in world_prompts())
        file.write_text("".join(lines), encoding="utf-8")

    distributed.first_rank_does(write)
    return replace(options, prompts=file)


def _drawn_first(options: GenEvalOptions) -> GenEvalRun:
    drawer = options.drawer
    with torch.random.fork_rng():
        # Adapters that were never trained change nothing, but are random: the same at every call.
        torch.manual_seed(0)
        policy = open_generator(
            "" if drawer.policy == EMBEDDED else drawer.policy,
            world_model=drawer.world_model,
            parts=drawer.parts,
            dtype=drawer.dtype,
            device=options.judge.device,
        )
    chosen = {"decode_steps": drawer.steps, "guidance": drawer.guidance, "temperature": drawer.temperature}
    name = drawn_by(drawer.world_model) if drawer.policy == EMBEDDED else Path(drawer.policy).name
    return evaluate_drawn(
        policy,
        options,
        name=f"{name} ({weights_digest(policy)}, {drawer.dtype})",
        drawing=Drawing(per_prompt=drawer.per_prompt, seed=drawer.seed, batch=drawer.draw_batch),
        changes={key: value for key, value in chosen.items() if value is not None},
    )


def _refuse_drawing_options(drawer: DrawerOptions) -> None:
    if drawer != DrawerOptions():
        raise ValueError(
            "there are options of drawing, but nobody draws; name a model with --model, or leave them out"
        )


def _reported_again(options: GenEvalOptions, results: Path) -> str:
    if options.judge.detector or options.judge.detections or options.drawer.policy:
        raise ValueError(f"{results} is done; leave --detector, --detections and --model out")
    prompts = options.prompts
    if prompts == Path(EMBEDDED):
        raise ValueError("name the file of the prompts: prompts.jsonl in the folder of the images")
    if _is_same(options.compare, results):
        raise ValueError(f"{results} would be compared with itself; name another file with --compare")
    return "\n".join([geneval_table(read_geneval_run(results, prompts=prompts)), *_change(options, results)])


def _is_same(compared_with: Path | None, file: Path) -> bool:
    return compared_with is not None and os.path.realpath(compared_with) == os.path.realpath(file)


def _change(options: GenEvalOptions, results: Path) -> list[str]:
    if options.compare is None:
        return []
    return ["", f"change since {options.compare}", compared(options.compare, results)]
