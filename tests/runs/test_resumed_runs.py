"""Runs that go on: longer, elsewhere, beside readers; never with other weights or data in silence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from storage.test_owner import another_process

from sightloop.cli import main
from sightloop.runs.trust import mark_as_own
from sightloop.training.checkpoint import finished_checkpoints
from sightloop.world.bundled import WEIGHTS
from sightloop.world.image_folder import write_images

TRAIN = [
    "train",
    "vlrm",
    "--preset",
    "shapes",
    "--model",
    "captioner",
    "--judge",
    "judge",
    "--images",
    "pics",
]
TRAIN += ["--held-out.images", "held", "--held-out.clip", "clip", "--custom-rewards", "mine.py:short=0.1"]
TRAIN += ["--batch", "4", "--draw.max-tokens", "4", "--held-out.max-tokens", "4", "--save-every", "1"]
REWARD = "def short(completions):\n    return [-len(text) / 10 for text in completions]\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models, images, a reward, and a run of two steps that named them all relative to it."""
    place = tmp_path_factory.mktemp("made") / "place"
    for name in ("captioner", "judge", "clip"):
        shutil.copytree(WEIGHTS / name, place / name)
    write_images(place / "pics", number=8, seed=0)
    write_images(place / "held", number=4, seed=1)
    (place / "mine.py").write_text(REWARD)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        main([*TRAIN, "--steps", "2", "--run", "run"])
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which one stands; the run of the copy remembers the copy."""
    copy = Path(shutil.copytree(made, tmp_path / "place"))
    identity = copy / "run" / "identity.json"
    identity.write_text(identity.read_text().replace(str(made), str(copy)))
    mark_as_own(copy / "run")
    monkeypatch.chdir(copy)
    return copy


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The line that a failing command says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sightloop: ")]
    return line


def newest(run: Path) -> tuple[int, bytes]:
    saved = finished_checkpoints(run / "checkpoints")[-1]
    return saved.step, (saved.folder / "trainable.safetensors").read_bytes()


def schedule(run: Path) -> dict[str, object]:
    return json.loads((run / "config.json").read_text())["config"]["schedule"]


def noisy(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-2000] + bytes((byte + 1) % 256 for byte in data[-2000:]))


def test_a_run_is_made_longer_as_if_it_had_been_so_long(place: Path) -> None:
    main(["train", "vlrm", "--resume", "run", "--steps", "3"])
    main([*TRAIN, "--steps", "3", "--run", "in one"])
    assert newest(place / "run") == newest(place / "in one") and newest(place / "run")[0] == 3
    main(["train", "--resume=run"])
    assert schedule(place / "run")["steps"] == 3


def test_what_may_change_changes_and_is_kept(place: Path) -> None:
    options = ["--steps", "3", "--learning-rate", "1e-5", "--micro-batch", "2", "--eval-every", "3"]
    main(["train", "--resume", "run", *options])
    kept = schedule(place / "run")
    assert (kept["steps"], kept["learning_rate"], kept["micro_batch"], kept["eval_every"]) == (3, 1e-5, 2, 3)
    noted = json.loads((place / "run" / "environment.json").read_text())["resumed"][-1]["changed"]
    assert noted["schedule.learning_rate"] == 1e-5 and len(noted) == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--batch", "8"], "batch is 8, and run was trained with 4: it is another experiment"),
        (["--seed", "1"], "schedule.seed is 1, and run was trained with 0"),
        (["--judge.max-text-tokens", "8"], "--judge.max-text-tokens is 8, and run was trained with 64"),
        (["--steps", "1"], "steps is 1, and run is at step 2 already"),
        (["unirl-grpo"], "run is a run of vlrm, not of unirl-grpo"),
    ],
)
def test_another_experiment_is_refused_by_name(
    place: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (place / "run" / "config.json").read_bytes()
    resume = ["--resume", "run"]
    assert told in refused(capsys, "train", *(words + resume if words[0][0] != "-" else resume + words))
    assert (place / "run" / "config.json").read_bytes() == before
    assert not (place / "run" / "run.lock").exists()


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        (lambda place: write_images(place / "pics", number=8, seed=9, replace=True), "data.images"),
        (lambda place: (place / "pics" / "00003.png").unlink(), "data.images"),
        (lambda place: noisy(place / "captioner" / "model.safetensors"), "policy"),
        (lambda place: noisy(place / "judge" / "model.safetensors"), "judge.model"),
        (lambda place: noisy(place / "clip" / "model.safetensors"), "held_out.clip"),
        (lambda place: (place / "mine.py").write_text(REWARD.replace("10", "20")), "custom_rewards 1"),
    ],
)
def test_other_weights_or_data_are_refused(
    place: Path, change: Callable[[Path], object], setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(place)
    told = refused(capsys, "train", "--resume", "run", "--steps", "3")
    assert told.startswith(f"sightloop: {setting} of run is another than when the run started")
    assert "--allow-changed-inputs" in told and newest(place / "run")[0] == 2


def test_a_reward_of_a_module_is_another_with_another_source(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = place / "judges_of_ours"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "short.py").write_text(REWARD)
    main([*TRAIN, "--custom-rewards", "judges_of_ours.short:short=0.1", "--steps", "1", "--run", "module"])
    main(["train", "--resume", "module", "--steps", "2"])
    (package / "short.py").write_text(REWARD.replace("10", "20"))
    told = refused(capsys, "train", "--resume", "module", "--steps", "3")
    assert told.startswith("sightloop: custom_rewards 1 of module is another than when the run started")


def test_other_weights_are_refused_by_export_and_evaluation_unless_they_are_asked_for(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A table of the captioner that nothing is trained on.
    noisy(place / "captioner" / "model.safetensors")
    for words in (["export", "run", "--output", "out"], ["caption", "pics/00000.png", "--model", "run"]):
        assert "policy of run is another than" in refused(capsys, *words)
    assert "policy of run is" in refused(
        capsys, "evaluate", "clip-recall", "--model", "run", "--images", "held"
    )
    main(["caption", "pics/00000.png", "--model", "run", "--allow-changed-inputs"])


def test_what_was_asked_for_once_is_not_asked_again(place: Path) -> None:
    write_images(place / "pics", number=8, seed=9, replace=True)
    main(["train", "--resume", "run", "--steps", "3", "--allow-changed-inputs"])
    main(["train", "--resume", "run", "--steps", "4"])
    assert newest(place / "run")[0] == 4


def test_a_run_goes_on_from_wherever_one_stands(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["train", "--resume", "place/run", "--steps", "3"])
    main(["caption", "place/pics/00000.png", "--model", "place/run"])
    assert newest(place / "run")[0] == 3


def test_moved_files_are_found_where_they_are_said_to_be(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = place.rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path)
    told = refused(capsys, "train", "--resume", "there/run", "--steps", "3")
    assert "which is not there; say where it is now with --relocate" in told and str(place) in told
    move = ["--relocate", f"{place}={there}"]
    main(["caption", "there/pics/00000.png", "--model", "there/run", *move])
    main(["train", "--resume", "there/run", "--steps", "3", *move])
    main(["train", "--resume", "there/run", "--steps", "4"])
    assert newest(there / "run")[0] == 4
    assert "say from where to where" in refused(capsys, "export", "there/run", "--relocate", "x")


def test_a_run_of_the_last_release_goes_on_and_is_read(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "run" / "identity.json").unlink()
    for saved in finished_checkpoints(place / "run" / "checkpoints"):
        (saved.folder / "manifest.json").unlink()
        state = json.loads((saved.folder / "state.json").read_text())
        del state["manifest"]
        (saved.folder / "state.json").write_text(json.dumps(state))
    main(["report", "run"])
    main(["caption", "pics/00000.png", "--model", "run"])
    main(["train", "--resume", "run", "--steps", "3"])
    assert newest(place / "run")[0] == 3 and (place / "run" / "identity.json").is_file()


def test_a_run_in_use_is_read_and_not_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with another_process(place / "run") as number:
        before = newest(place / "run")
        for words in (["train", "--resume", "run"], [*TRAIN, "--run", "run", "--overwrite"]):
            assert f"process {number} on" in refused(capsys, *words)
        main(["report", "run"])
        main(["caption", "pics/00000.png", "--model", "run"])
        main(["export", "run", "--output", "out"])
        assert newest(place / "run") == before and (place / "out").is_dir()


def test_a_damaged_checkpoint_is_named_by_who_reads_it(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = place / "run" / "checkpoints" / "step_000002" / "trainable.safetensors"
    noisy(weights)
    (place / "run" / "checkpoints" / "best").write_text("2")
    assert "step_000002/trainable.safetensors is not what was written" in refused(
        capsys, "caption", "pics/00000.png", "--model", "run"
    )
    main(["export", "run", "--output", "out", "--step", "last"])
    assert "the checkpoint before it is used, of step 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--judge", "clip"], "'clip' is a CLIP, not a BLIP-2 matcher"),
        (["--held-out.clip", "judge"], "'judge' is a BLIP-2 matcher, not a CLIP"),
        (["--custom-rewards", "bad.py:fails"], "reward 'bad.py:fails' failed on"),
        (["--custom-rewards", "bad.py:says_nan"], "reward 'bad.py:says_nan' says nan about pics/00000.png"),
        (["--track", "trackio"], "--track trackio"),
        (["--run", "mine.py"], "mine.py is a file"),
        (["--run", "mine.py/run"], "mine.py is a file"),
    ],
)
def test_what_is_cheap_to_look_at_is_looked_at_before_anything_is_loaded(
    place: Path,
    words: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (place / "bad.py").write_text(
        "def fails(completions):\n    raise RuntimeError('no')\n"
        "def says_nan(completions):\n    return [float('nan')] * len(completions)\n"
    )
    monkeypatch.setitem(__import__("sys").modules, "trackio", None)
    monkeypatch.setattr("sightloop.recipes.vlrm.build.load_trained_captioner", None)
    before = sorted(os.listdir(place))
    assert told in refused(capsys, *TRAIN, "--run", "new", *words)
    assert sorted(os.listdir(place)) == before


def test_a_disk_too_small_for_the_checkpoints_is_refused_and_nothing_stays(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(place)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=1000))
    before = sorted(os.listdir(place))
    assert "checkpoints take" in refused(capsys, *TRAIN, "--run", "new")
    assert "checkpoints take" in refused(capsys, *TRAIN, "--run", "run", "--overwrite")
    assert sorted(os.listdir(place)) == before and newest(place / "run")[0] == 2


def test_the_older_run_stays_in_its_place_until_all_is_loaded(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        assert sorted(os.listdir(place)) == before and newest(place / "run")[0] == 2
        raise KeyboardInterrupt

    before = sorted(os.listdir(place))
    monkeypatch.setattr("sightloop.recipes.vlrm.build.load_trained_captioner", killed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main([*TRAIN, "--run", "run", "--overwrite"])
    assert sorted(os.listdir(place)) == before


def test_models_that_draw_start_late_and_go_on_longer(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "unirl-sft", "--world-model", "janus", "--batch", "1", "--group", "1", "--steps", "1"]
    train += ["--no-end-to-end", "--joint.per-category", "0", "--custom-rewards", "mine.py:short=0.1"]
    main([*train, "--run", "drawn"])
    main(["train", "unirl-sft", "--resume", "drawn", "--steps", "2"])
    assert newest(place / "drawn")[0] == 2 and (place / "drawn" / "prompts.json").is_file()
    told = refused(capsys, "train", "--resume", "drawn", "--group", "2")
    assert "group is 2, and drawn was trained with 1: it is another experiment" in told
    (place / "bad.py").write_text("def nothing(completions):\n    return None\n")
    train[-1] = "bad.py:nothing"
    monkeypatch.setattr("sightloop.recipes.unirl.sft.load_policy", None)
    assert (
        "returned NoneType None" in refused(capsys, *train, "--run", "new") and not (place / "new").exists()
    )
