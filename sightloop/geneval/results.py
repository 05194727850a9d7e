"""GenEval's results file, its summary with intervals by prompt, and the comparison of two results."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sightloop.evaluation.intervals import Interval, bootstrap_interval, interval_of_strata
from sightloop.evaluation.protocol import protocol_hash
from sightloop.geneval.prompts import GenEvalPrompt, parse_prompt
from sightloop.geneval.rules import Verdict
from sightloop.text_files import form_of, parse_json, read_json, read_json_lines

TASKS = {
    "single_object": 80,
    "two_object": 99,
    "counting": 80,
    "colors": 94,
    "position": 100,
    "color_attr": 100,
}
"""Prompts of each task of the official file."""
_SHOWN = 3
_RESULTS = "a results file of GenEval is needed"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the results file: one image."""

    file: str
    tag: str
    text: str
    correct: bool
    reason: str
    metadata: str
    """The line of the prompts file, as JSON; images of one prompt share it."""
    details: dict[str, list[list[float]]]
    """Left, top, right, bottom and score of the objects that counted, by class."""


@dataclass(frozen=True, kw_only=True)
class TaskRate:
    """How many images of a task are right."""

    right: int
    images: int
    rate: Interval


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The figures that GenEval reports."""

    tasks: dict[str, TaskRate]
    overall: Interval
    """The plain mean of the task rates, not of the images."""
    images: int
    prompts: int
    image_rate: float
    prompt_rate: float
    """Share of prompts with any right image."""


@dataclass(frozen=True, kw_only=True)
class RateChanges:
    """What changed between two results of the same prompts: after minus before."""

    tasks: dict[str, Interval]
    overall: Interval


def result_of(file: str, prompt: GenEvalPrompt, verdict: Verdict) -> Result:
    """The line for an image."""
    details = {
        name: [[*map(float, seen.box), float(np.float32(seen.score))] for seen in kept]
        for name, kept in verdict.kept.items()
    }
    return Result(
        file=file,
        tag=prompt.tag,
        text=prompt.text,
        correct=verdict.correct,
        reason=verdict.reason,
        metadata=json.dumps(prompt.metadata),
        details=details,
    )


def write_results(results: Iterable[Result], path: str | Path) -> None:
    """The official results file, which the official summary reads too."""
    lines = [
        json.dumps(
            {
                "filename": result.file,
                "tag": result.tag,
                "prompt": result.text,
                "correct": result.correct,
                "reason": result.reason,
                "metadata": result.metadata,
                "details": json.dumps(result.details),
            }
        )
        for result in results
    ]
    Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_results(path: str | Path) -> list[Result]:
    """The lines of a results file, also of one that the official evaluator wrote.

    Raises:
        ValueError: the file is missing, empty, or a line is no result.
    """
    results: list[Result] = []
    for place, record in read_json_lines(path, fix=_RESULTS):
        with form_of(place, _RESULTS):
            results.append(_result(record))
    if not results:
        raise ValueError(f"{path} holds no results")
    return results


def summarize(results: Sequence[Result], *, resamples: int = 10_000, seed: int = 0) -> Summary:
    """Counts and rates of what is there; `check_complete` says whether something is missing.

    Intervals are of 95%, by drawing prompts with all of their images, within each task for the overall.

    Raises:
        ValueError: no results.
    """
    if not results:
        raise ValueError("no results to summarize")
    by_tag: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_tag[result.tag].append(result)
    right = [float(result.correct) for result in results]
    prompts = [result.metadata for result in results]
    tasks = {
        tag: TaskRate(
            right=sum(result.correct for result in own),
            images=len(own),
            rate=bootstrap_interval(
                [float(result.correct) for result in own],
                groups=[result.metadata for result in own],
                resamples=resamples,
                seed=seed,
            ),
        )
        for tag, own in by_tag.items()
    }
    overall = interval_of_strata(
        right, strata=[result.tag for result in results], groups=prompts, resamples=resamples, seed=seed
    )
    any_right = {result.metadata for result in results if result.correct}
    return Summary(
        tasks=tasks,
        overall=overall,
        images=len(results),
        prompts=len(set(prompts)),
        image_rate=sum(right) / len(right),
        prompt_rate=len(any_right) / len(set(prompts)),
    )


def check_complete(
    prompts: Sequence[GenEvalPrompt], *, expected: Sequence[GenEvalPrompt] | None = None
) -> None:
    """Refuse a set of prompts that would give another number than the benchmark's.

    Raises:
        ValueError: they are not exactly the `expected` ones in order; without those, a prompt comes up twice
            or the tasks do not have the official numbers of prompts.
    """
    if expected is not None:
        for place, (given, wanted) in enumerate(zip(prompts, expected, strict=False)):
            if given.metadata != wanted.metadata:
                raise ValueError(
                    f"prompt {place:05} is {given.metadata}, the prompts file says {wanted.metadata}; "
                    "images and prompts belong to different sets, or the metadata was changed"
                )
        if len(prompts) != len(expected):
            raise ValueError(f"{len(prompts)} prompts have images; the prompts file has {len(expected)}")
        return
    counts = Counter(json.dumps(prompt.metadata, sort_keys=True) for prompt in prompts)
    if twice := [metadata for metadata, count in counts.items() if count > 1]:
        raise ValueError(f"a prompt comes up more than once: {twice[0]}")
    found = Counter(prompt.tag for prompt in prompts)
    wrong = [
        f"{tag} has {found[tag]} prompts instead of {TASKS.get(tag, 0)}"
        for tag in [*TASKS, *sorted(set(found) - set(TASKS))]
        if found[tag] != TASKS.get(tag, 0)
    ]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ValueError(
            f"not GenEval's {sum(TASKS.values())} prompts: {', '.join(wrong[:_SHOWN])}{more}; the mean "
            "over what is there is another number. For a set of your own name its prompts file"
        )


def check_results(results: Sequence[Result], *, expected: Sequence[GenEvalPrompt] | None = None) -> None:
    """Refuse results that would give another number than the benchmark's.

    Raises:
        ValueError: as for `check_complete` of their prompts, whose order is free here; or prompts have
            different numbers of images.
    """
    _rate_by_prompt(results)
    prompts = {_identity(result): parse_prompt(json.loads(result.metadata)) for result in results}
    if expected is None:
        return check_complete(list(prompts.values()))
    wanted = [json.dumps(prompt.metadata, sort_keys=True) for prompt in expected]
    if missing := [each for each in wanted if each not in prompts]:
        raise ValueError(
            f"{len(missing)} of {len(wanted)} prompts of the prompts file have no result, the first is "
            f"{missing[0]}"
        )
    if left := [each for each in prompts if each not in set(wanted)]:
        raise ValueError(f"{len(left)} prompts are not in the prompts file, the first is {left[0]}")


def rate_changes(
    before: Sequence[Result], after: Sequence[Result], *, resamples: int = 10_000, seed: int = 0
) -> RateChanges:
    """How the rates changed, with 95% intervals paired by prompt.

    Raises:
        ValueError: they are not about the same prompts, or prompts of one have different numbers of images.
    """
    old, new = _rate_by_prompt(before), _rate_by_prompt(after)
    if set(old) != set(new):
        only = sorted(set(old) ^ set(new))
        raise ValueError(f"{len(only)} prompts are in only one of the results, the first is {only[0]}")
    tags = {_identity(result): result.tag for result in before}
    changes: dict[str, list[float]] = defaultdict(list)
    for prompt in old:
        changes[tags[prompt]].append(new[prompt] - old[prompt])
    tasks = {
        tag: bootstrap_interval(values, resamples=resamples, seed=seed) for tag, values in changes.items()
    }
    overall = interval_of_strata(
        [value for values in changes.values() for value in values],
        strata=[tag for tag, values in changes.items() for _ in values],
        resamples=resamples,
        seed=seed,
    )
    return RateChanges(tasks=tasks, overall=overall)


def save_record(
    path: str | Path,
    protocol: Mapping[str, str],
    summary: Summary,
    *,
    drawing: Mapping[str, Any] | None = None,
) -> None:
    """Figures, protocol and its hash as JSON; `drawing` says how the images were made."""
    record = {
        "overall": summary.overall.value,
        "tasks": {tag: [score.right, score.images] for tag, score in summary.tasks.items()},
        "intervals": {
            name: [each.low, each.high]
            for name, each in [("overall", summary.overall), *((t, s.rate) for t, s in summary.tasks.items())]
            if not math.isnan(each.low)
        },
        "protocol": dict(protocol),
        "hash": protocol_hash(dict(protocol)),
        "drawing": None if drawing is None else dict(drawing),
    }
    Path(path).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read_protocol(path: str | Path) -> dict[str, str] | None:
    """The protocol of a record; None if there is no record."""
    if not Path(path).is_file():
        return None
    with form_of(str(path)):
        return {str(name): str(value) for name, value in read_json(path)["protocol"].items()}


def protocol_warning(before: Mapping[str, str] | None, after: Mapping[str, str] | None) -> str:
    """Why the figures of two protocols do not compare; "" if they do."""
    if before is None or after is None:
        return "a result has no protocol record, so nobody knows whether the figures compare"
    old, new = protocol_hash(dict(before)), protocol_hash(dict(after))
    if old == new:
        return ""
    differing = [
        f"{name} {before.get(name, 'unknown')} and {after.get(name, 'unknown')}"
        for name in sorted({*before, *after} - {"hash"})
        if before.get(name) != after.get(name)
    ]
    differences = "; ".join(differing)
    return f"made under different protocols ({old} and {new}): {differences}; the figures do not compare"


def _result(record: Mapping[str, Any]) -> Result:
    if not isinstance(record["correct"], bool):
        raise ValueError(f"correct is {record['correct']!r}")
    for name in ("filename", "tag", "prompt", "reason", "metadata"):
        if not isinstance(record[name], str):
            raise ValueError(f"{name} is {record[name]!r}, not a text")
    parse_prompt(parse_json(record["metadata"], "metadata"))
    details = record.get("details", "{}")
    return Result(
        file=record["filename"],
        tag=record["tag"],
        text=record["prompt"],
        correct=record["correct"],
        reason=record["reason"],
        metadata=record["metadata"],
        details=parse_json(details, "details"),
    )


def _identity(result: Result) -> str:
    """The same for one prompt whatever the spacing of its JSON."""
    return json.dumps(json.loads(result.metadata), sort_keys=True)


def _rate_by_prompt(results: Sequence[Result]) -> dict[str, float]:
    right: dict[str, list[bool]] = defaultdict(list)
    for result in results:
        right[_identity(result)].append(result.correct)
    sizes = {len(own) for own in right.values()}
    if len(sizes) > 1:
        raise ValueError(f"prompts have from {min(sizes)} to {max(sizes)} images; give all as many")
    return {prompt: sum(own) / len(own) for prompt, own in right.items()}
