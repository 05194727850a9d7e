"""Every recipe on a device that is not the CPU: the same figures, weights and images, bit for bit.

Choices meet in pairs, not all with all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models.hub_folders import FOLDERS
from models.tiny_captioners import idefics3, llava
from recipes.device_runs import assert_same, train_on_both
from recipes.unirl_runs import Folders, official_folders, resumed, small
from rewards.test_image_classes import folder as classifier
from rewards.tiny_clips import WIDTH, clip_folder, siglip_folder

from sightloop.cli import main
from sightloop.recipes.vlrm import build as vlrm
from sightloop.world.bundled import WEIGHTS

__all__ = ["classifier"]
VLRM = (
    "vlrm", "--batch", "4", "--micro-batch", "2", "--steps", "1", "--save-every", "1", "--sample-every", "1",
    "--held-out.limit", "4",
)  # fmt: skip
UNIRL = ("--learning-rate", "0.01", "--answer.max-tokens", "6")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A tiny Show-o and a tiny Janus as their authors write them."""
    return official_folders(tmp_path_factory.mktemp("official"))


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world of few images is drawn in no time."""
    monkeypatch.setattr(vlrm, "NUM_SCENES", 8)


@pytest.mark.parametrize(
    "options",
    [
        "--algorithm a2c --dtype bfloat16 --gradient-checkpointing --draw-batch 2",
        "--algorithm scst --dtype float32 --no-keep-features",
        "--algorithm group --draw.per-image 2 --dtype bfloat16",
        "--preset shapes-rs --dtype float32 --gradient-checkpointing --critic.position post",
    ],
)
def test_vlrm_trains_as_on_the_cpu(tmp_path: Path, emulated: torch.device, options: str) -> None:
    assert_same(*train_on_both(tmp_path, emulated, [*VLRM, *options.split()]))


def test_models_that_reward_judge_as_on_the_cpu(
    tmp_path: Path, emulated: torch.device, classifier: Path
) -> None:
    clip = clip_folder(tmp_path / "clip")
    torch.save({"weight": torch.randn(1, WIDTH), "bias": torch.ones(1)}, tmp_path / "head.pth")
    rewards = [f"clip:{clip}=2", f"siglip:{siglip_folder(tmp_path / 'siglip')}=2"]
    rewards += [
        f"aesthetic:{clip}+{tmp_path / 'head.pth'}",
        f"itm:{WEIGHTS / 'judge'}",
        f"class:{classifier}",
    ]
    rewards += [f"vqa:{FOLDERS['smolvlm'](tmp_path / 'answers')}", "jpeg-size", "length=0.1"]
    words = [word for name in rewards for word in ("--custom-rewards", name)]
    assert_same(*train_on_both(tmp_path, emulated, [*VLRM, "--algorithm", "scst", *words]))


@pytest.mark.parametrize("family", [llava, idefics3])
def test_captioners_of_other_families_train_as_on_the_cpu(
    tmp_path: Path, emulated: torch.device, family: Callable[[Path], Path]
) -> None:
    options = ["--model", str(family(tmp_path / "model")), "--judge", str(WEIGHTS / "judge")]
    options += ["--held-out.clip", str(WEIGHTS / "clip"), "--held-out.max-tokens", "6"]
    options += ["--draw.max-tokens", "6", "--draw.prompt", "describe"]
    assert_same(*train_on_both(tmp_path, emulated, [*VLRM, *options]))


@pytest.mark.parametrize(
    ("family", "recipe", "options"),
    [
        ("show-o", "unirl-grpo", "--model.trained lora --dtype float32 --objectives.balance"),
        (
            "show-o", "unirl-grpo",
            "--model.trained full --dtype bfloat16 --gradient-checkpointing "
            "--likelihood.unmasking subsampled --likelihood.number 2 --likelihood.guided",
        ),
        (
            "show-o", "unirl-grpo",
            "--algorithm dapo --updates 2 --likelihood.unmasking trajectory --draw-batch 2 --dtype float32",
        ),
        (
            "show-o", "unirl-grpo",
            "--answer.answerer average --objectives.answering 0 --judge.subtract-blind-baseline "
            "--rewards.negative-questions 1 "
            "--answer.input reencoded --model.trained lora",
        ),
        ("show-o", "unirl-sft", "--end-to-end --dtype float32 --model.trained lora"),
        (
            "show-o", "unirl-sft",
            "--no-end-to-end --filter best_of_group --model.trained full --dtype float32",
        ),
        ("janus", "unirl-grpo", "--model.trained lora --dtype bfloat16 --gradient-checkpointing"),
        (
            "show-o", "unirl-sft",
            "--end-to-end --model.trained full --dtype bfloat16 --answer.input reencoded",
        ),
        (
            "janus", "unirl-grpo",
            "--model.trained full --dtype bfloat16 --kl-weight 0.1 --algorithm grpo --updates 2 "
            "--answer.answerer frozen --objectives.answering 0",
        ),
        ("janus", "unirl-sft", "--end-to-end --model.trained full --dtype bfloat16 --gradient-checkpointing"),
        ("janus", "unirl-grpo", "--model.trained full --dtype float32 --algorithm gspo --judge.scale group"),
        ("janus", "unirl-sft", "--end-to-end --relaxation.no-hard --model.trained lora --dtype bfloat16"),
        ("janus", "unirl-sft", "--no-end-to-end --model.trained full --gradient-checkpointing"),
    ],
)  # fmt: skip
def test_unirl_trains_as_on_the_cpu(
    tmp_path: Path, emulated: torch.device, folders: Folders, family: str, recipe: str, options: str
) -> None:
    rounds = ("--draw.rounds", "3") if family == "show-o" else ()
    given = [*folders.policy(family), *UNIRL, *rounds, *folders.rewards("letters", "bright")]
    words = [recipe, *small(recipe, *given, *options.split())]
    assert_same(*train_on_both(tmp_path, emulated, words))


def test_a_run_is_resumed_on_the_device_and_exported_as_from_the_cpu(
    tmp_path: Path, emulated: torch.device, folders: Folders
) -> None:
    words = [
        "unirl-grpo",
        *small("unirl-grpo", *folders.policy("janus")),
        *UNIRL,
        *folders.rewards("letters"),
        "--model.trained",
        "lora",
    ]
    here, there = train_on_both(tmp_path, emulated, words)
    resumed(there, tmp_path / "cut")
    assert_same(there, tmp_path / "cut")
    for run in (here, there):
        main(["export", str(run), "--output", str(run / "exported"), "--step", "last"])
    for path in (here / "exported").glob("*.safetensors"):
        assert path.read_bytes() == (there / "exported" / path.name).read_bytes()
