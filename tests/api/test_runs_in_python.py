"""A run, its model and its measures through `import sightloop`, with images and rewards of the program."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pandas
import pytest
from datasets import Dataset
from PIL import Image

import sightloop
from sightloop.world.bundled import WEIGHTS
from sightloop.world.image_folder import write_images

CAPTIONER, CLIP = str(WEIGHTS / "captioner"), str(WEIGHTS / "clip")
TINY: dict[str, Any] = {
    "preset": "shapes",
    "policy": CAPTIONER,
    "steps": 2,
    "batch": 4,
    "micro_batch": 4,
    "save_every": 1,
    "eval_every": 2,
    "sample_every": 1,
}


async def short(completions: list[str], **columns: Any) -> list[float | None]:
    """A reward in TRL's form, async, with nothing to say about some."""
    return [-float(len(text)) if number else None for number, text in enumerate(completions)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Image.Image]:
    """Eight images of the embedded world, in memory."""
    folder = tmp_path_factory.mktemp("scenes")
    write_images(folder, number=8, seed=0)
    return [Image.open(path).copy() for path in sorted(folder.glob("*.png"))]


@pytest.fixture(scope="module")
def run(images: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> sightloop.TrainingRun:
    """Two steps on them."""
    return sightloop.train(
        "vlrm",
        images=images,
        held_out=images[:4],
        held_out__clip=CLIP,
        rewards={
            "short": (short, 0.1),
            f"clip:{CLIP}": 0.5,
            "one": lambda images, prompts: [1.0] * len(images),
        },
        run=tmp_path_factory.mktemp("runs") / "run",
        **TINY,
    )


def test_figures_are_tables(run: sightloop.TrainingRun) -> None:
    trained = run.metrics()
    assert isinstance(trained, pandas.DataFrame) and trained["step"].tolist() == [1, 2]
    assert {"reward/short", "reward/clip", "reward/one"} <= set(trained.columns)
    assert "reward/similarity" not in trained.columns
    assert trained["reward/one"].tolist() == [1.0, 1.0]
    assert run.metrics("eval")["step"].tolist() == [0, 2]
    assert "held_out/recall@1" in run.changes()["metric"].tolist()
    with pytest.raises(ValueError, match="use 'train' or 'eval'"):
        run.metrics("all")


def test_captions_before_and_after_are_those_of_the_models(
    run: sightloop.TrainingRun, images: list[Image.Image]
) -> None:
    found = run.captions()
    assert list(found.columns) == ["image", "before", "after"] and len(found) == 4
    assert sightloop.load(run, step="start").caption(images[:4]) == found["before"].tolist()
    assert sightloop.load(run).caption(images[:4]) == found["after"].tolist()
    assert run.captions(images[:2])["after"].tolist() == found["after"].tolist()[:2]


def test_a_notebook_shows_the_run_with_its_images(run: sightloop.TrainingRun) -> None:
    page = run._repr_html_()
    assert run.verdict.split()[0] in page and page.count("data:image/png") == 4
    assert repr(run) == f"<sightloop.TrainingRun {run.folder}>"
    assert run.report().is_file()


def test_a_run_is_measured_in_one_call(run: sightloop.TrainingRun, images: list[Image.Image]) -> None:
    model = sightloop.load(run)
    one = sightloop.evaluate.clip_recall(model, images, clip=CLIP)
    # The run names its own CLIP; captions that are there are measured as the model's.
    assert sightloop.evaluate.clip_recall(run, images).metrics == one.metrics
    assert sightloop.evaluate.clip_recall(model.caption(images), images, clip=CLIP).metrics == one.metrics
    assert "length" in sightloop.evaluate.captions(model.caption(images)).metrics
    with pytest.raises(ValueError, match="no CLIP is named"):
        sightloop.evaluate.clip_recall(["a"], images[:1])


def test_it_goes_on_with_what_it_had_from_the_program(
    images: list[Image.Image], tmp_path: Path, run: sightloop.TrainingRun
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    first = sightloop.train(
        "vlrm", images=Dataset.from_dict({"image": images}), rewards=[short], run=tmp_path / "a", **TINY
    )
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    again = sightloop.train(resume=first, images=images, rewards={"short": short}, steps=3)
    assert again.metrics()["step"].tolist() == [1, 2, 3]
    # Nothing was evaluated: the last gallery's images are captioned.
    assert len(again.captions()) >= 4
    with pytest.raises(ValueError, match=r"batch is 8, and .* was trained with 4: it is another experiment"):
        sightloop.train(resume=first, batch=8)


def test_runs_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "vlrm").mkdir(parents=True)
    with pytest.raises(ValueError, match="photosss"):
        sightloop.train("vlrm", images="photosss", judge=str(WEIGHTS / "judge"), **TINY)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["vlrm"]


def test_a_model_that_draws_generates_and_answers() -> None:
    model = sightloop.load("")
    one, other = model.generate("a photo of a red circle", number=2)
    assert one.size == other.size and one.tobytes() != other.tobytes()
    assert model.generate("a photo of a red circle")[0].tobytes() == one.tobytes()
    answers = model.answer(one, ["What color is the object?", "How many objects are there?"])
    assert len(answers) == 2 and model.answer(one, "What color is the object?") == answers[0]
    assert model.can_generate and not model.can_caption
    with pytest.raises(ValueError, match="ask it with answer"):
        model.caption([one])
    with pytest.raises(ValueError, match="drawing has no setting 'steps'; it has guidance, rounds"):
        model.generate("a photo of a red circle", steps=3)


def test_a_captioner_captions_one_image_or_a_folder(images: list[Image.Image], tmp_path: Path) -> None:
    images[0].save(tmp_path / "one.png")
    model = sightloop.load(CAPTIONER)
    assert model.caption(images[0]) == model.caption(tmp_path) == model.caption([tmp_path / "one.png"])
    assert isinstance(model.answer(images[0], "a"), str)
    (caption,) = model.caption(images[0])
    assert 0 > model.score(images[0], caption) > model.score(images[0], "a small red red red cross")
    with pytest.raises(ValueError, match="it cannot draw"):
        model.generate("a photo of a red circle")
    with pytest.raises(ValueError, match="captions have no setting 'temperature'"):
        model.caption(images, temperature=2)
