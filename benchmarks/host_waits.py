"""How often a host would wait for its device, and what it launches, counted on an emulated accelerator.

Captions, drawings and answers by the embedded world's models, by this library and by transformers' `generate`
on the same model, rows and lengths; then training steps. Counts are of one token (code, round) of the whole
batch, prefill and all that comes after the last one included; of a step outside generation, and of each of
its micro-batches more. What is counted, and why copies to the device stand apart, says `device_counts.py`. No
clock is read: counts are the same on every computer.

    python -m benchmarks.host_waits [--output results.json]
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import emulated_accelerator
from benchmarks.device_counts import Counts, counted, phase
from sightloop.cli import main as command_line
from sightloop.models.captioners.blip2 import Blip2Captioner
from sightloop.models.captioners.generic import GenericCaptioner
from sightloop.models.janus.policy import Janus
from sightloop.models.show_o.policy import ShowO
from sightloop.recipes.image_policies import load_image_policy
from sightloop.runs import launch
from sightloop.training import loop
from sightloop.training.run_files import Run
from sightloop.types import Images, Prompt, Sampling
from sightloop.world.bundled import WEIGHTS

ROWS, PICTURES, ROUNDS = 16, 4, 16
LENGTH, ANSWER = 30, 12
PROMPT = "a red circle left of a blue square"
QUESTIONS = [
    "What color is the circle?",
    "What is there?",
    "How many circles are there?",
    "What color is it?",
]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one token, code, round or micro-batch."""

    waits: float
    launches: float
    uploads: float


def cost_of(work: Callable[[], int]) -> Cost:
    """What the work costs, divided by the number of units that it returns."""
    with counted() as counts, torch.no_grad():
        units = work()
    return _cost(counts, units)


def _cost(counts: Counts, units: int) -> Cost:
    waits, launches, uploads = (
        sum(numbers.values()) / units for numbers in (counts.waits, counts.launches, counts.uploads)
    )
    return Cost(waits=waits, launches=launches, uploads=uploads)


