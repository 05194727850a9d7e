"""How often a host waits for its device, and what it launches there: ceilings for generating and learning.

Figures are those of `python -m benchmarks.host_waits`. Whoever makes something cheaper lowers its ceiling.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models.hub_folders import FOLDERS
from models.tiny_captioners import SIDE
from recipes.unirl_runs import SMALL, Folders, official_folders

from benchmarks.host_waits import (
    Cost,
    captions,
    captions_of_any,
    drawings_and_answers,
    training_step,
    transformers_janus,
)
from sightloop.models.captioners.generic import CaptionerSettings, GenericCaptioner
from sightloop.recipes.vlrm import build as vlrm

# Of a token (captions, answers), round (Show-o's drawings) or code (Janus' drawings): waits, and launches as
# a share of those of transformers' `generate` in the same run; launches of Show-o's drawings, which
# transformers cannot make, in number.
CEILINGS = {
    "captions greedy": (0.15, 0.70),
    "captions sampled": (0.15, 0.70),
    "captions beams": (0.15, 0.70),
    "captions of any model, greedy": (0.15, 1.0),
    "captions of any model, sampled": (0.15, 1.0),
    "captions of any model, beams": (0.15, 0.85),
    "Show-o drawings": (0.15, 328.0),
    "Show-o answers": (0.10, 2.10),
    "Janus drawings": (0.0, 0.45),
    "Janus answers": (0.10, 1.10),
}
# Of a micro-batch more in a step, outside generation; and of all else in the step.
STEP_CEILINGS = {"vlrm": (30, 30), "show-o": (8, 24), "janus": (10, 24)}


def within(found: dict[str, Cost], name: str) -> None:
    """Whether both figures stay below their ceilings."""
    cost, (waits, launches) = found[name], CEILINGS[name]
    theirs = found.get(f"{name}, transformers")
    assert cost.waits <= waits, f"{name}: {cost.waits:.2f} waits"
    measured = cost.launches if theirs is None else cost.launches / theirs.launches
    assert measured <= launches, f"{name}: {measured:.3f} of {launches} launches"


# transformers warns of its own options.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["captions", "Show-o", "Janus"])
def test_generating_stays_below_its_ceilings(emulated: torch.device, family: str) -> None:
    count: Callable[[], dict[str, Cost]] = {
        "captions": lambda: captions(emulated) | captions_of_any(transformers_janus(emulated), text="what?"),
        "Show-o": lambda: drawings_and_answers("Show-o", emulated),
        "Janus": lambda: drawings_and_answers("Janus", emulated),
    }[family]
    found = count()
    for name in CEILINGS:
        if name.startswith(family):
            within(found, name)


# transformers warns of its own options.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["qwen2_5_vl", "smolvlm", "llava_onevision"])
def test_captions_of_other_families_stay_below_their_ceilings(
    emulated: torch.device, tmp_path: Path, family: str
) -> None:
    settings = CaptionerSettings(image_size=SIDE)
    policy = GenericCaptioner.from_pretrained(FOLDERS[family](tmp_path), device=emulated, settings=settings)
    found = captions_of_any(policy, text="describe")
    for name in CEILINGS:
        if name.startswith("captions of any model"):
            within(found, name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A tiny Show-o and a tiny Janus as their authors write them."""
    return official_folders(tmp_path_factory.mktemp("official"))


def waits_of(place: Path, words: list[str], micro_batches: int) -> int:
    """Of a step outside generation."""
    cost, _ = training_step([*words, "--run", str(place), "--device", "emu"], micro_batches)
    return round(cost.waits * micro_batches)


def words_of(recipe: str, folders: Folders, *, tokens: int) -> list[str]:
    """A step of four samples, without evaluation."""
    often = ["--steps", "1", "--eval-every", "9", "--sample-every", "9", "--dtype", "float32"]
    if recipe == "vlrm":
        law = ["--draw.max-tokens", str(tokens), "--draw.temperature", "8"]
        return ["vlrm", *often, *law, "--batch", "4", "--held-out.limit", "4"]
    quiet = ["--joint.per-category", "0", "--objectives.per-turn-every", "9", "--model.trained", "lora"]
    rounds = ["--draw.rounds", "3"] if recipe == "show-o" else []
    answers = ["--answer.max-tokens", str(tokens)]
    return ["unirl-grpo", *folders.policy(recipe), *SMALL, *often, *quiet, *rounds, *answers]


@pytest.mark.parametrize("recipe", STEP_CEILINGS)
def test_a_step_outside_generation_stays_below_its_ceilings(
    emulated: torch.device, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    monkeypatch.setattr(vlrm, "NUM_SCENES", 8)
    short, long = words_of(recipe, folders, tokens=6), words_of(recipe, folders, tokens=12)
    one = waits_of(tmp_path / "one", [*short, "--micro-batch", "4"], 1)
    two = waits_of(tmp_path / "two", [*short, "--micro-batch", "2"], 2)
    longer = waits_of(tmp_path / "long", [*long, "--micro-batch", "4"], 1)
    micro_batch, rest = STEP_CEILINGS[recipe]
    assert longer <= one, "waits grow with the number of tokens"
    assert two - one <= micro_batch
    assert one - (two - one) <= rest
