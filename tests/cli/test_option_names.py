"""One name an idea over all commands, one idea a name: each option stands here once, with what it means."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout, suppress

import pytest

from sightloop.cli.app import COMMANDS, run_command
from sightloop.cli.demo import DEMOS
from sightloop.cli.evaluate import EVALUATIONS
from sightloop.former_names import OPTIONS, SETTINGS
from sightloop.recipes.catalog import RECIPES

IDEAS = {
    "advantages": "how the rewards of a group become advantages",
    "against": "the policy that is compared with",
    "all": "every row of a table is printed",
    "algorithm": "what a rollout is learned from by",
    "allow-empty": "empty captions of a file are taken",
    "average-over": "what weighs the same in a loss",
    "batch": "what a step of training takes, over all ranks: images, or prompts",
    "beams": "beams of a search for captions",
    "best-metric": "the metric by which a checkpoint is best",
    "captions": "file of captions",
    "check": "rewards that doctor looks at",
    "clip": "CLIP model that measures",
    "clip-high": "upper bound of a likelihood ratio",
    "clip-low": "lower bound of a likelihood ratio",
    "colors": "CLIP model that names colors",
    "compare": "earlier results of the same evaluation",
    "counting-threshold": "score above which an object is counted, in the counting task",
    "critic-learning-rate": "learning rate of the critic",
    "custom-rewards": "rewards beside the recipe's",
    "decay": "how learning rates fall",
    "detect-batch": "images that a detector sees at once",
    "detections": "file of what a detector saw",
    "detector": "what finds objects",
    "device": "where it is computed",
    "draw-batch": "samples drawn at once",
    "drop-zero-variance-groups": "prompts whose samples earned the same are left out",
    "dry-run": "nothing is uploaded",
    "dtype": "precision of weights that are not trained",
    "end-to-end": "the answer's loss reaches the drawing",
    "eval-every": "steps between evaluations",
    "filter": "which drawings are learned from",
    "fit": "how an image becomes a square",
    "fixed": "images that are not the policy's own",
    "form": "form of an exported model",
    "gamma": "discount of later rewards",
    "gradient-checkpointing": "layers are computed again in the backward pass",
    "gradient-clip": "how gradients are clipped",
    "gradient-clip-at": "where gradients are clipped",
    "group": "samples of a prompt in a step of training",
    "guidance": "classifier-free guidance",
    "image-dir": "folder for images of the result",
    "image-root": "folder that names of images start from",
    "images": "images to look at",
    "judge": "image-text matcher that gives rewards",
    "keep-checkpoints": "newest checkpoints that stay",
    "keep-features": "features of the frozen tower are kept through a step",
    "kl-weight": "weight of the divergence from the start",
    "learning-rate": "learning rate",
    "license": "license named in a model card",
    "limit": "at most so many images",
    "literal": "only one reply counts as the same",
    "log-every-seconds": "seconds between lines of progress",
    "magvit": "Show-o's image tokenizer",
    "matching": "how answers are compared with the true ones",
    "max-overlap": "overlap from which one of two boxes is left out",
    "max-text-tokens": "text positions of a Show-o",
    "max-tokens": "longest text in tokens",
    "micro-batch": "samples of a backward pass",
    "min-tokens": "shortest text in tokens",
    "model": "the policy",
    "no-repeat-ngram": "length of word sequences that never repeat",
    "objective": "p or log p",
    "objects": "file of objects that images hold",
    "on-broken": "what becomes of images that cannot be read",
    "output": "file or folder that is written",
    "overwrite": "an older run is replaced",
    "per-category": "drawings a category",
    "per-prompt": "images drawn of a prompt",
    "phrases": "file of bad phrases",
    "plan": "resources are told, nothing is trained",
    "port": "port of the page",
    "preset": "starting point of the settings",
    "private": "a repository that is made is private",
    "prompt": "text that captions go on from",
    "prompt-file": "file of prompts to draw",
    "push": "repository of the hub to upload to",
    "question-file": "file of questions to ask",
    "quiz-file": "file of quizzes: prompts with questions and answers",
    "rank-timeout-seconds": "seconds after which a rank counts as hanging",
    "reading": "what a short answer counts as",
    "recipe": "recipe to look at",
    "references": "file of true captions",
    "results": "results that are there already",
    "reward-timeout-seconds": "seconds that a reward may take",
    "rows": "rows of images and prompts",
    "rounds": "rounds of a masked decoder",
    "run": "run folder that is written",
    "sample-every": "steps between galleries",
    "save-every": "steps between checkpoints",
    "scenes": "folder of images of the embedded world",
    "score-under": "whose probability is scored",
    "seed": "everything random follows from it",
    "shard": "frozen weights are spread over ranks",
    "shard-optimizer": "moments of the optimizer are spread over ranks",
    "split": "split of a Karpathy JSON",
    "step": "checkpoint of a run",
    "steps": "optimizer steps",
    "temperature": "temperature of sampling",
    "tf32": "TF32 for float32 products",
    "threshold": "score above which an object counts",
    "ties": "rank of texts that are exactly as close",
    "to": "whose form a checkpoint gets",
    "tokenizer": "tokenizer where a folder has none",
    "tower": "CLIP model whose features a Show-o reads",
    "track": "trackers of metrics",
    "track-group": "group of a run at a tracker",
    "track-name": "name of a run at a tracker",
    "track-project": "project of a run at a tracker",
    "track-tags": "tags of a run at a tracker",
    "updates": "updates from one rollout",
    "vocabulary": "words of quizzes",
    "warmup-steps": "steps over which learning rates rise",
    "world-model": "which of the embedded world's models",
}
KINDS = {"STR": "text", "PATH": "text", "INT": "number", "FLOAT": "number"}
"""What options take, by their sign in the help; everything else is a choice."""


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """Names of the options of all commands, and the kinds of values that they take."""
    within = {"train": RECIPES, "evaluate": EVALUATIONS, "demo": DEMOS}
    found: dict[str, set[str]] = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("COLUMNS", "200")
        for command in COMMANDS:
            for kind in within.get(command, ("",)):
                with redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)) as printed:
                    with suppress(SystemExit):
                        run_command([word for word in (command, kind, "--help-all") if word])
                    text = printed.buffer.getvalue().decode()  # pyright: ignore[reportAttributeAccessIssue]
                for name, rest in re.findall(r"│ --([a-z][\w.-]*)(.*)│", text):
                    sign = re.search(r"\b(STR|PATH|INT|FLOAT)\b", rest.partition("  ")[0])
                    found.setdefault(name, set()).add(KINDS[sign.group()] if sign else "choice")
    return found


def test_every_option_has_one_idea_and_every_idea_one_option(options: dict[str, set[str]]) -> None:
    assert {name for name in options if "." not in name} == set(IDEAS)
    assert len(set(IDEAS.values())) == len(IDEAS)


def test_an_option_takes_one_kind_of_value_everywhere(options: dict[str, set[str]]) -> None:
    # `train --plan --fit 24GB` fits a run to a device; of images it is the way to a square.
    assert {name: kinds for name, kinds in options.items() if len(kinds) > 1 and name != "fit"} == {}


def test_settings_in_groups_have_the_name_of_the_idea_too(options: dict[str, set[str]]) -> None:
    grouped = {name.rpartition(".")[2]: kinds for name, kinds in options.items() if "." in name}
    alike = {name: (kinds, options[name]) for name, kinds in grouped.items() if name in IDEAS}
    del alike["decay"], alike["fit"]  # `answer.decay` is that of an average; `data.fit` is of images.
    assert {name: kinds for name, kinds in alike.items() if kinds[0] != kinds[1]} == {}


def test_no_former_name_is_an_option_of_its_command(options: dict[str, set[str]]) -> None:
    former = {f"--{place.replace('_', '-')}" for place in SETTINGS}
    assert not former & {f"--{name}" for name in options} - {"--clip"}  # of an evaluation, a model
    assert all(now.removeprefix("--") in options for renamed in OPTIONS.values() for now in renamed.values())
