"""No setting can be given without effect: each is read by what a run does, or refused with its choice."""

from __future__ import annotations

import re
import sys
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any

import pytest
import torch

from sightloop.cli import main
from sightloop.recipes.catalog import RECIPES
from sightloop.recipes.choices import leaves_of, value_of, with_value
from sightloop.recipes.config_json import checked, config_of_run, config_to_json
from sightloop.recipes.rows import build as rows
from sightloop.recipes.vlrm import build as vlrm
from sightloop.recipes.vlrm.config import VlrmConfig
from sightloop.runs.launch import launch
from sightloop.world.bundled import WEIGHTS
from sightloop.world.image_folder import write_images

ONE_STEP = {
    "schedule.steps": 1, "schedule.micro_batch": 8, "schedule.eval_every": 1, "schedule.save_every": 1,
    "schedule.sample_every": 1, "schedule.warmup_steps": 0,
}  # fmt: skip
VLRM = ONE_STEP | {"batch": 4, "held_out.limit": 4}
UNIRL = ONE_STEP | {"batch": 2, "group": 2, "joint.per_category": 4}
ROWS = ONE_STEP | {"batch": 2, "group": 2}
NOT_EVALUATED = {"joint.per_category": 0}
# Recipe, preset, and the choices made: together they make every choice, and leave every one out.
RUNS: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "a2c": ("vlrm", "shapes", VLRM),
    "scst, one reward": (
        "vlrm",
        "shapes",
        VLRM | {
            "algorithm": "scst", "rewards.similarity": 0.0, "rewards.reference": 0.0, "rewards.repeats": 0.0,
            "rewards.bad_phrases": 0.0, "schedule.gradient_clip": "none", "captioner.reuse_features": True,
        },
    ),
    "group, retrieval": (
        "vlrm",
        "shapes-rs",
        VLRM | {"draw.per_image": 2, "algorithm": "group", "draw.temperature": 0.7},
    ),
    "unirl": ("unirl-grpo", "shapes", UNIRL),
    "grpo of an average": (
        "unirl-grpo",
        "shapes-janus",
        UNIRL | {"algorithm": "grpo", "objectives.answering": 0.0, "answer.answerer": "average"},
    ),
    "a checker alone": (
        "unirl-grpo",
        "shapes-janus",
        UNIRL
        | NOT_EVALUATED
        | {"rewards.all_facts": 0.0, "rewards.detector": 1.0, "objectives.answering": 0.0},
    ),
    "rows of the world": ("grpo", "shapes", ROWS | {"held_out.limit": 4}),
    "rows of one's own": (
        "grpo",
        "default",
        ROWS
        | {
            "algorithm": "dapo", "data.rows": "OWN", "policy": str(WEIGHTS / "janus"), "dtype": "float32",
            "data.allow_text": True, "schedule.gradient_clip": "none", "draw.max_tokens": 4,
        },
    ),
    "end to end": ("unirl-sft", "shapes", UNIRL),
    "own drawings": ("unirl-sft", "shapes-janus", UNIRL | NOT_EVALUATED | {"end_to_end": False}),
}  # fmt: skip
PASSIVE = {"dataclasses.py", "choices.py", "config_json.py", "<string>"}
"""Files that read settings to copy, compare or check them."""


def made(recipe: str, preset: str, changes: Mapping[str, Any]) -> Any:
    """The preset with some settings changed."""
    config = RECIPES[recipe].presets[preset]
    for setting, value in changes.items():
        config = with_value(config, setting, value)
    return config


def groups_of(config: Any, group: str = "") -> Iterator[tuple[str, Any]]:
    """Every dataclass in a configuration, with what stands before the names of its settings."""
    yield group, config
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from groups_of(value, f"{group}{field.name}.")


@contextmanager
def reads_of(config: Any) -> Iterator[set[str]]:
    """The settings that are read while this is open, whichever copy of the configuration they stand in."""
    read: set[str] = set()
    names = {type(group): prefix for prefix, group in groups_of(config)}

    def spy(group: Any, name: str) -> Any:
        code = sys._getframe(1).f_code
        if Path(code.co_filename).name not in PASSIVE and code.co_name != "__post_init__":
            prefixes = [names[kind] for kind in type(group).__mro__ if kind in names]
            read.update(f"{prefix}{name}" for prefix in prefixes[:1])
        return object.__getattribute__(group, name)

    with pytest.MonkeyPatch.context() as patch:
        for kind in names:
            patch.setattr(kind, "__getattribute__", spy, raising=False)
        yield read


def other_value(config: Any, setting: str) -> Any:
    """Some other value of the setting's type."""
    group, _, name = setting.rpartition(".")
    holder = value_of(config, group) if group else config
    kind, value = typing.get_type_hints(type(holder))[name], getattr(holder, name)
    if typing.get_origin(kind) in (typing.Union, UnionType):
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
    options = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return next(option for option in options if option != value)
    if typing.get_origin(kind) is tuple:
        return {"lora_targets": ("q_proj",), "roles": ("A", "B"), "widths": (3.0,)}.get(name, ("wandb",))
    if kind is bool:
        return not value
    return f"other {value}" if kind is str else (value or 1) * 3


