"""A captioner of any family through the command line: trained, exported, and read without sightloop."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from models.tiny_captioners import SIDE, idefics3, llava
from PIL import Image

from sightloop.cli import main
from sightloop.models.captioners.generic import GenericCaptioner
from sightloop.runs.restore import restore
from sightloop.types import Images
from sightloop.world.bundled import WEIGHTS

FAMILIES: dict[str, Callable[[Path], Path]] = {"llava": llava, "idefics3": idefics3}
WITHOUT_SIGHTLOOP = """
import sys
sys.modules["sightloop"] = None
import torch
from PIL import Image
image = Image.open({image!r})
{card}
with torch.no_grad():
    torch.save(model(**inputs).logits, {logits!r})
"""


def pictures(folder: Path) -> Path:
    """Four noisy squares as PNG files."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        pixels = rng.integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def trained(base: Path, images: Path, run: Path) -> Path:
    """Two steps of the recipe over the model in `base`."""
    words = ["--model", base, "--images", images, "--judge", WEIGHTS / "judge", "--run", run]
    words += ["--batch", 4, "--steps", 2, "--save-every", 2, "--sample-every", 2, "--learning-rate", 0.05]
    words += ["--held-out.images", images, "--held-out.clip", WEIGHTS / "clip", "--eval-every", 2]
    words += ["--held-out.max-tokens", 6, "--draw.max-tokens", 8, "--draw.prompt", "describe"]
    words += ["--captioner.lora-targets", "q_proj", "down_proj", "--captioner.lora-rank", 3]
    words += ["--captioner.lora-alpha", 7.5, "--warmup-steps", 0, "--critic.widths", 1]
    main(["train", "vlrm", "--preset", "shapes", *map(str, words)])
    return run


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_writes_the_captions_that_sightloop_writes(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = pictures(tmp_path / "images")
    run = trained(FAMILIES[family](tmp_path / "base"), images, tmp_path / "run")
    exported = tmp_path / "exported"
    main(["export", str(run), "--output", str(exported), "--license", "apache-2.0"])
    capsys.readouterr()
    # A run is asked as it was trained.
    main(["caption", str(images / "0.png"), "--model", str(run)])
    ours = capsys.readouterr().out.strip().partition("\t")[2]

    assert {path.name for path in exported.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert "| held-out figure | before | after | change, 95% interval |" in card
    assert re.search(r"\| recall@1 \| [\d.]+ \| [\d.]+ \| \[[+-][\d.]+, [+-][\d.]+\] \|", card)
    assert re.search(r"Protocol of the evaluation: `\w+`", card)
    assert "after 2 steps" in card
    code = card.split("```python\n")[1].split("```")[0].replace('"FOLDER"', repr(str(exported)))
    logits = tmp_path / "logits.pt"
    script = WITHOUT_SIGHTLOOP.format(image=str(images / "0.png"), card=code, logits=str(logits))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ours

    # What was exported is read back, too, with the model that it belongs to.
    capsys.readouterr()
    greedy = ["--beams", "1", "--no-repeat-ngram", "0", "--min-tokens", "1", "--max-tokens", "6"]
    main(["caption", str(images / "0.png"), "--model", str(exported), "--prompt", "describe", *greedy])
    assert capsys.readouterr().out.strip().partition("\t")[2] == ours

    merged = tmp_path / "merged"
    main(["export", str(run), "--output", str(merged), "--form", "merged", "--dtype", "float32"])
    capsys.readouterr()
    main(["caption", str(images / "0.png"), "--model", str(merged), "--prompt", "describe", *greedy])
    assert capsys.readouterr().out.strip().partition("\t")[2] == ours

    policy = restore(run, "best", device=torch.device("cpu")).policy
    assert isinstance(policy, GenericCaptioner)
    pixels = torch.from_numpy(np.array(Image.open(images / "0.png"))).permute(2, 0, 1)[None]
    inputs = policy._composed.reader.inputs(["describe"], Images(pixels=pixels).pictures())
    with torch.no_grad(), policy.adapters.switched(True):
        own = policy.model(**inputs).logits
        theirs = torch.load(logits, weights_only=True)
        torch.testing.assert_close(theirs, own, atol=1e-4, rtol=0)
        policy.adapters.active = False
        assert (policy.model(**inputs).logits - own).abs().max() > 0.01, "training changed nothing"


@pytest.mark.slow
def test_what_a_captioner_does_not_have_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = pictures(tmp_path / "images")
    run = trained(llava(tmp_path / "base"), images, tmp_path / "run")

    def refused(*words: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(list(words))
        assert stopped.value.code == 2
        # Before it, transformers shows its progress.
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("sightloop: ")
        return last

    exporting = ("export", str(run), "--output")
    assert "--form folder" in refused(*exporting, str(tmp_path / "x.pt"), "--form", "tensors")
    assert "is not empty" in refused(*exporting, str(images))
    assert "there are: best, last, 2" in refused(*exporting, str(tmp_path / "x"), "--step", "7")
    again = ("--model", str(run), "--images", str(images), "--run", str(tmp_path / "next"))
    assert "is a run" in refused("train", "vlrm", *again)
