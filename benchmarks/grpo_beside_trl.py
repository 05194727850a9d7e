"""Group-relative training of LoRA adapters on a small random LLaVA: sightloop beside TRL's GRPOTrainer.

Same weights, adapters, images, prompts, numbers of tokens, length reward, Adam and clipping; advantages are
rewards less their group's mean on both sides. Each side trains in a process of its own, in its own library's
training loop, with one thread and in float32. TRL's first captions and gradients are handed to sightloop,
which must find the same rewards and gradients, or nothing is printed. A step lasts until the next one starts.

TRL needs an environment of its own, torch first:

    python -m venv trl-env
    trl-env/bin/pip install torch==2.13.0 -c constraints.txt
    trl-env/bin/pip install trl==1.16.0 transformers datasets accelerate peft pillow -c constraints.txt
    OMP_NUM_THREADS=1 python -m benchmarks.grpo_beside_trl --trl-python trl-env/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.grpo_job import (
    ALPHA,
    GENERATIONS,
    JOBS,
    LEARNING_RATE,
    QUESTION,
    RANK,
    SIDE,
    Diary,
    Job,
    Judged,
    length_reward,
    write_job,
)
from benchmarks.measure import MIB, table
from sightloop.algorithms.baselines import GroupBaseline
from sightloop.data.batches import Batching, ImageStream
from sightloop.data.decode import Decoding
from sightloop.data.images import ImageBatch, ImageSet
from sightloop.data.sources import open_source
from sightloop.models.captioners.adapter_folder import export_adapter, load_adapter
from sightloop.models.captioners.generic import CaptionerSettings, GenericCaptioner
from sightloop.rewards.combine import combine
from sightloop.rollouts.caption import CaptionCollector
from sightloop.training.experiment import Experiment
from sightloop.training.loop import train, update
from sightloop.training.run_files import Run
from sightloop.training.schedule import Schedule
from sightloop.types import Outcome, Prompt, Rollout, Sampling, Tokens, Turn, on_last_token

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 2


def length(outcome: Outcome) -> Tensor:
    """The reward of both sides."""
    earned = torch.tensor([length_reward("".join(row)) for row in outcome.pieces])
    return on_last_token(earned, outcome.tokens)


def experiment_of(job: Job, folder: Path, diary: Diary, steps: int) -> Experiment[Any, ImageBatch]:
    """The job as a run of sightloop."""
    policy = captioner_of(folder)
    load_adapter(policy, folder / "adapter")
    collect = CaptionCollector(
        judge=combine({"length": length}, {"length": 1.0}),
        sampling=Sampling(max_tokens=job.new_tokens),
        prompt=QUESTION,
        per_image=GENERATIONS,
    )

    def timed(policy: Any, batch: ImageBatch) -> Rollout:
        diary.step_starts()
        rollout = collect(policy, batch)
        diary.tokens.append(int(rollout.turns[0].tokens.mask.sum()))
        return rollout

    return Experiment(
        policy=policy,
        trainable={"policy": policy.trainable_module()},
        batches=ImageStream(
            open_source(str(folder / "pictures")), Decoding(size=SIDE), Batching(batch_size=job.prompts)
        ),
        collect=timed,
        algorithm=GroupBaseline(leave_one_out=False, standardized=False),
        evaluators={},
        schedule=Schedule(
            steps=steps,
            micro_batch=job.prompts * GENERATIONS,
            learning_rate=LEARNING_RATE,
            warmup_steps=0,
            gradient_clip="norm",
            save_every=steps,
            eval_every=steps,
            sample_every=steps,
        ),
    )


def captioner_of(folder: Path) -> GenericCaptioner:
    """The job's model with fresh adapters on all linear layers of the language model."""
    settings = CaptionerSettings(lora_alpha=ALPHA)
    return GenericCaptioner.from_pretrained(folder / "model", lora_rank=RANK, settings=settings)


def run_side(job: Job, folder: Path, steps: int) -> None:
    """Train, and write the diary."""
    diary = Diary.open()
    experiment = experiment_of(job, folder, diary, steps)
    run = Run.create(folder / "run", recipe="none", config={}, schedule=experiment.schedule)
    train(experiment, run)
    run.close()
    trained = sum(parameter.numel() for parameter in experiment.policy.trainable_module().parameters())
    diary.write(folder / "sightloop.json", trained)
    cast("ImageStream", experiment.batches).close()


def disagreement(job: Job, folder: Path) -> tuple[float, float]:
    """Relative distance of rewards and of gradients on TRL's first captions.

    Raises:
        ValueError: the two sides do not do the same work.
    """
    diary = Diary(imports=0)
    experiment = experiment_of(job, folder, diary, 1)
    judged = Judged.read(folder / "trl_judged.json")
    rollout = _rollout(experiment, judged, folder)
    credit = experiment.algorithm.credit(experiment.policy, rollout)
    adapters = experiment.policy.trainable_module()
    still = torch.optim.SGD([{"params": list(adapters.parameters()), "name": "policy"}], lr=0.0)
    update(experiment, still, rollout, credit)
    theirs = load_file(folder / "trl_gradients.safetensors")
    # Written and read as adapters, gradients go by peft's names.
    for part in adapters.parameters():
        part.data = cast("Tensor", part.grad)
    export_adapter(experiment.policy, folder / "gradients", base="")
    ours = load_file(folder / "gradients" / "adapter_model.safetensors")
    if ours.keys() != theirs.keys():
        raise ValueError("the two sides train different layers")
    rewards = _distance([rollout.rewards.sum(1)], [torch.tensor(judged.rewards)])
    gradients = _distance([ours[name] for name in theirs], list(theirs.values()))
    if not max(rewards, gradients) < 1e-3:
        raise ValueError(f"the two sides disagree: rewards by {rewards:.1e}, gradients by {gradients:.1e}")
    return rewards, gradients


