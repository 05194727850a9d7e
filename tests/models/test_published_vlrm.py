"""Repositories as VLRM's authors laid theirs out, named as a model: whole, or by a file of tensors."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from models.tiny_captioners import llava
from PIL import Image
from test_convert import published
from tiny_blip2 import SIDE, model, save

from sightloop.cli import main
from sightloop.models.captioners.blip2 import Blip2Captioner
from sightloop.models.captioners.vlrm_checkpoint import export_tensors
from sightloop.models.named_models import model_config

VLRM, RS = "vlrm-blip2-opt-2.7b.pt", "vlrm-rs-blip2-opt-2.7b.pt"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The whole model in shards without the number of its image token, and the tensors of two runs."""
    folder = tmp_path / "repository"
    published(folder)
    for name, seed in ((VLRM, 3), (RS, 8)):
        export_tensors(trained(tmp_path, seed), folder / name)
    (folder / "README.md").write_text(f"---\nlicense: mit\nbase_model: {tmp_path / 'base'}\n---\n# VLRM\n")
    (folder / "runs").mkdir()
    return folder


def trained(place: Path, seed: int) -> Blip2Captioner:
    """A captioner of another run over the same frozen parts."""
    base = place / "base"
    if not base.exists():
        save(base, model(seed=3))
    captioner = Blip2Captioner.from_pretrained(base)
    other = model(seed=seed).state_dict()
    bridge = captioner.trainable_module()
    bridge.load_state_dict({name: other[name] for name in bridge.state_dict()})
    return captioner


def caption(name: str | Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says of a noisy image."""
    image = tmp_path / "image.png"
    pixels = np.random.default_rng(0).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(image)
    capsys.readouterr()
    main(["caption", str(image), "--model", str(name), "--max-tokens", "8", "--min-tokens", "8"])
    return capsys.readouterr().out.strip().partition("\t")[2]


def whole(place: Path, seed: int) -> Path:
    """The folder of a whole model with the tensors of that run, rounded as published."""
    captioner = trained(place, seed)
    for tensor in captioner.trainable_module().state_dict().values():
        tensor.copy_(tensor.half())
    return save(place / f"whole_{seed}", captioner.model)


def test_a_repository_is_a_model_and_so_is_each_file_of_tensors_in_it(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (caption(whole(tmp_path, seed), tmp_path, capsys) for seed in (3, 8))
    assert first and first != second
    assert caption(repository, tmp_path, capsys) == caption(repository / VLRM, tmp_path, capsys) == first
    assert caption(repository / RS, tmp_path, capsys) == second
    # A single file, as it is downloaded; its card says over which model.
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(repository / RS, alone)
    shutil.copy(repository / "README.md", alone)
    assert caption(alone, tmp_path, capsys) == second
    assert model_config(str(alone)).model_type == "blip-2"


def test_a_file_of_a_repository_on_the_hub_is_fetched(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    at = tmp_path / "hub" / "models--tiny--vlrm"
    snapshot = at / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (at / "refs").mkdir()
    (at / "refs" / "main").write_text("0" * 40)
    for name in (RS, "README.md"):
        shutil.copy(repository / name, snapshot)
    assert caption(f"tiny/vlrm/{RS}", tmp_path, capsys) == caption(whole(tmp_path, 8), tmp_path, capsys)
    with pytest.raises(SystemExit):
        main(["caption", str(tmp_path / "image.png"), "--model", f"tiny/other/{RS}"])
    assert "hf download tiny/other" in capsys.readouterr().err


def test_what_cannot_be_meant_is_named(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = tmp_path / "both"
    both.mkdir()
    for name in (VLRM, RS):
        shutil.copy(repository / name, both)
    with pytest.raises(SystemExit):
        caption(both, tmp_path, capsys)
    assert f"holds several files of trained tensors ({VLRM}, {RS}); name one" in capsys.readouterr().err
    # Another model beside it, which has no Q-Former.
    other = llava(tmp_path / "llava")
    shutil.copy(repository / RS, other)
    with pytest.raises(SystemExit):
        caption(other / RS, tmp_path, capsys)
    assert "has none; name its BLIP-2 as base_model in" in capsys.readouterr().err
