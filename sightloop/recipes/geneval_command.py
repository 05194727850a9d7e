"""`sightloop evaluate geneval` from options to what it prints, also for pictures that are yet to be drawn."""

from __future__ import annotations

from typing import Any

from sightloop.evaluation.geneval_prompts import read_prompts
from sightloop.recipes.geneval import (
    GenEvalJob,
    GenEvalRun,
    compared,
    geneval_table,
    record_path,
    run_geneval,
)
from sightloop.recipes.geneval_drawing import Drawing, draw_prompts
from sightloop.recipes.geneval_options import GenEvalOptions
from sightloop.types import ImagePolicy


def evaluate_geneval(options: GenEvalOptions) -> str:
    """Evaluate a folder of pictures; what to tell the user.

    Raises:
        ValueError: as for `run_geneval`; or a comparison with a file that does not exist.
    """
    job = job_of(options)
    if options.compare is not None and options.compare.resolve() == job.output.resolve():
        raise ValueError(f"{job.output} would be compared with itself; name another --output or --compare")
    run = run_geneval(job)
    lines = [geneval_table(run), f"wrote {job.output} and {record_path(job.output)}"]
    if options.compare is not None:
        lines += ["", f"change since {options.compare}", compared(options.compare, job.output)]
    return "\n".join(lines)


def evaluate_drawn(
    policy: ImagePolicy, options: GenEvalOptions, *, name: str, drawing: Drawing, changes: dict[str, Any]
) -> GenEvalRun:
    """Draw the prompts of `options.prompts` into `options.images`, then evaluate them; both go on.

    `changes` are changes of the policy's usual way of drawing, such as `guidance` and `decode_steps`.

    Raises:
        ValueError: no prompts file is named, or as for `draw_prompts` and `run_geneval`.
    """
    if options.prompts is None:
        raise ValueError(
            "name what to draw with --prompts FILE; GenEval's prompts are the file "
            "prompts/evaluation_metadata.jsonl of the repository djghosh13/geneval on GitHub"
        )
    prompts = read_prompts(options.prompts)
    sampling = policy.drawing(**changes)
    draw_prompts(policy, prompts, options.images, name=name, sampling=sampling, drawing=drawing)
    return run_geneval(job_of(options))


def job_of(options: GenEvalOptions) -> GenEvalJob:
    """The evaluation that the options ask for."""
    return GenEvalJob(
        images=options.images,
        output=options.output or options.images / "results.jsonl",
        detector=options.detector,
        detections=options.detections,
        colours=options.colours,
        prompts=options.prompts,
        threshold=options.threshold,
        counting_threshold=options.counting_threshold,
        max_overlap=options.max_overlap,
        batch=options.batch,
        device=options.device,
    )