def _rollout(experiment: Experiment[Any, ImageBatch], judged: Judged, folder: Path) -> Rollout:
    pictures = ImageSet(open_source(str(folder / "pictures")), Decoding(size=SIDE))
    batches = list(pictures)
    names = [Path(source).name for batch in batches for source in batch.sources]
    at = torch.tensor([names.index(source) for source in judged.sources])
    images = batches[0].images.rows(at)
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in judged.ids], batch_first=True)
    lengths = torch.tensor(list(map(len, judged.ids)))
    tokens = Tokens(ids=ids, mask=torch.arange(ids.shape[1])[None] < lengths[:, None])
    pieces = experiment.policy.decode(tokens)
    outcome = Outcome(
        tokens=tokens, pieces=pieces, ended=torch.zeros(len(at)) > 0, images=images, references=[""] * len(at)
    )
    prompt = Prompt(texts=[QUESTION] * len(at), images=images)
    return Rollout(
        turns=(Turn(prompt=prompt, tokens=tokens),), rewards=length(outcome), reward_parts={}, group=at
    )


def _distance(ours: list[Tensor], theirs: list[Tensor]) -> float:
    one, other = (torch.cat([tensor.flatten() for tensor in side]) for side in (ours, theirs))
    return float((one - other).norm() / other.norm())


def figures(diary: dict[str, Any]) -> dict[str, float]:
    """Medians over the steps after the warm-up; the last step is left out."""
    spans = range(WARM_UP, len(diary["wall"]) - 1)
    wall = median(diary["wall"][k + 1] - diary["wall"][k] for k in spans)
    cpu = median(diary["cpu"][k + 1] - diary["cpu"][k] for k in spans)
    tokens = median(diary["tokens"][k] for k in spans)
    return {
        "seconds a step": wall,
        "CPU seconds a step": cpu,
        "caption tokens a step": tokens,
        "caption tokens a CPU second": tokens / cpu,
        "trained parameters": diary["trained"],
        "imports (MiB)": diary["imports"] / MIB,
        "peak over imports (MiB)": (diary["peak"] - diary["imports"]) / MIB,
    }


def report(sides: dict[str, list[dict[str, Any]]]) -> str:
    """One table; each figure is the median of the side's processes."""
    found = {name: [figures(diary) for diary in diaries] for name, diaries in sides.items()}
    rows: list[list[str]] = []
    for name in found["sightloop"][0]:
        ours, theirs = (median(each[name] for each in found[side]) for side in ("sightloop", "trl"))
        digits = 4 if "seconds" in name else 0
        rows.append([name, f"{ours:,.{digits}f}", f"{theirs:,.{digits}f}", f"{theirs / ours:.2f}"])
    return table(["", "sightloop", "TRL", "TRL / sightloop"], rows)


def compare(job: Job, trl_python: Path, *, steps: int, repetitions: int) -> None:
    """Let both sides train in turn, check that they do the same, print."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    sides: dict[str, list[dict[str, Any]]] = {"sightloop": [], "trl": []}
    for repetition in range(repetitions):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_job(job, folder)
            torch.manual_seed(1)
            captioner = captioner_of(folder)
            for up in captioner.adapters.up.values():
                nn.init.normal_(up, 0, 0.05)
            export_adapter(captioner, folder / "adapter", base=str(folder / "model"))
            commands = {
                "sightloop": [sys.executable, "-m", "benchmarks.grpo_beside_trl", "--side", name],
                "trl": [str(trl_python), "-m", "benchmarks.grpo_trl_side", name],
            }
            total = str(WARM_UP + steps + 1)
            for side in ("sightloop", "trl") if repetition % 2 == 0 else ("trl", "sightloop"):
                words = [*commands[side], job.name, total]
                if side == "sightloop":
                    words = [*commands[side], "--job", job.name, "--steps", total]
                done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True)
                if done.returncode:
                    raise RuntimeError(f"{side} failed:\n{done.stderr[-3000:]}")
                sides[side].append(json.loads((folder / f"{side}.json").read_text(encoding="utf-8")))
            rewards, gradients = disagreement(job, folder)
    print(
        f"\n{job.name}: width {job.width}, {job.layers} layers, {job.prompts} x {GENERATIONS} captions "
        f"of {job.new_tokens} tokens; medians of {steps} steps in each of {repetitions} processes a side\n"
        f"distance on the same captions: rewards {rewards:.0e}, gradients {gradients:.0e}\n"
    )
    print(report(sides), flush=True)


def main() -> None:
    """Compare all jobs, or be the process of sightloop's side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trl-python", type=Path, help="interpreter of an environment that has trl")
    parser.add_argument("--job", choices=JOBS, help="only this one")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--side", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.side is not None:
        return run_side(JOBS[given.job], given.side, given.steps)
    if given.trl_python is None:
        parser.error("--trl-python: name the interpreter of an environment that has trl")
    for job in [JOBS[given.job]] if given.job else JOBS.values():
        compare(job, given.trl_python, steps=given.steps, repetitions=given.repetitions)


if __name__ == "__main__":
    main()
