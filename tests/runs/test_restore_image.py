"""Runs of models that draw and answer, named where a model is named, and exported as models of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from image_runs import STARTS, made_run
from PIL import Image
from torch import Tensor

from experiments.world.unified_models import NUM_IMAGE_TOKENS, SIDE
from sightloop.cli import main
from sightloop.models.families import Parts
from sightloop.models.show_o.policy import ShowO
from sightloop.recipes.image_policies import load_image_policy
from sightloop.recipes.unirl.config import PolicySettings
from sightloop.runs.restore import before_training, open_generator, restore
from sightloop.types import Images, Prompt, Tokens, Turn

CPU = torch.device("cpu")
WITHOUT_SIGHTLOOP = """
import sys
sys.modules["sightloop"] = None
import torch
torch.manual_seed(0)
{card}
inputs = processor(text=prompt, return_tensors="pt")
with torch.no_grad():
    torch.save((inputs["input_ids"], model(**inputs).logits, image), {output!r})
"""


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Makes each run once."""
    made: dict[tuple[str, str], Path] = {}

    def run(family: str, trained: str) -> Path:
        if (family, trained) not in made:
            settings: Any = PolicySettings(trained=trained)  # pyright: ignore[reportArgumentType]
            folder = tmp_path_factory.mktemp("runs") / f"{family}-{trained}"
            made[family, trained] = made_run(folder, replace(STARTS[family], model=settings), steps=(2, 4))
        return made[family, trained]

    return run


def log_probs(policy: Any) -> list[Tensor]:
    """Of a drawing under its prompt, and of an answer about an image."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(512, (2, NUM_IMAGE_TOKENS), generator=generator)
    drawn = Tokens(ids=codes, mask=torch.ones_like(codes, dtype=torch.bool))
    if isinstance(policy, ShowO):
        drawn = replace(drawn, decode_step=torch.arange(NUM_IMAGE_TOKENS).expand(2, -1))
    pixels = torch.randint(256, (2, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    question = Prompt(texts=["how many circles are there?"] * 2, images=Images(pixels=pixels))
    prompt = Prompt(texts=["a photo of a red circle", "a photo of two squares"], wants="image")
    turns = [
        Turn(prompt=prompt, tokens=drawn),
        Turn(prompt=question, tokens=policy.encode(["two", "three red circles"])),
    ]
    with torch.no_grad():
        return [policy.score(turn).log_probs for turn in turns]


@pytest.mark.parametrize("family", ["show-o", "janus"])
@pytest.mark.parametrize("trained", ["lora", "full"])
def test_an_exported_run_scores_as_its_policy_does(
    run_of: Callable[[str, str], Path], family: str, trained: str, tmp_path: Path
) -> None:
    run, output = run_of(family, trained), tmp_path / "exported"
    main(["export", str(run), "--output", str(output), "--dtype", "float32", "--license", "mit"])

    tuned = log_probs(restore(run, "best", device=CPU).policy)
    exported = log_probs(load_image_policy(str(output), device=CPU))
    start = log_probs(before_training(run, device=CPU))
    for ours, theirs, before in zip(tuned, exported, start, strict=True):
        torch.testing.assert_close(theirs, ours, atol=2e-5, rtol=0)
        assert (ours - before).abs().max() > 1e-3, "the run changed nothing"
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "license: mit" in card
    assert "after 2 steps of UniRL" in card


def test_the_best_the_last_and_a_named_step_are_told_apart(run_of: Callable[[str, str], Path]) -> None:
    run = run_of("show-o", "lora")
    scores = {
        step: log_probs(restore(run, step, device=CPU).policy)[0] for step in ("best", "last", "2", "4")
    }
    assert torch.equal(scores["best"], scores["2"])
    assert torch.equal(scores["last"], scores["4"])
    assert not torch.allclose(scores["2"], scores["4"])


def test_an_exported_janus_draws_with_transformers_alone(
    run_of: Callable[[str, str], Path], tmp_path: Path
) -> None:
    run, output = run_of("janus", "lora"), tmp_path / "exported"
    main(["export", str(run), "--output", str(output), "--dtype", "float32"])
    card = (output / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("```")[0].replace('"FOLDER"', repr(str(output)))
    file = tmp_path / "found.pt"
    script = WITHOUT_SIGHTLOOP.format(card=code, output=str(file))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    ids, logits, picture = torch.load(file, weights_only=True)
    assert picture.shape[-3:] == (SIDE, SIDE, 3)
    policy = restore(run, "best", device=CPU).policy
    with torch.no_grad():
        own = policy.model(input_ids=ids).logits
    torch.testing.assert_close(logits, own, atol=2e-5, rtol=0)


def test_half_precision_keeps_the_figures_of_the_run_in_the_card(
    run_of: Callable[[str, str], Path], tmp_path: Path
) -> None:
    run = run_of("show-o", "lora")
    (run / "evaluations").mkdir(exist_ok=True)
    for step, drawn in ((0, 0.25), (2, 0.75)):
        record = {"metrics": {"drawn": drawn, "answered": 0.5}}
        (run / "evaluations" / f"joint_step_{step:06d}.json").write_text(json.dumps(record))
    main(["export", str(run), "--output", str(tmp_path / "half")])

    assert "| drawn right | 0.250 | 0.750 |" in (tmp_path / "half" / "README.md").read_text(encoding="utf-8")
    policy: Any = load_image_policy(str(tmp_path / "half"), device=CPU, dtype=torch.float16)
    assert policy.model.dtype == torch.float16


@pytest.mark.parametrize("family", ["show-o", "janus"])
def test_a_run_draws_and_answers_by_command(
    run_of: Callable[[str, str], Path], family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(run_of(family, "lora"))
    main(
        [
            "draw",
            "a photo of a red circle",
            "--model",
            run,
            "--per-prompt",
            "1",
            "--output",
            str(tmp_path / "a"),
        ]
    )
    main(
        [
            "draw",
            "a photo of a red circle",
            "--world-model",
            family,
            "--per-prompt",
            "1",
            "--output",
            str(tmp_path),
        ]
    )
    capsys.readouterr()
    ours, start = ((tmp_path / name).read_bytes() for name in ("a/0001.png", "0001.png"))
    assert ours != start
    main(["ask", str(tmp_path / "0001.png"), "what color is the circle?", "--model", run])
    assert capsys.readouterr().out.strip()


def test_what_a_run_is_not_is_said(
    run_of: Callable[[str, str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(run_of("show-o", "lora"))

    def refused(*words: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(list(words))
        return capsys.readouterr().err

    out = str(tmp_path / "out")
    assert "use --form folder" in refused("export", run, "--output", out, "--form", "tensors")
    assert "there are: best, last, 2, 4" in refused("export", run, "--output", out, "--step", "7")
    assert "is not empty" in refused("export", run, "--output", str(tmp_path.parent))
    picture = str(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(picture)
    assert "whose model draws and answers" in refused("caption", picture, "--model", run)
    assert "which knows its parts" in refused("draw", "a", "--model", run, "--tokenizer", out)
    assert "is a run; write its model with" in refused("train", "unirl-sft", "--model", run, "--run", out)


def test_a_run_of_a_captioner_cannot_draw(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "vlrm", "config": {}}), encoding="utf-8")
    with pytest.raises(ValueError, match="is a run of vlrm, whose model cannot draw"):
        open_generator(str(tmp_path), world_model="show-o", parts=Parts(), dtype="float32", device="cpu")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="names none of the recipes vlrm"):
        open_generator(str(tmp_path), world_model="show-o", parts=Parts(), dtype="float32", device="cpu")