def captions(device: torch.device) -> dict[str, Cost]:
    """Of a token: greedy, sampled and by beams."""
    policy = Blip2Captioner.from_pretrained(WEIGHTS / "captioner", device=device)
    pixels = torch.randint(
        256, (ROWS, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    images = policy.encode_images(Images(pixels=pixels))
    prompt = Prompt(texts=[""] * ROWS, images=images, seeds=list(range(ROWS)))
    context, _ = policy._context(prompt)
    fixed: Any = {
        "inputs_embeds": context,
        "attention_mask": torch.ones(context.shape[:2], dtype=torch.long, device=device),
        "max_new_tokens": LENGTH,
        "min_new_tokens": LENGTH,
    }

    def sampled() -> int:
        # Hot, so that most of them are long.
        return policy.sample(prompt, Sampling(max_tokens=LENGTH, temperature=8.0)).ids.shape[1]

    def theirs(**options: Any) -> int:
        return policy.model.language_model.generate(**fixed, **options).shape[1]

    def written(beams: int) -> int:
        repeats = 2 * (beams > 1)
        policy.write(images, beams=beams, no_repeat_ngram=repeats, min_tokens=LENGTH, max_tokens=LENGTH)
        return LENGTH

    return {
        "captions greedy": cost_of(partial(written, 1)),
        "captions sampled": cost_of(sampled),
        "captions beams": cost_of(partial(written, 5)),
        "captions greedy, transformers": cost_of(partial(theirs, do_sample=False)),
        "captions sampled, transformers": cost_of(partial(theirs, do_sample=True, top_k=0)),
        "captions beams, transformers": cost_of(partial(theirs, do_sample=False, num_beams=5)),
    }


def transformers_janus(device: torch.device) -> GenericCaptioner:
    """In the form of transformers, Janus reads images and writes text like any other captioner."""
    return GenericCaptioner.from_pretrained(WEIGHTS / "janus", device=device)


def captions_of_any(policy: GenericCaptioner, *, text: str) -> dict[str, Cost]:
    """The same of a captioner of any family, behind a prompt; features were computed before."""
    shape, generator = (ROWS, 3, policy.image_size, policy.image_size), torch.Generator().manual_seed(0)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    images = policy.encode_images(Images(pixels=pixels))
    prompt = Prompt(texts=[text] * ROWS, images=images, seeds=list(range(ROWS)))
    inputs = policy._composed.reader.inputs(prompt.texts, images.pictures())
    fixed: Any = {**inputs, "min_new_tokens": LENGTH, "max_new_tokens": LENGTH, "pad_token_id": policy.pad}

    def sample() -> int:
        return policy.sample(prompt, Sampling(max_tokens=LENGTH, temperature=8.0)).ids.shape[1]

    def write(beams: int) -> int:
        limits = {"min_tokens": LENGTH, "max_tokens": LENGTH, "no_repeat_ngram": 2 * (beams > 1)}
        policy.write(images, prompt=text, beams=beams, **limits)
        return LENGTH

    def theirs(**options: Any) -> int:
        ids: Tensor = policy.model.generate(**fixed, **options)
        return ids.shape[1] - inputs["input_ids"].shape[1]

    # The first text of all settles in which way the model runs.
    policy.sample(prompt, Sampling(max_tokens=1))
    return {
        "captions of any model, greedy": cost_of(partial(write, 1)),
        "captions of any model, sampled": cost_of(sample),
        "captions of any model, beams": cost_of(partial(write, 5)),
        "captions of any model, greedy, transformers": cost_of(partial(theirs, do_sample=False)),
        "captions of any model, sampled, transformers": cost_of(partial(theirs, do_sample=True, top_k=0)),
        "captions of any model, beams, transformers": cost_of(
            partial(theirs, do_sample=False, num_beams=5, no_repeat_ngram_size=2)
        ),
    }


def drawings_and_answers(family: str, device: torch.device) -> dict[str, Cost]:
    """Of a code (Janus) or round (Show-o) of drawings, and of a token of answers about them."""
    policy: Any = load_image_policy("", world_model="janus" if family == "Janus" else "show-o", device=device)
    prompt = Prompt(texts=[PROMPT] * PICTURES, wants="image", seeds=list(range(PICTURES)))
    is_janus = isinstance(policy, Janus)
    law = policy.default_sampling() if is_janus else policy.default_sampling(decode_steps=ROUNDS)
    units = policy.num_image_tokens if is_janus else ROUNDS

    def draw() -> int:
        policy.sample(prompt, law)
        return units

    codes = policy.sample(prompt, law)
    shown = policy.understanding_input(codes)
    questions = Prompt(texts=QUESTIONS, images=shown, seeds=list(range(PICTURES)))

    def answer() -> int:
        return policy.sample(questions, Sampling(max_tokens=ANSWER, temperature=8.0)).ids.shape[1]

    found = {f"{family} drawings": cost_of(draw), f"{family} answers": cost_of(answer)}
    language = policy.model.model.language_model if is_janus else policy.model
    if is_janus:
        row = torch.tensor([policy.prompts.drawing_row(PROMPT)], device=device)

        def draw_theirs() -> int:
            policy.model.generate(
                row,
                attention_mask=torch.ones_like(row),
                generation_mode="image",
                num_return_sequences=PICTURES,
                do_sample=True,
                guidance_scale=law.guidance,
                top_k=0,
            )
            return units

        found[f"{family} drawings, transformers"] = cost_of(draw_theirs)
    return found | {f"{family} answers, transformers": cost_of(partial(_answer_theirs, policy, language))}


def _answer_theirs(policy: ShowO | Janus, language: Any) -> int:
    ids = torch.full((PICTURES, 24), 3, device=next(policy.parameters()).device)
    model: Any = policy.model
    options = {"max_new_tokens": ANSWER, "min_new_tokens": ANSWER, "do_sample": True, "top_k": 0}
    options |= {"generation_mode": "text"} if isinstance(policy, Janus) else {"pad_token_id": 0}
    made: Tensor = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return made.shape[1] - ids.shape[1]


_PHASES: tuple[tuple[Any, str, str], ...] = (
    (launch, "train", "step"),
    (loop, "evaluate", "between steps"),
    (Run, "save", "between steps"),
    (Run, "save_gallery", "between steps"),
    (Blip2Captioner, "sample", "generation"),
    (ShowO, "sample", "generation"),
    (Janus, "sample", "generation"),
)


@contextmanager
def phases_of_training() -> Iterator[None]:
    """While inside, what a run does is counted as "step", "generation" or "between steps"."""
    with ExitStack() as stack:
        for owner, name, told in _PHASES:
            function = getattr(owner, name)
            setattr(owner, name, _in_phase(told, function))
            stack.callback(setattr, owner, name, function)
        yield


def _in_phase(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with phase(name):
            return function(*args, **kwargs)

    return call


def training_step(words: list[str], micro_batches: int) -> tuple[Cost, Counts]:
    """A run through the command line: the cost of a micro-batch outside generation, and where it arises."""
    with counted() as counts, phases_of_training():
        command_line(["train", *words])
    steps = counts.phase("step")
    return _cost(steps, micro_batches), steps


_STEP = ("--steps", "1", "--eval-every", "9", "--sample-every", "9", "--dtype", "float32")
_QUIZ = ("--batch", "2", "--group", "4", "--joint.per-category", "0", "--objectives.per-turn-every", "9")
TRAINING = {
    "vlrm": ("vlrm", "--batch", "8", "--held-out.limit", "8"),
    "unirl-grpo, Show-o": ("unirl-grpo", "--world-model", "show-o", "--draw.rounds", "4", *_QUIZ),
    "unirl-grpo, Janus": ("unirl-grpo", "--world-model", "janus", *_QUIZ),
}
"""Steps of 8 samples."""


def training(name: str, device: torch.device) -> dict[str, Cost]:
    """Of the whole step with one micro-batch, and of each micro-batch more."""
    costs: list[Cost] = []
    for size in (8, 4):
        with tempfile.TemporaryDirectory() as place, redirect_stdout(io.StringIO()):
            words = [*TRAINING[name], *_STEP, "--micro-batch", str(size), "--run", f"{place}/run"]
            costs.append(training_step([*words, "--device", str(device)], 1)[0])
    one, two = (asdict(cost) for cost in costs)
    more = Cost(**{what: two[what] - one[what] for what in one})
    return {f"{name}, step": costs[0], f"{name}, micro-batch": more}


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=None)
    output: Path | None = parser.parse_args().output
    emulated_accelerator.register()
    with emulated_accelerator.switched_on() as device:
        found = captions(device)
        found |= captions_of_any(transformers_janus(device), text=QUESTIONS[0])
        for family in ("Show-o", "Janus"):
            found |= drawings_and_answers(family, device)
        for name in TRAINING:
            found |= training(name, device)
    print(f"{'of a token, code, round or step':<46} {'waits':>8} {'launches':>9} {'uploads':>8}")
    for name, cost in found.items():
        print(f"{name:<46} {cost.waits:8.2f} {cost.launches:9.1f} {cost.uploads:8.2f}")
    if output is not None:
        output.write_text(json.dumps({name: asdict(cost) for name, cost in found.items()}, indent=1))


if __name__ == "__main__":
    main()
