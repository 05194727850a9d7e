"""Goes through the commands of an installed sightloop once, as a user does, and writes what each gave.

Run by `compatibility.py` with the Python of a fresh environment, in an empty folder:
`python -I compatibility_walk.py RESULTS.json`. Warnings of coming changes are errors.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch",
    "transformers",
    "numpy",
    "pillow",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "tyro",
)
PICTURES, NUMBER = "pictures", 12
QUESTION = "What is the color of the object?"
VLRM = "--batch 8 --micro-batch 4 --steps 1 --save-every 1 --eval-every 1 --sample-every 1 --held-out.limit 8"
UNIRL = (
    "--batch 2 --group 2 --micro-batch 4 --steps 1 --save-every 1 --eval-every 1 --sample-every 1 "
    "--warmup-steps 0 --joint.per-category 4"
)
ROWS = "--batch 2 --group 2 --steps 1 --save-every 1 --eval-every 1 --sample-every 1 --held-out.limit 4"
# Lines of a protocol that are meant to differ between versions.
PROTOCOL = {"torch", "transformers", "numpy", "pillow", "hash"}
# What depends on the clock in a run's figures.
TIMED = ("seconds/", "speed/", "memory/")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command, and how what it gave is told, so that environments can be compared."""

    words: tuple[str, ...]
    tells: Callable[[str], Any] | None = None
    """From what was printed; None = only whether it went well."""


def lines(printed: str) -> list[str]:
    """What was printed, without the versions that a protocol names and its hash."""
    return [line for line in printed.splitlines() if line.split(":")[0].strip() not in PROTOCOL]


def drawn(folder: str) -> Callable[[str], list[str]]:
    """Digests of the pixels in a folder."""

    def tell(_: str) -> list[str]:
        from PIL import Image

        paths = sorted(path for path in Path(folder).glob("*.png") if path.stem.isdigit())
        return [hashlib.sha256(Image.open(path).convert("RGB").tobytes()).hexdigest()[:16] for path in paths]

    return tell


def figures(run: str) -> Callable[[str], list[dict[str, float]]]:
    """The figures of a run."""

    def tell(_: str) -> list[dict[str, float]]:
        rows = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
        return [{name: row[name] for name in row if not name.startswith(TIMED)} for row in rows]

    return tell


def steps(weights: Path) -> list[Step]:
    """The commands, each after those whose files it reads; `weights` are the bundled models."""
    models = {"model": "captioner", "judge.model": "judge", "held-out.clip": "clip"}
    named = [word for option, name in models.items() for word in (f"--{option}", str(weights / name))]
    made = [
        Step(
            words=("train", "vlrm", "--run", "runs/vlrm", "--images", PICTURES, "--held-out.images", PICTURES,
                   *named, *VLRM.split()),
            tells=figures("runs/vlrm"),
        ),
        Step(words=("caption", PICTURES, "--model", "runs/vlrm"), tells=lines),
        Step(words=("caption", PICTURES, "--model", "runs/vlrm", "--beams", "1"), tells=lines),
        Step(words=("caption", PICTURES, "--model", "runs/vlrm", "--output", "captions.jsonl")),
        Step(words=("evaluate", "clip-recall", "--model", "runs/vlrm", "--images", PICTURES), tells=lines),
        Step(words=("evaluate", "captions", "captions.jsonl", "--references", "captions.jsonl"), tells=lines),
        Step(words=("evaluate", "answers", "answers.jsonl"), tells=lines),
        Step(words=("report", "runs/vlrm")),
        Step(words=("export", "runs/vlrm", "--output", "exported_vlrm")),
        Step(words=("export", "runs/vlrm", "--output", "vlrm.pt", "--form", "tensors")),
        Step(words=("caption", PICTURES, "--model", "exported_vlrm"), tells=lines),
        Step(words=("train", "vlrm", "--preset", "paper", "--plan"), tells=lines),
        Step(words=("train", "grpo", "--run", "runs/rows", *ROWS.split()), tells=figures("runs/rows")),
        Step(words=("doctor",)),
        Step(words=("completion", "bash")),
    ]  # fmt: skip
    for family in ("show-o", "janus"):
        world, folder, geneval = ("--world-model", family), f"drawn_{family}", f"geneval_{family}"
        made += [
            Step(
                words=("draw", "a photo of a red circle", "--per-prompt", "3", "--output", folder, *world),
                tells=drawn(folder),
            ),
            Step(words=("ask", f"{folder}/0001.png", QUESTION, *world), tells=lines),
        ]
        for method in ("grpo", "sft"):
            run = f"runs/{method}_{family}"
            made.append(
                Step(
                    words=("train", f"unirl-{method}", "--run", run, *world, *UNIRL.split()),
                    tells=figures(run),
                )
            )
        run = f"runs/grpo_{family}"
        made += [
            Step(words=("evaluate", "joint", "--model", run, "--per-category", "4"), tells=lines),
            Step(words=("report", run)),
            Step(words=("export", run, "--output", f"exported_{family}")),
            Step(words=("evaluate", "geneval", "--model", f"exported_{family}", "--images", geneval,
                        "--prompt-file", "shapes", "--detector", "shapes", "--per-prompt", "1"), tells=lines),
        ]  # fmt: skip
    janus = ("exported_janus", "official_janus")
    made += [
        Step(words=("convert", "janus", *janus, "--to", "official")),
        Step(words=("draw", "a photo of a blue square", "--per-prompt", "1", "--output", "drawn_again",
                    "--model", janus[1]), tells=drawn("drawn_again")),
    ]  # fmt: skip
    return made


def prepare() -> None:
    """The files that the commands read."""
    from sightloop.world.image_folder import write_images

    write_images(Path(PICTURES), number=NUMBER, seed=0)
    rows = [{"question": "Is it red?", "truth": "yes", "answer": said} for said in ("Yes.", "No.", "yes")]
    Path("answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def take(step: Step, main: Callable[[list[str]], None]) -> dict[str, Any]:
    """Run one command."""
    printed, began = io.StringIO(), time.process_time()
    problem = ""
    try:
        with redirect_stdout(printed):
            main(list(step.words))
    except SystemExit as end:
        problem = f"exit code {end.code}" if end.code else ""
    except Exception:
        problem = traceback.format_exc()
    seconds = round(time.process_time() - began, 1)
    tells = step.tells(printed.getvalue()) if step.tells and not problem else None
    return {"words": " ".join(step.words), "problem": problem, "cpu_seconds": seconds, "tells": tells}


def walk(output: Path) -> None:
    """Everything, in this folder."""
    warnings.simplefilter("error", FutureWarning)
    import sightloop
    from sightloop.cli import main
    from sightloop.world.bundled import WEIGHTS

    assert sightloop.__file__ is not None
    prepare()
    results: list[dict[str, Any]] = []
    for step in steps(WEIGHTS):
        results.append(take(step, main))
        print(
            f"{results[-1]['cpu_seconds']:6.1f} s  {results[-1]['words']}  {results[-1]['problem']}",
            flush=True,
        )
    found = {
        "python": sys.version.split()[0],
        "place": str(Path(sightloop.__file__).parent),
        "versions": {name: version(name) for name in LIBRARIES},
        "commands": results,
    }
    output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    walk(Path(sys.argv[1]).resolve())
