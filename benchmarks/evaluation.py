"""Speed of the evaluations: `python benchmarks/evaluation.py`.

GenEval's rules on random detections and the embedded world's checker, on one core; bootstrap intervals of
GenEval's size; ranking of the retrieval set of the papers' size, both directions, and of a slice of a large
one, from which the time of the whole is extrapolated. Times are CPU seconds of the fastest of three runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from measure import MIB, peak_resident, reset_peak, table

from sightloop.evaluation.ranking import rank_images, rank_texts
from sightloop.geneval.prompts import CLASSES, COLORS, RELATIONS, GenEvalPrompt, parse_prompt
from sightloop.geneval.results import TASKS, Result, summarize
from sightloop.geneval.rules import Detection, exact_reward, flow_grpo_reward, verdict_of
from sightloop.world.checker import detect
from sightloop.world.scenes import SIDE, render, sample_scene


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    verdicts: int = 20_000
    detections: tuple[int, ...] = (5, 30, 100)
    """Detections of each image."""
    scenes: int = 200
    """Images of the embedded world that the checker reads."""
    resamples: int = 10_000
    recall: int = 5_000
    """Images and captions of the smaller retrieval set, of width 1024."""
    images: int = 100_000
    """Images of the retrieval set, and captions."""
    width: int = 512
    slice: int = 512
    """Captions that are ranked against all images."""


def random_prompt(rng: np.random.Generator) -> GenEvalPrompt:
    """A prompt of any task, in the proportions of the official file."""
    shares = np.array(list(TASKS.values())) / sum(TASKS.values())
    tag = list(TASKS)[rng.choice(len(TASKS), p=shares)]
    one, other = (CLASSES[i] for i in rng.choice(len(CLASSES), 2, replace=False))
    count = int(rng.integers(2, 5)) if tag == "counting" else 1
    include: list[dict] = [{"class": one, "count": count}]
    if tag in ("two_object", "position", "color_attr"):
        include.append({"class": other, "count": 1})
    if tag in ("colors", "color_attr"):
        for clause in include:
            clause["color"] = COLORS[rng.integers(len(COLORS))]
    if tag == "position":
        include[1]["position"] = [RELATIONS[rng.integers(4)], 0]
    exclude = [{"class": one, "count": count + 1}] if tag == "counting" else []
    return parse_prompt({"tag": tag, "include": include, "exclude": exclude, "prompt": "a photo"})


def random_detections(prompt: GenEvalPrompt, number: int, rng: np.random.Generator) -> list[Detection]:
    """Objects of the prompt's classes and of others, above and below the thresholds."""
    names = [*prompt.names, *prompt.names, *(CLASSES[i] for i in rng.integers(0, 80, 4))]
    corners, sizes = rng.integers(0, 900, (number, 2)), rng.integers(8, 300, (number, 2))
    return [
        Detection(
            name=names[rng.integers(len(names))],
            box=(float(x), float(y), float(x + w), float(y + h)),
            score=float(np.float32(rng.random())),
            color=COLORS[rng.integers(len(COLORS))],
        )
        for (x, y), (w, h) in zip(corners.tolist(), sizes.tolist(), strict=True)
    ]


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of the fastest of three runs."""
    times: list[float] = []
    for _ in range(3):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def run_rule(
    rule: Callable[..., object], cases: list[tuple[GenEvalPrompt, list[Detection]]], rounds: int
) -> None:
    """A rule on all cases, several times."""
    for _ in range(rounds):
        for prompt, detections in cases:
            rule(prompt, detections)


def rules_rows(options: Options) -> list[list[str]]:
    """Verdicts and rewards a CPU second."""
    rng = np.random.default_rng(0)
    rows: list[list[str]] = []
    for number in options.detections:
        prompts = [random_prompt(rng) for _ in range(1000)]
        cases = [(prompt, random_detections(prompt, number, rng)) for prompt in prompts]
        rounds = max(1, options.verdicts // len(cases))
        for name, rule in (
            ("verdict", verdict_of),
            ("Flow-GRPO's reward", flow_grpo_reward),
            ("exact reward", exact_reward),
        ):
            seconds = cpu_seconds(partial(run_rule, rule, cases, rounds))
            rows.append([name, str(number), f"{rounds * len(cases) / seconds:,.0f}"])
    return rows


def bootstrap_seconds(options: Options) -> float:
    """CPU seconds of the whole summary of 553 prompts with 4 images each: six tasks and the overall."""
    rng = np.random.default_rng(0)
    results = [
        Result(
            file="",
            tag=tag,
            text="",
            correct=bool(rng.random() < 0.6),
            reason="",
            metadata=f"{tag} {i}",
            details={},
        )
        for tag, number in TASKS.items()
        for i in range(number)
        for _ in range(4)
    ]
    return cpu_seconds(lambda: summarize(results, resamples=options.resamples))


def checker_milliseconds(options: Options) -> float:
    """CPU milliseconds of the checker for an image, its noise included."""
    rng = np.random.default_rng(0)
    pictures = [render(sample_scene(rng), rng) for _ in range(options.scenes)]
    return 1000 * cpu_seconds(lambda: [detect(picture) for picture in pictures]) / options.scenes


def recall_figures(options: Options) -> tuple[float, float, float]:
    """CPU seconds of CLIP Recall from text to image and back, and MiB held beyond the embeddings."""
    torch.manual_seed(0)
    images, texts = (F.normalize(torch.randn(options.recall, 1024), dim=1) for _ in range(2))
    rank_texts(images[:64], texts[:64], torch.arange(64))
    held = reset_peak()
    seconds = [cpu_seconds(partial(rank, images, texts)) for rank in (rank_texts, rank_images)]
    return seconds[0], seconds[1], (peak_resident() - held) / MIB


def ranking_figures(options: Options) -> tuple[float, float]:
    """CPU seconds of a slice, and MiB held beyond the embeddings."""
    torch.manual_seed(0)
    images = F.normalize(torch.randn(options.images, options.width), dim=1)
    texts = F.normalize(torch.randn(options.slice, options.width), dim=1)
    target = torch.randint(options.images, (options.slice,))
    rank_texts(images[:64], texts[:64], torch.arange(64))
    held = reset_peak()
    seconds = cpu_seconds(lambda: rank_texts(images, texts, target))
    return seconds, (peak_resident() - held) / MIB


def main(options: Options) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    print(table(["GenEval", "detections", "a CPU second"], rules_rows(options)))
    print(f"\nshapes checker: {checker_milliseconds(options):.2f} CPU ms an image of {SIDE} x {SIDE}")
    print(f"\nsummary of {sum(TASKS.values())} x 4 results, {options.resamples} resamples: ", end="")
    print(f"{bootstrap_seconds(options):.2f} CPU s")
    to_images, to_texts, memory = recall_figures(options)
    print(f"\n{options.recall} captions and {options.recall} images of width 1024: ", end="")
    print(f"{to_images:.2f} CPU s to images, {to_texts:.2f} CPU s to captions, ", end="")
    print(f"{memory:.0f} MiB beyond the embeddings")
    seconds, memory = ranking_figures(options)
    whole = seconds * options.images / options.slice / 60
    print(f"\n{options.slice} captions against {options.images} images of width {options.width}: ", end="")
    print(f"{seconds:.2f} CPU s, {memory:.0f} MiB beyond the embeddings; ", end="")
    print(f"{options.images} captions, extrapolated: {whole:.1f} CPU min")


if __name__ == "__main__":
    main(tyro.cli(Options))
