"""Run folders are replaced last and given back: through the command line, as users start runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from sightloop.cli import main
from sightloop.storage.files import write_run_json
from sightloop.training import run_folder
from sightloop.world.bundled import WEIGHTS
from sightloop.world.image_folder import write_images

CAPTIONER, JUDGE = str(WEIGHTS / "captioner"), str(WEIGHTS / "judge")
START = ["train", "vlrm", "--batch", "4", "--steps", "1", "--draw.max-tokens", "4"]
START += ["--held-out.max-tokens", "4", "--held-out.limit", "4"]


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of eight training images."""
    monkeypatch.setattr("sightloop.recipes.vlrm.build.NUM_SCENES", 8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    run = tmp_path_factory.mktemp("made") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sightloop.recipes.vlrm.build.NUM_SCENES", 8)
        main([*START, "--run", str(run)])
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "runs" / "mine"))


def everything(folder: Path) -> dict[str, bytes]:
    """All files below a folder, with their contents."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The line that a failing command says."""
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sightloop: ")]
    return line


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--model", "nosuch/model", "--preset", "shapes"], "neither a folder nor a model"),
        (["--judge", "/nowhere"], "neither a folder nor a model"),
        (["--custom-rewards", "mine.py:missing"], "mine.py"),
        (["--held-out.images", "photosss/"], "no images found"),
    ],
)
def test_a_mistake_costs_neither_the_older_run_nor_the_place_of_the_next(
    run: Path, more: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = everything(run)
    assert told in refused(capsys, *START, "--run", str(run), "--overwrite", *more)
    assert everything(run) == before
    assert told in refused(capsys, *START, "--run", str(run.parent / "another"), *more)
    assert [path.name for path in run.parent.iterdir()] == ["mine"]


def test_the_older_run_goes_when_the_first_checkpoint_is_there(run: Path) -> None:
    shutil.rmtree(run / "images")
    (run / "alarms.jsonl").write_text("")
    main([*START, "--run", str(run), "--overwrite", "--seed", "1"])
    assert [path.name for path in run.parent.iterdir()] == ["mine"]
    assert json.loads((run / "config.json").read_text())["config"]["schedule"]["seed"] == 1
    assert "replaces" not in json.loads((run / "environment.json").read_text())
    assert (run / "checkpoints" / "step_000001").is_dir() and not (run / "alarms.jsonl").exists()


def test_other_held_out_images_replace_the_older_ones(run: Path) -> None:
    words = [*START[:-1], "3", "--run", str(run), "--overwrite"]
    main(words)
    assert len(list((run / "pictures" / "held_out").glob("*.png"))) == 3
    assert len(list((run / "pictures" / "train").glob("*.png"))) == 8


@pytest.mark.parametrize(
    "strange",
    [
        "thesis.txt",
        "samples/thesis.txt",
        "checkpoints/step_000001/notes.md",
        "model.safetensors",
        ".git/HEAD",
    ],
)
def test_a_folder_with_anything_else_in_it_is_no_run(
    run: Path, strange: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / strange).parent.mkdir(parents=True, exist_ok=True)
    (run / strange).write_text("mine")
    before = everything(run)
    told = refused(capsys, *START, "--run", str(run), "--overwrite")
    assert "--overwrite only replaces runs" in told and strange in told
    assert everything(run) == before


@pytest.mark.parametrize("config", ["{}", "[]", '{"model_type": "opt"}', "{", '{"recipe": 1, "config": {}}'])
def test_a_models_folder_is_no_run(tmp_path: Path, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(config)
    told = refused(capsys, *START, "--run", str(tmp_path), "--overwrite")
    assert "--overwrite only replaces runs" in told
    told = refused(capsys, "demo", "vlrm", "--run", str(tmp_path))
    assert "is there already, and a demonstration replaces nothing; name another --run" in told
    assert everything(tmp_path) == {"config.json": config.encode()}


def test_a_start_that_was_killed_is_undone_by_the_next(run: Path) -> None:
    before = everything(run)
    run_folder.reserve(run, recipe="vlrm", config={}, environment={}, overwrite=True)
    assert len(list(run.parent.iterdir())) == 2
    run_folder.reserve(run, recipe="vlrm", config={}, environment={}, overwrite=True)
    with pytest.raises(KeyboardInterrupt), run_folder.given_back_if_it_fails(run):
        raise KeyboardInterrupt
    assert everything(run) == before and len(list(run.parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--resume"], "batch is 5, and"), (["vlrm", "--run"], "is not empty; go on with --resume")],
)
def test_a_start_that_was_killed_between_two_renames_is_undone(
    words: list[str], told: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, real = everything(run), os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(target) == run:
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)

    child = os.fork()
    if child == 0:
        os.replace = replace
        run_folder.reserve(run, recipe="vlrm", config={}, environment={}, overwrite=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not run.exists()

    with pytest.raises(SystemExit):
        main(["train", *words, str(run), "--batch", "5"])
    said = capsys.readouterr().err
    assert f"a start was killed while it replaced {run}; the older run is back there" in said
    assert told in said and everything(run) == before
    assert [path.name for path in run.parent.iterdir()] == [run.name]


def test_a_link_to_a_run_stays_a_link(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = tmp_path / "link"
    link.symlink_to(run)
    before = everything(run)
    refused(capsys, *START, "--run", str(link), "--overwrite", "--judge", str(tmp_path / "nothing"))
    assert link.is_symlink() and everything(run) == before
    main([*START, "--run", str(link), "--overwrite"])
    assert link.is_symlink() and (run / "checkpoints" / "step_000001").is_dir()


def test_only_an_older_run_beside_it_is_ever_removed(run: Path) -> None:
    other = Path(shutil.copytree(run, run.parent / "other"))
    for name in ("other", "../runs/other", "mine.old-1/../other"):
        known = json.loads((run / "environment.json").read_text())
        write_run_json(run / "environment.json", {**known, "replaces": name})
        run_folder.remove_replaced(run)
        assert other.is_dir()


def test_a_run_that_fails_before_its_first_checkpoint_saves_what_it_learned_and_then_replaces_the_older(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = run.parent / "mine.py"
    mine.write_text(
        "calls = []\n"
        "def sometimes(images, completions):\n"
        "    calls.append(1)\n"
        "    if len(calls) > 2: raise RuntimeError('enough')\n"
        "    return [0.0] * len(completions)\n"
    )
    words = [*START, "--run", str(run), "--overwrite", "--custom-rewards", f"{mine}:sometimes"]
    told = refused(capsys, *words, "--steps", "2", "--save-every", "2")
    assert "enough" in told
    assert "step 1 is saved" in told
    assert (run / "checkpoints" / "step_000001" / "manifest.json").is_file()
    assert '"kind": "train"' in (run / "metrics.jsonl").read_text()
    assert not list(run.parent.glob("mine.old-*"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["vlrm", "--images", "photosss/", "--model", CAPTIONER, "--judge", JUDGE], "'photosss/'"),
        (["vlrm", "--held-out.images", "photosss/"], "'photosss/'"),
        (["unirl-grpo", "--model", "nosuch/"], "nosuch is not a folder"),
        (["unirl-grpo", "--quizzes.file", "nosuch.jsonl"], "quizzes.file is 'nosuch.jsonl', which does not"),
        (["unirl-sft", "--joint.fixed", "nosuch/"], "joint.fixed is 'nosuch/', which does not"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_loaded(
    tmp_path: Path,
    words: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(
        "sightloop.recipes.vlrm.build.load_trained_captioner", lambda *_: loaded.append("policy")
    )
    monkeypatch.setattr("sightloop.recipes.unirl.grpo.rewards_of", lambda *_, **__: loaded.append("judges"))
    monkeypatch.setattr("sightloop.recipes.unirl.sft.rewards_of", lambda *_, **__: loaded.append("judges"))
    preset = ["--preset", "shapes"] if words[0] == "vlrm" else []
    assert told in refused(capsys, "train", *words, *preset, "--run", str(tmp_path / "run"))
    assert loaded == [] and list(tmp_path.iterdir()) == []


def test_a_run_without_an_evaluation_says_what_one_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = write_images(tmp_path / "pictures", number=8, seed=0)
    words = ["--images", str(pictures), "--judge", JUDGE, "--run", str(tmp_path / "run")]
    main([*START[:-4], *words])
    told = capsys.readouterr()
    assert "nothing is evaluated in this run; name images with --held-out.images" in told.out + told.err
