"""UniRL's commands in small: random checkpoints in the authors' form, runs of two steps, their figures."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from models import tiny_janus
from safetensors.torch import load_file
from tiny_show_o_folders import magvit, official_folder, tokenizer
from torch import Tensor

from sightloop.cli import main
from sightloop.models.janus.checkpoint import write_official_janus
from sightloop.models.show_o.checkpoint import write_magvit2

SMALL = (
    "--batch", "2", "--group", "2", "--micro-batch", "4", "--steps", "2", "--save-every", "1",
    "--eval-every", "2", "--sample-every", "2", "--warmup-steps", "0",
)  # fmt: skip
TIMED = ("seconds/", "speed/", "memory/")
REWARDS = '''
def letters(completions, **columns):
    """So many different letters an answer has."""
    return [len(set(text)) / 10 for text in completions]

def bright(images, prompts):
    return [image.convert("L").resize((1, 1)).getpixel((0, 0)) / 255 for image in images]

def broken(completions, **columns):
    return [float("nan")] * len(completions)

def raising(completions, **columns):
    raise RuntimeError("out of paper")
'''


@dataclass(frozen=True, kw_only=True)
class Folders:
    """A tiny random Show-o and a tiny random Janus as their authors write them, and a file of rewards."""

    place: Path

    def policy(self, family: str) -> list[str]:
        """The options that name the policy."""
        if family == "janus":
            return ["--model", str(self.place / "janus")]
        parts = ["--model.magvit", str(self.place / "magvit"), "--model.tokenizer", str(self.place / "words")]
        return ["--model", str(self.place / "show_o"), *parts]

    def rewards(self, *names: str) -> list[str]:
        """The options that name rewards of the file, which random models earn unlike facts told."""
        return ["--custom-rewards", *(f"{self.place / 'mine.py'}:{name}" for name in names)]


def official_folders(place: Path) -> Folders:
    """Both checkpoints below `place`."""
    official_folder(place / "show_o")
    write_magvit2(magvit(), place / "magvit", official=True)
    tokenizer().save_pretrained(place / "words")
    write_official_janus(tiny_janus.tiny_model(), place / "janus", tokenizer=tiny_janus.tokenizer())
    (place / "mine.py").write_text(REWARDS)
    return Folders(place=place)


def small(recipe: str, *options: str) -> list[str]:
    """Options of a small run that is evaluated, and measures both gradients where both sides learn."""
    pairs = set(pairwise(options))
    both = recipe == "unirl-grpo" or "--no-end-to-end" in options or "--objectives.drawing" in options
    compared = both and ("--objectives.answering", "0") not in pairs
    evaluated = () if "--joint.quiz-file" in options else ("--joint.per-category", "4")
    return [*SMALL, *evaluated, *(("--objectives.per-turn-every", "1") if compared else ()), *options]


def train(recipe: str, folder: Path, *options: str) -> list[dict[str, float]]:
    """A run of two steps through the command line; its figures without the clock's."""
    main(["train", recipe, "--run", str(folder), *small(recipe, *options)])
    return figures(folder)


def figures(folder: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what depends on the clock."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith(TIMED)}
        for line in lines
    ]


def weights_of(folder: Path, step: int, file: str = "trainable") -> dict[str, Tensor]:
    """Tensors of a checkpoint."""
    return load_file(folder / "checkpoints" / f"step_{step:06d}" / f"{file}.safetensors")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def resumed(whole: Path, folder: Path) -> None:
    """A copy of a run that was cut off after its first step, gone on with."""
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints" / "step_000002")
    main(["train", "--resume", str(folder), "--trust-rewards"])