def is_refused(config: Any, setting: str, recipe: str) -> bool:
    """Whether another value of the setting is refused before anything is loaded."""
    try:
        checked(with_value(config, setting, other_value(config, setting)), presets=[config])
    except ValueError:
        return True
    return False


def own_rows(folder: Path) -> str:
    """A folder of `datasets` with splits: frames of a video, and a row without an image."""
    from datasets import Dataset, DatasetDict

    frame = str(write_images(folder / "images", number=1, seed=0) / "00000.png")
    own = [{"video": [frame, frame], "prompt": "why?"}, {"video": None, "prompt": "why?"}] * 2
    DatasetDict({"train": Dataset.from_list(own)}).save_to_disk(folder / "set")
    return str(folder / "set")


@pytest.fixture(scope="module")
def read_by_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What every run of `RUNS` reads of its configuration, from the launch to the end of its step."""
    found: dict[str, set[str]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vlrm, "NUM_SCENES", 8)
        patch.setattr(rows, "NUM_ROWS", 8)
        for name, (recipe, preset, changes) in RUNS.items():
            config = made(recipe, preset, changes)
            if changes.get("data.rows"):
                config = with_value(config, "data.rows", own_rows(tmp_path_factory.mktemp("own")))
            with reads_of(config) as read:
                launch(recipe, config, tmp_path_factory.mktemp("runs") / "run")
            found[name] = read
    return found


@pytest.mark.parametrize("name", RUNS)
def test_every_setting_is_read_or_refused(name: str, read_by_runs: dict[str, set[str]]) -> None:
    recipe, preset, changes = RUNS[name]
    config = made(recipe, preset, changes)
    # The models refuse these themselves: a BLIP-2 has no settings of other captioners.
    left = {leaf for leaf in leaves_of(config) if not leaf.startswith("captioner.")} - read_by_runs[name]
    dead = sorted(leaf for leaf in left if not is_refused(config, leaf, recipe))
    assert not dead, f"given without effect: {', '.join(dead)}"


def test_every_setting_is_read_somewhere(read_by_runs: dict[str, set[str]]) -> None:
    everything = set.union(*read_by_runs.values())
    leaves = {leaf for one in RECIPES.values() for leaf in leaves_of(next(iter(one.presets.values())))}
    assert not {leaf for leaf in leaves - everything if not leaf.startswith("captioner.")}


def test_settings_of_other_captioners_are_refused_for_blip2() -> None:
    config = RECIPES["vlrm"].presets["shapes"]
    for leaf in leaves_of(config):
        if leaf.startswith("captioner."):
            changed = with_value(config, leaf, other_value(config, leaf))
            with pytest.raises(ValueError, match=r"is BLIP-2, which has no captioner\.\* settings"):
                vlrm.load_trained_captioner(changed, torch.device("cpu"))


# -- from the command line

SCST = "--algorithm scst"
SILENT = [
    ("unirl-grpo", "--preset shapes-janus --critic-learning-rate 1", "critic-learning-rate"),
    (
        "unirl-grpo",
        "--answer.decay 0.5",
        "answer.decay is 0.5, which has no effect here: it belongs to",
    ),
    ("unirl-grpo", "--judge.detector nowhere", "belongs to the reward detector, whose weight is 0"),
    ("unirl-grpo", "--judge.colors nowhere", "belongs to the reward detector, whose weight is 0"),
    ("unirl-grpo", "--judge.text-model nowhere", "belongs to the reward text_judge, whose weight is 0"),
    ("unirl-grpo", "--preset shapes-janus --model.lora-rank 4", "belongs to --model.trained lora"),
    (
        "unirl-grpo",
        "--preset shapes-janus --likelihood.number 3",
        "--likelihood.unmasking subsampled or remasked",
    ),
    (
        "unirl-grpo",
        "--preset shapes-janus --answer.input reencoded",
        "belongs to a Show-o that reads the codes",
    ),
    (
        "unirl-grpo",
        "--objectives.answering 0 --objectives.per-turn-every 3",
        "belongs to training of both sides",
    ),
    ("unirl-grpo", "--clip-low 0.2", "belongs to --algorithm grpo"),
    (
        "unirl-grpo",
        "--quiz-file quizzes.jsonl --quizzes.counting 3",
        "belongs to quizzes made by the",
    ),
    ("unirl-grpo", "--model somewhere --world-model janus", "belongs to the embedded world's models"),
    ("unirl-grpo", "--joint.per-category 0 --joint.seed 3", "belongs to an evaluation"),
    ("unirl-sft", "--no-end-to-end --relaxation.temperature 2", "belongs to --end-to-end"),
    ("unirl-sft", "--likelihood.guided", "belongs to the likelihood of drawings"),
    ("unirl-sft", "--world-model janus --relaxation.round 3", "only 'one-round' has a use for it"),
    ("grpo", "--data.allow-text", "belongs to rows of your own"),
    ("grpo", "--algorithm rloo --clip-low 0.2", "belongs to --algorithm grpo"),
    ("grpo", "--rows a.jsonl --model b --held-out.limit 3", "belongs to an evaluation"),
    ("unirl-grpo", "--algorithm gdpo --judge.scale group", "do not standardize each reward anyway"),
    ("vlrm", f"{SCST} --critic.lora-rank 2", "belongs to --algorithm a2c"),
    ("vlrm", f"{SCST} --critic-learning-rate 1", "belongs to --algorithm a2c"),
    (
        "vlrm",
        f"{SCST} --gamma 0.3",
        "gamma is 0.3, which has no effect here: it belongs to --algorithm",
    ),
    ("vlrm", f"{SCST} --objective probability", "has its own objective"),
    ("vlrm", "--judge.contrast 4", "belongs to the reward retrieval, whose weight is 0"),
    ("vlrm", "--judge.retrieval-clip nowhere", "belongs to the reward retrieval, whose weight is 0"),
    ("vlrm", "--rewards.bad-phrases 0 --judge.phrases nowhere", "belongs to the reward bad_phrases"),
    ("vlrm", "--rewards.reference 0 --judge.reference-includes-end", "belongs to the reward reference"),
    ("vlrm", "--rewards.repeats 0 --judge.exempt-words a", "belongs to the reward repeats"),
    ("vlrm", "--data.split test", "belongs to a Karpathy JSON in data.images"),
    ("vlrm", "--data.image-root here", "belongs to a Karpathy JSON in data.images"),
    ("vlrm", "--images photos --model p --held-out.beams 2", "belongs to an evaluation; name its images"),
    ("vlrm", "--gradient-clip none --gradient-clip-at 2", "belongs to --gradient-clip value or norm"),
]


@pytest.mark.parametrize(("recipe", "words", "said"), SILENT)
def test_what_had_no_effect_is_refused_with_its_choice(
    recipe: str, words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", recipe, *words.split(), "--run", str(tmp_path / "run")])
    printed = " ".join(re.sub("[│╭╰─╮╯]", " ", capsys.readouterr().err).split())
    assert ended.value.code == 2 and said in printed
    assert not list(tmp_path.iterdir())


def test_a_preset_may_be_left_with_what_its_other_choices_had() -> None:
    """Nobody who changes the algorithm has to take back what the preset says about the critic."""
    for recipe, preset, changes in (
        ("vlrm", "shapes", {"algorithm": "scst"}),
        ("unirl-grpo", "shapes", {"objectives.answering": 0.0}),
        ("unirl-sft", "shapes-janus", {"schedule.gradient_clip": "none"}),
    ):
        config = made(recipe, preset, changes)
        assert checked(config, presets=RECIPES[recipe].presets.values()) == config
    with pytest.raises(ValueError, match=r"gamma is 0\.3, which has no effect"):
        config = made("vlrm", "shapes", {"algorithm": "scst", "gamma": 0.3})
        checked(config, presets=RECIPES["vlrm"].presets.values())


# -- run folders of the last release


def test_a_run_of_the_last_release_comes_back_without_what_had_no_effect() -> None:
    data = config_to_json(made("vlrm", "shapes", {"algorithm": "scst"}))
    data["gamma"] = 0.3
    config = config_of_run(RECIPES["vlrm"].config, {"format": 2, "config": data})
    assert config == made(
        "vlrm",
        "shapes",
        {
            "algorithm": "scst",
            "critic.widths": (2.0, 4.0, 8.0),
            "schedule.critic_learning_rate": None,
            "judge.retrieval_clip": VlrmConfig().judge.retrieval_clip,
        },
    )


@pytest.mark.parametrize("recipe", ["unirl-grpo", "unirl-sft"])
def test_own_rewards_of_the_last_release_keep_their_weights(recipe: str) -> None:
    preset = RECIPES[recipe].presets["paper"]
    data = config_to_json(preset)
    data["judge"]["custom"] = ["mine.py:letters=2"]
    data["schedule"]["critic_learning_rate"] = None
    del data["custom_rewards"]
    saved = {"format": 2, "config": data}
    assert config_of_run(RECIPES[recipe].config, saved) == replace(
        preset, custom_rewards=("mine.py:letters=2",)
    )
    with pytest.raises(ValueError, match="has no setting 'custom'"):
        config_of_run(RECIPES[recipe].config, saved | {"format": 3})


def test_the_former_name_of_own_rewards_still_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["train", "unirl-grpo", "--judge.custom", "nowhere.py:it", "--run", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert "--judge.custom is called --custom-rewards now" in said and "nowhere.py" in said
